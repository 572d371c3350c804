"""Measure the accuracy on training batches, as HRNet's training prints it (and DITN's Figure 9 plots it)."""

from __future__ import annotations

import torch
from torch import Tensor

#: Share of a tenth of the map's size below which a joint is right.
_THRESHOLD = 0.5


def count_right(heatmaps: Tensor, targets: Tensor) -> Tensor:
    """Count the joints whose maximum is near the target's: PCK on the maps themselves, without a decoding.

    Source: HRNet's ``lib/core/evaluate.py``, ``accuracy``. A distance is measured in tenths of the map's size, with
    HRNet's exchange of the sides: x is divided by the height, y by the width. A joint is counted if the maximum of its
    target is beyond 1 pixel on both axes, so an unlabelled joint, whose target is zero, is not.

    Args:
        heatmaps, targets: (N, J, h, w) float.

    Returns:
        (2, J) float64: how many of each joint are right, and how many are counted.
    """
    height, width = heatmaps.shape[2:]
    tenths = torch.tensor([height / 10, width / 10], dtype=torch.float64, device=heatmaps.device)
    found, wanted = _maxima(heatmaps), _maxima(targets)
    counted = (wanted > 1).all(dim=2)
    right = torch.linalg.vector_norm(found / tenths - wanted / tenths, dim=2) < _THRESHOLD
    return torch.stack([(right & counted).sum(dim=0), counted.sum(dim=0)]).double()


def mean_accuracy(counts: Tensor) -> tuple[float, int]:
    """Return the mean share of right joints, in 0..1, over the joints that occur, and the number of those joints.

    ``counts`` is from :func:`count_right`, of one batch. HRNet weighs the batches of an epoch by that number.
    """
    right, counted = counts
    occurs = counted > 0
    joints = int(occurs.sum())
    return (float((right[occurs] / counted[occurs]).mean()), joints) if joints else (0.0, 0)


def _maxima(maps: Tensor) -> Tensor:
    """Return (N, J, 2) float64 x, y of the first maximum in row-major order; (0, 0) where it is not positive."""
    score, index = maps.flatten(2).max(dim=2)
    width = maps.shape[3]
    return torch.stack([index % width, index // width], dim=2).double() * (score > 0)[..., None]
