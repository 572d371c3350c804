"""Compute losses on heat-maps, and each paper's full loss in one named function.

Predictions and targets are (N, C, h, w), results are scalars. A paper's loss takes (heads, targets, recipe) and returns
its weighted terms by name: the loss is their sum, or their dynamic average (:class:`DynamicWeights`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.errors import UsageError
from ..models.layers import Heads
from .recipes import Recipe

#: A target below this counts as background in the focal L2 loss.
FOREGROUND = 0.01

Terms = dict[str, Tensor]


class Targets(NamedTuple):
    """The wanted outputs of the heads.

    Attributes:
        joints: (N, J, h, w).
        weights: (N, J), 0 for an unlabelled joint.
        bones: (N, B, h, w).
        segmentation: (N, h, w).
    """

    joints: Tensor
    weights: Tensor
    bones: Tensor
    segmentation: Tensor


def joints_mse(predicted: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Compute half the mean squared error (HRNet's and SimpleBaseline's loss).

    A weight multiplies both maps, so it counts squared; unlabelled joints are counted in the mean, with error 0.
    """
    return 0.5 * ((predicted - target) ** 2 * weights[:, :, None, None] ** 2).mean()


def joints_ohkm(predicted: Tensor, target: Tensor, weights: Tensor, hardest: int = 8) -> Tensor:
    """Compute the loss of online hard keypoint mining (CPN): per sample, the mean of its joints' ``hardest`` losses."""
    per_joint = 0.5 * ((predicted - target) ** 2).mean(dim=(2, 3)) * weights**2
    return per_joint.topk(hardest, dim=1).values.mean()


def focal_l2(
    predicted: Tensor, target: Tensor, weights: Tensor, gamma: float = 2.0, *, printed: bool = False
) -> Tensor:
    """Compute the focal L2 loss (DITN equations 6 and 7, after Improved-Body-Parts).

    Reading: the squared error is weighted by ``|1 - p|**gamma`` where the target is foreground and ``|p|**gamma``
    elsewhere. As printed, equation 6 lost a "1 -" before FAC and equation 7 takes the target for the prediction; that
    weights the easy background up, against the paper's text and the method it cites. The gradient flows through the
    factor. The mean is over N, J, h and w.

    Args:
        predicted, target: joint heat-maps, and their targets in 0..1.
        weights: (N, J), 0 for an unlabelled joint.
        gamma: focusing exponent.
        printed: the equations as printed: ``y**gamma`` on the foreground, ``|1 - p|**gamma`` elsewhere.
    """
    foreground = target >= FOREGROUND
    if printed:
        factor = torch.where(foreground, target, 1 - predicted)
    else:
        factor = torch.where(foreground, 1 - predicted, predicted)
    return ((predicted - target) ** 2 * factor.abs() ** gamma * weights[:, :, None, None]).mean()


def segmentation_bce(predicted: Tensor, target: Tensor) -> Tensor:
    """Compute SG-HRNet's binary cross-entropy (equation 6): the mean over pixels, maps and the batch.

    Reading: the equation swaps prediction and target; this is the usual form. ``predicted`` (N, maps, h, w) comes after
    the sigmoid; ``target`` (N, h, w) is the same for every map.
    """
    # In bf16 and fp16 a sigmoid may round to 0 or 1; F.binary_cross_entropy bounds the logarithm then.
    return F.binary_cross_entropy(predicted, target[:, None].expand_as(predicted))


def mse_loss(heads: Heads, targets: Targets, _: Recipe) -> Terms:
    """Compute the loss of HRNet, SimpleBaseline and HSR-MSNet."""
    return {"joints": joints_mse(heads.joints, targets.joints, targets.weights)}


def ohkm_loss(heads: Heads, targets: Targets, _: Recipe) -> Terms:
    """Compute the loss with online hard keypoint mining."""
    return {"joints": joints_ohkm(heads.joints, targets.joints, targets.weights)}


def ditn_loss(heads: Heads, targets: Targets, recipe: Recipe) -> Terms:
    """Compute DITN's loss (equation 10): focal L2 on the joints plus lambda x smooth L1 (beta 1) on the bones."""
    joints = focal_l2(heads.joints, targets.joints, targets.weights, recipe.gamma)
    return _with_bones(joints, heads, targets, recipe, F.smooth_l1_loss)


def ditn_printed_loss(heads: Heads, targets: Targets, recipe: Recipe) -> Terms:
    """Compute DITN's loss with equations 6 and 7 as printed."""
    joints = focal_l2(heads.joints, targets.joints, targets.weights, recipe.gamma, printed=True)
    return _with_bones(joints, heads, targets, recipe, F.smooth_l1_loss)


