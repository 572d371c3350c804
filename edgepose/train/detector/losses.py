"""The detector's losses; results are scalars."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .model import STRIDES, Prediction

#: Weight of the box loss beside the heat-map's (TTFNet).
BOX_WEIGHT = 5.0


def heat_loss(logits: Tensor, heat: Tensor, counts: Tensor) -> Tensor:
    """Focal loss on the heat, divided by the number of persons (CenterNet equation 1, alpha 2, beta 4).

    Args:
        logits: (N, cells).
        heat: (N, cells) targets in 0..1; a person's centre is exactly 1.
        counts: (N, cells), 0 where a cell is not judged.
    """
    p, log_p, log_q = logits.sigmoid(), F.logsigmoid(logits), F.logsigmoid(-logits)
    centre = heat == 1
    loss = torch.where(centre, -((1 - p) ** 2) * log_p, -((1 - heat) ** 4) * p**2 * log_q)
    return (loss * counts).sum() / centre.sum().clamp(min=1)


def box_loss(predicted: Tensor, boxes: Tensor, weights: Tensor) -> Tensor:
    """1 - GIoU of the boxes that the cells say (Rezatofighi et al., CVPR 2019), a weighted mean over the cells.

    Args:
        predicted, boxes: (N, cells, 4) xyxy in input pixels.
        weights: (N, cells), 0 for a cell that should know no box.
    """
    chosen = weights > 0
    weights = weights[chosen]
    return ((1 - giou(predicted[chosen], boxes[chosen])) * weights).sum() / weights.sum().clamp(min=1e-6)


def detector_loss(
    predictions: list[Prediction], heat: Tensor, counts: Tensor, boxes: Tensor, weights: Tensor
) -> Tensor:
    """:func:`heat_loss` plus :data:`BOX_WEIGHT` times :func:`box_loss` (TTFNet equation 8) over all grids' cells.

    The targets are those of :class:`~edgepose.train.detector.targets.Targets`, of N pictures.
    """
    logits = torch.cat([p.heat.flatten(1) for p in predictions], dim=1)
    return heat_loss(logits, heat, counts) + BOX_WEIGHT * box_loss(all_boxes(predictions), boxes, weights)


def all_boxes(predictions: list[Prediction]) -> Tensor:
    """The boxes (N, cells, 4) that the cells of all grids say, in the order of the targets."""
    return torch.cat([sides_to_boxes(p.sides, s) for p, s in zip(predictions, STRIDES, strict=True)], dim=1)


def sides_to_boxes(sides: Tensor, stride: int) -> Tensor:
    """Distances (N, 4, h, w) from the centres of a grid's cells to boxes (N, h * w, 4) xyxy, both in input pixels."""
    height, width = sides.shape[2:]
    y = ((torch.arange(height, device=sides.device) + 0.5) * stride)[:, None].expand(height, width)
    x = ((torch.arange(width, device=sides.device) + 0.5) * stride)[None].expand(height, width)
    left, top, right, bottom = sides.unbind(1)
    return torch.stack([x - left, y - top, x + right, y + bottom], dim=-1).flatten(1, 2)


def giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised intersection over union of boxes (P, 4) with boxes (P, 4), xyxy, pair by pair: (P,) in -1..1."""
    low, high = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    shared = (high - low).clamp(min=0).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - shared
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(1)
    return shared / union.clamp(min=1e-6) - (hull - union) / hull.clamp(min=1e-6)
