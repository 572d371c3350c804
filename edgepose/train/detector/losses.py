"""The detector's losses; results are scalars."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .model import STRIDE, Prediction

#: Weight of the box loss beside the heat-map's (TTFNet).
BOX_WEIGHT = 5.0


def heat_loss(logits: Tensor, heat: Tensor, counts: Tensor) -> Tensor:
    """Focal loss on the heat-map, divided by the number of persons (CenterNet equation 1, alpha 2, beta 4).

    Args:
        logits: (N, 1, h, w).
        heat: (N, h, w) targets in 0..1; a person's centre is exactly 1.
        counts: (N, h, w), 0 where a cell is not judged.
    """
    logits = logits[:, 0]
    p, log_p, log_q = logits.sigmoid(), F.logsigmoid(logits), F.logsigmoid(-logits)
    centre = heat == 1
    loss = torch.where(centre, -((1 - p) ** 2) * log_p, -((1 - heat) ** 4) * p**2 * log_q)
    return (loss * counts).sum() / centre.sum().clamp(min=1)


def box_loss(sides: Tensor, boxes: Tensor, weights: Tensor) -> Tensor:
    """1 - GIoU of the boxes that the cells say (Rezatofighi et al., CVPR 2019), a weighted mean over the cells.

    Args:
        sides: (N, 4, h, w) as in :class:`Prediction`.
        boxes: (N, 4, h, w) xyxy targets in input pixels.
        weights: (N, h, w), 0 for a cell that should know no box.
    """
    chosen = weights > 0
    got = sides_to_boxes(sides).permute(0, 2, 3, 1)[chosen]
    want, weights = boxes.permute(0, 2, 3, 1)[chosen], weights[chosen]
    return ((1 - giou(got, want)) * weights).sum() / weights.sum().clamp(min=1e-6)


def detector_loss(predicted: Prediction, heat: Tensor, counts: Tensor, boxes: Tensor, weights: Tensor) -> Tensor:
    """:func:`heat_loss` plus :data:`BOX_WEIGHT` times :func:`box_loss` (TTFNet equation 8)."""
    return heat_loss(predicted.heat, heat, counts) + BOX_WEIGHT * box_loss(predicted.sides, boxes, weights)


def sides_to_boxes(sides: Tensor) -> Tensor:
    """Distances (N, 4, h, w) from the cells' centres to boxes (N, 4, h, w) xyxy, both in input pixels."""
    height, width = sides.shape[2:]
    y = ((torch.arange(height, device=sides.device) + 0.5) * STRIDE)[:, None].expand(height, width)
    x = ((torch.arange(width, device=sides.device) + 0.5) * STRIDE)[None].expand(height, width)
    left, top, right, bottom = sides.unbind(1)
    return torch.stack([x - left, y - top, x + right, y + bottom], dim=1)


def giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised intersection over union of boxes (P, 4) with boxes (P, 4), xyxy, pair by pair: (P,) in -1..1."""
    low, high = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    shared = (high - low).clamp(min=0).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - shared
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(1)
    return shared / union.clamp(min=1e-6) - (hull - union) / hull.clamp(min=1e-6)
