"""The detector's losses; results are scalars."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from edgepose.models.person_lite import Prediction, all_boxes

#: Weight of the box loss beside the score's (GFL).
BOX_WEIGHT = 2.0


def score_loss(logits: Tensor, quality: Tensor, counts: Tensor) -> Tensor:
    """Quality focal loss (Li et al., "Generalized Focal Loss", NeurIPS 2020, equation 1, beta 2).

    A cell's score should be the IoU of the box that it says, so that the best of a person's cells wins. The sum is
    divided by the number of cells that speak for a person.

    Args:
        logits: (N, cells).
        quality: (N, cells) in 0..1; 0 for a cell that speaks for nobody.
        counts: (N, cells), 0 where a cell is not judged.
    """
    loss = F.binary_cross_entropy_with_logits(logits, quality, reduction="none")
    return (loss * (logits.sigmoid() - quality) ** 2 * counts).sum() / (quality > 0).sum().clamp(min=1)


def detector_loss(predictions: list[Prediction], boxes: Tensor, weights: Tensor, counts: Tensor) -> Tensor:
    """:func:`score_loss` plus :data:`BOX_WEIGHT` times 1 - GIoU (Rezatofighi et al., CVPR 2019), a weighted mean.

    The targets are those of :class:`~tools.person_lite.targets.Targets`, of N pictures.
    """
    logits = torch.cat([p.scores.flatten(1) for p in predictions], dim=1)
    said, speaks = all_boxes(predictions), weights > 0
    iou, giou = overlaps(said[speaks], boxes[speaks])
    quality = torch.zeros_like(logits)
    quality[speaks] = iou.detach().clamp(min=1e-3)  # even a cell that is all wrong speaks for somebody
    box_loss = ((1 - giou) * weights[speaks]).sum() / weights.sum().clamp(min=1e-6)
    return score_loss(logits, quality, counts) + BOX_WEIGHT * box_loss


def overlaps(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """IoU in 0..1 and generalised IoU in -1..1 of boxes (P, 4) with boxes (P, 4), xyxy, pair by pair: each (P,)."""
    low, high = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    shared = (high - low).clamp(min=0).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - shared
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(1)
    iou = shared / union.clamp(min=1e-6)
    return iou, iou - (hull - union) / hull.clamp(min=1e-6)
