"""Compute the detector's losses; results are scalars."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tools.person_lite.network import Prediction, all_boxes

#: Weight of the box loss beside the score's (GFL).
BOX_WEIGHT = 2.0


def score_loss(logits: Tensor, quality: Tensor, counts: Tensor) -> Tensor:
    """Compute the quality focal loss (Li et al., "Generalized Focal Loss", NeurIPS 2020, equation 1, beta 2).

    The wanted score of a cell is the IoU that its predicted box has with the person's, so that the best of a person's
    cells wins. The sum is divided by the number of cells that have a person.

    Args:
        logits: (N, cells).
        quality: (N, cells) wanted scores in 0..1; 0 for a cell without a person.
        counts: (N, cells), 0 where a cell's score is not trained, else 1.
    """
    loss = F.binary_cross_entropy_with_logits(logits, quality, reduction="none")
    return (loss * (logits.sigmoid() - quality) ** 2 * counts).sum() / (quality > 0).sum().clamp(min=1)


def detector_loss(predictions: list[Prediction], boxes: Tensor, weights: Tensor, counts: Tensor) -> Tensor:
    """Add to :func:`score_loss` :data:`BOX_WEIGHT` times the weighted mean of 1 - GIoU (Rezatofighi et al., CVPR 2019).

    The targets are those of :class:`~tools.person_lite.targets.Targets`, of N pictures.
    """
    logits = torch.cat([p.scores.flatten(1) for p in predictions], dim=1)
    assigned = weights > 0
    iou, giou = overlaps(all_boxes(predictions)[assigned], boxes[assigned])
    quality = torch.zeros_like(logits)
    quality[assigned] = iou.detach().clamp(min=1e-3)  # above 0 even for a box that is all wrong: the cell has a person
    box_loss = ((1 - giou) * weights[assigned]).sum() / weights.sum().clamp(min=1e-6)
    return score_loss(logits, quality, counts) + BOX_WEIGHT * box_loss


def overlaps(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Compute IoU in 0..1 and generalised IoU in -1..1 of boxes (P, 4) with boxes (P, 4), xyxy, in pairs: each (P,)."""
    low, high = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    shared = (high - low).clamp(min=0).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - shared
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(1)
    iou = shared / union.clamp(min=1e-6)
    return iou, iou - (hull - union) / hull.clamp(min=1e-6)
