"""Losses on heat-maps. Predictions and targets are (N, C, h, w); results are scalars."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .models import Heads

#: A target below this counts as background in the focal L2 loss.
FOREGROUND = 0.01


def focal_l2(predicted: Tensor, target: Tensor, weights: Tensor, gamma: float = 2.0) -> Tensor:
    """Focal L2 loss (DITN equations 6 and 7, after Improved-Body-Parts).

    Reading: the squared error is weighted by ``|1 - p|**gamma`` where the target is foreground and ``|p|**gamma``
    elsewhere. As printed, equation 6 lost a "1 -" before FAC and equation 7 takes the target for the prediction; that
    would weight the easy background up, against the paper's text and the method it cites. The gradient flows through
    the factor. The mean is over N, J, h and w.

    Args:
        predicted: joint heat-maps.
        target: joint targets in 0..1.
        weights: (N, J), 0 for an unlabelled joint.
        gamma: focusing exponent.
    """
    factor = torch.where(target >= FOREGROUND, 1 - predicted, predicted).abs() ** gamma
    return ((predicted - target) ** 2 * factor * weights[:, :, None, None]).mean()


def ditn_loss(
    heads: Heads, joints: Tensor, weights: Tensor, bones: Tensor, *, gamma: float = 2.0, bone_weight: float = 0.1
) -> Tensor:
    """DITN's loss (equation 10): focal L2 on the joints plus ``bone_weight`` x smooth L1 (beta 1) on the bones."""
    loss = focal_l2(heads.joints.float(), joints, weights, gamma)
    if heads.bones is not None:
        loss = loss + bone_weight * F.smooth_l1_loss(heads.bones.float(), bones)
    return loss