def ditn_mse_loss(heads: Heads, targets: Targets, recipe: Recipe) -> Terms:
    """Compute DITN's loss of Table 6, "MSE + MSE": focal L2 with gamma 0 is the plain mean squared error."""
    joints = focal_l2(heads.joints, targets.joints, targets.weights, gamma=0.0)
    return _with_bones(joints, heads, targets, recipe, F.mse_loss)


def ditn_focal_loss(heads: Heads, targets: Targets, recipe: Recipe) -> Terms:
    """Compute DITN's loss of Table 6, "Focal L2 + Focal L2"."""

    def focal_bones(predicted: Tensor, target: Tensor) -> Tensor:
        return focal_l2(predicted, target, torch.ones_like(target[:, :, 0, 0]), recipe.gamma)

    joints = focal_l2(heads.joints, targets.joints, targets.weights, recipe.gamma)
    return _with_bones(joints, heads, targets, recipe, focal_bones)


def _with_bones(
    joints: Tensor, heads: Heads, targets: Targets, recipe: Recipe, bone_loss: Callable[[Tensor, Tensor], Tensor]
) -> Terms:
    if heads.bones is None:  # DITN without multi-task learning
        return {"joints": joints}
    return {"joints": joints, "bones": recipe.bone_weight * bone_loss(heads.bones, targets.bones)}


def sg_hrnet_loss(heads: Heads, targets: Targets, recipe: Recipe) -> Terms:
    """Compute SG-HRNet's two terms (equations 5 to 7): the joints' error (:func:`joints_mse`) and the segmentation.

    Reading: both are means over pixels. Only so does the weight of 0.002 bring the two "to the same magnitude", as the
    paper says; with the printed sums (:func:`sg_hrnet_sums_loss`) the joints weigh 49 times as much at the start.

    Raises:
        UsageError: the network has no segmentation maps.
    """
    if heads.segmentation is None:
        raise UsageError(
            f"loss {recipe.loss} needs the segmentation maps of SG-HRNet, which {recipe.model} lacks: --set loss=mse"
        )
    segmentation = segmentation_bce(heads.segmentation, targets.segmentation)
    return {
        "joints": joints_mse(heads.joints, targets.joints, targets.weights),
        "segmentation": recipe.segmentation_weight * segmentation,
    }


def sg_hrnet_sums_loss(heads: Heads, targets: Targets, recipe: Recipe) -> Terms:
    """Compute SG-HRNet's two terms as printed: squared errors summed over joints and pixels, entropies over pixels.

    Both are averaged over the batch, the entropies over the maps, too; unlabelled joints do not count.
    """
    means = sg_hrnet_loss(heads, targets, recipe)
    _, joints, height, width = heads.joints.shape
    # joints_mse is half the mean over joints and pixels.
    return {
        "joints": 2 * joints * height * width * means["joints"],
        "segmentation": height * width * means["segmentation"],
    }


LOSS_FUNCTIONS: dict[str, Callable[[Heads, Targets, Recipe], Terms]] = {
    "mse": mse_loss,
    "ohkm": ohkm_loss,
    "ditn": ditn_loss,
    "ditn_printed": ditn_printed_loss,
    "ditn_mse": ditn_mse_loss,
    "ditn_focal": ditn_focal_loss,
    "sg_hrnet": sg_hrnet_loss,
    "sg_hrnet_sums": sg_hrnet_sums_loss,
}


class DynamicWeights:
    """Dynamic weight averaging (SG-HRNet equations 8 to 10, temperature 1), per step.

    Term k weighs ``K exp(r_k) / sum(exp(r))`` with ``r_k = L_k(t - 1) / L_k(t - 2)``: the slower a loss falls, the more
    it weighs. In the first two steps all terms weigh 1.

    >>> weights = DynamicWeights()
    >>> weights.record({"a": 2.0, "b": 1.0}), weights.record({"a": 1.0, "b": 1.0})
    (None, None)
    >>> {name: round(weight, 3) for name, weight in weights.of(("a", "b")).items()}
    {'a': 0.755, 'b': 1.245}
    """

    def __init__(self) -> None:
        #: The losses of the last two steps, the older one first.
        self.history: list[dict[str, float]] = []

    def of(self, names: tuple[str, ...]) -> dict[str, float]:
        """Return the weight of every term at the next step."""
        if len(self.history) < 2:
            return dict.fromkeys(names, 1.0)
        before, last = self.history
        ratios = torch.tensor([last[name] / max(before[name], 1e-12) for name in names], dtype=torch.float64)
        return dict(zip(names, (len(names) * torch.softmax(ratios, 0)).tolist(), strict=True))

    def record(self, losses: dict[str, float]) -> None:
        """Add the losses of a step, averaged over all processes, to the history."""
        self.history = [*self.history[-1:], losses]
