"""Define the training set-ups: one frozen dataclass each, with the schedule that its paper prints.

All of them frame their samples as HRNet, SimpleBaseline and the code of HSR-MSNet's and DITN's authors do (see
:mod:`edgepose.train.augment`); ``rotation`` and ``scale`` are those codes' ``ROT_FACTOR`` and ``SCALE_FACTOR``, which
the papers print as ranges.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from ..core.errors import UsageError

LOSSES = ("mse", "ohkm", "ditn", "ditn_printed", "ditn_mse", "ditn_focal", "sg_hrnet", "sg_hrnet_sums")
_CHOICES = {
    "optimizer": ("adam", "adamw"),
    "schedule": ("steps", "cycle"),
    "precision": ("fp32", "bf16", "fp16"),
    "loss": LOSSES,
    "bone_target": ("perpendicular", "gaussian"),
}
#: Lowest and highest value per field.
_RANGES = {
    **dict.fromkeys(("epochs", "batch"), (1, float("inf"))),
    **dict.fromkeys(("weight_decay", "clip", "gamma", "bone_weight", "segmentation_weight"), (0, 1e6)),
    "lr": (1e-12, 1e30),
    "ema": (0, 0.999999),
    **dict.fromkeys(("sigma", "segmentation_radius"), (0.1, 1000)),
    "rotation": (0, 180),
    "scale": (0, 0.99),
    **dict.fromkeys(("half_body", "close_up", "colour"), (0, 1)),
    "seed": (0, 2**63),
}


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run.

    Attributes:
        model: name for :func:`edgepose.models.build_model`.
        skeleton: skeleton id.
        options: of the model, such as ``cab=false,sab=false``.
        height, width: of the crops, in pixels.
        epochs: passes over the training images.
        batch: crops per step, of all processes together.
        optimizer: ``adam`` or ``adamw``.
        lr: learning rate; the highest one of a ``cycle``.
        weight_decay: of the optimiser.
        schedule: ``steps`` (divided by ten after each epoch in ``milestones``) or ``cycle`` (one cycle, Smith 2018: up
            for 15 % of the steps, then along a cosine down to almost 0).
        milestones: epochs, separated by commas.
        precision: ``bf16``, ``fp16`` (with loss scaling) or ``fp32`` arithmetic; weights are float32.
        clip: largest norm of the gradient; 0 does not clip.
        ema: decay per step of the averaged weights, at most (1 + step) / (10 + step); if it is not 0, the averaged
            weights are tested and kept instead of the last ones.
        loss: name of a function in :mod:`edgepose.train.losses`.
        gamma: focusing exponent of the focal L2 loss (DITN equation 6); 0 is plain L2.
        bone_weight: lambda of DITN's equation 10.
        segmentation_weight: lambda of SG-HRNet's equation 7.
        dynamic_weights: whether to weigh the terms of the loss by dynamic weight averaging (SG-HRNet equations 8 to
            10).
        bone_target: ``perpendicular``, by the distance from the bone's line
            (:func:`~edgepose.core.heatmaps.encode_bones`), or ``gaussian``
            (:func:`~edgepose.core.heatmaps.encode_bones_gaussian`).
        sigma: of the joint targets and of Gaussian bone targets, in heat-map pixels.
        segmentation_radius: of the segmentation target around each joint, in heat-map pixels.
        rotation: standard deviation of the crop's rotation in degrees, cut off at twice that; 40 % of the samples are
            not rotated.
        scale: standard deviation of the factor on the crop's region, cut off at 1 - scale and 1 + scale: a person
            appears at 1 / (1 + scale) to 1 / (1 - scale) of its size.
        half_body: share of the samples with more than 8 labelled joints that show one half of the body (HRNet's).
        close_up: share of the samples that show the body only from the hips up, as a close camera does.
        colour: largest relative change of brightness, contrast and each channel's gain.
        seed: of the random weights, order and augmentation.
    """

    model: str
    skeleton: str
    options: str = ""
    height: int = 256
    width: int = 192
    epochs: int = 210
    batch: int = 32
    optimizer: str = "adam"
    lr: float = 1e-3
    weight_decay: float = 0.0
    schedule: str = "steps"
    milestones: str = "170,200"
    precision: str = "bf16"
    clip: float = 0.0
    ema: float = 0.0
    loss: str = "mse"
    gamma: float = 2.0
    bone_weight: float = 0.1
    segmentation_weight: float = 0.002
    dynamic_weights: bool = False
    bone_target: str = "perpendicular"
    sigma: float = 2.0
    segmentation_radius: float = 5.0
    rotation: float = 45.0
    scale: float = 0.35
    half_body: float = 0.0
    close_up: float = 0.0
    colour: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            if not low <= getattr(self, name) <= high:  # also refuses NaN
                wanted = f"at least {low:g}" if high == float("inf") else f"from {low:g} to {high:g}"
                raise UsageError(f"recipe: {name} must be {wanted}, got {getattr(self, name)}")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise UsageError(f"recipe: {name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        _ = self.model_options, self.milestone_epochs  # both raise if they cannot be read

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of the crops."""
        return self.height, self.width

    @property
    def milestone_epochs(self) -> list[int]:
        """The epochs in ``milestones``."""
        try:
            return [int(epoch) for epoch in self.milestones.split(",") if epoch]
        except ValueError as error:
            raise UsageError(f"recipe: milestones {self.milestones!r} are not epochs such as 130,160") from error

    @property
    def model_options(self) -> dict[str, Any]:
        """The ``options`` as keyword arguments, with boolean or integer values."""
        pairs = [pair.partition("=") for pair in self.options.split(",") if pair]
        try:
            return {key: _BOOLEANS.get(text) if text in _BOOLEANS else int(text) for key, _, text in pairs}
        except ValueError as error:
            raise UsageError(f"recipe: options {self.options!r} are not such as cab=false,deconv_kernel=4") from error

    def to_json(self) -> str:
        """Return the fields as a JSON object."""
        return json.dumps(asdict(self), indent=1)


_BOOLEANS = {"true": True, "false": False}

_DITN = Recipe(
    model="ditn_hrnet_w32",
    skeleton="coco17",
    optimizer="adamw",
    weight_decay=1e-4,
    milestones="130,160",
    loss="ditn",
    rotation=30.0,
)
_HRNET = Recipe(model="hrnet_w32", skeleton="coco17", batch=128, half_body=0.3)
_DITN_LITE_LSP = replace(
    _DITN,
    model="ditn_lite",
    skeleton="lsp14",
    epochs=100,
    batch=8,
    lr=2e-3,
    weight_decay=1e-2,
    schedule="cycle",
    ema=0.998,
    scale=0.25,
    close_up=0.05,
    colour=0.2,
)
_SG_HRNET = Recipe(model="sg_hrnet_w32", skeleton="coco17", loss="sg_hrnet", dynamic_weights=True)
_SIMPLEBASELINE = Recipe(
    model="simplebaseline_r50",
    skeleton="coco17",
    epochs=140,
    batch=128,
    milestones="90,120",
    rotation=40.0,
    scale=0.3,
)
#: The files of HSR-MSNet's authors, which made its tables: their learning rate is 1e-3 where the paper prints 1e-4.
#: Their weight decay never reaches their Adam, as in the codes of HRNet and SimpleBaseline, whose recipes have none:
#: ``--set weight_decay=0`` trains as that code does. They start from ImageNet's DetNet-59 (59 layers), ResNet-101 (110)
#: or ResNet-152 (161).
_HSR = replace(_SIMPLEBASELINE, model="hsr_msnet_59", batch=32, weight_decay=1e-4)
_HSR_LARGE: dict[str, Any] = {"height": 384, "width": 288, "sigma": 3.0, "epochs": 160, "milestones": "110,140"}
_MPII: dict[str, Any] = {"skeleton": "mpii16", "height": 256, "width": 256}
#: HRNet's and SimpleBaseline's own set-ups rotate and scale the persons of MPII less, and show no half bodies.
_MPII_OFFICIAL: dict[str, Any] = {**_MPII, "rotation": 30.0, "scale": 0.25, "half_body": 0.0}

#: DITN, section 4; SG-HRNet, section 4.3; HRNet, SimpleBaseline and HSR-MSNet, the files of their public codes.
#: ``*_lsp``: our own, for small data sets: one cycle gets as far in a fraction of the epochs. ``*_int8``: for
#: ``--quantise``, which starts from trained weights that should change little: few epochs, a fortieth of the learning
#: rate. No average, because in so few steps it would stay close to the start weights; float32, because bfloat16 would
#: round int8's levels a second time.
RECIPES = {
    "ditn_coco": _DITN,
    "ditn_mpii": replace(_DITN, **_MPII),
    "ditn_lsp": replace(_DITN, skeleton="lsp14", schedule="cycle", colour=0.2),
    "ditn_lite_lsp": _DITN_LITE_LSP,
    "ditn_lite_lsp_int8": replace(_DITN_LITE_LSP, epochs=3, lr=5e-5, ema=0.0, precision="fp32"),
    "sg_hrnet_coco": _SG_HRNET,
    "sg_hrnet_mpii": replace(_SG_HRNET, **_MPII),
    "hsrnet_coco": replace(_HSR, model="hsrnet_59"),
    "hsrnet_coco_384x288": replace(_HSR, model="hsrnet_59", **_HSR_LARGE),
    "hsr_msnet_coco": _HSR,
    "hsr_msnet_coco_384x288": replace(_HSR, **_HSR_LARGE),
    "hrnet_coco": _HRNET,
    "hrnet_mpii": replace(_HRNET, **_MPII_OFFICIAL),
    "simplebaseline_coco": _SIMPLEBASELINE,
    "simplebaseline_mpii": replace(_SIMPLEBASELINE, **_MPII_OFFICIAL),
}


def get_recipe(name: str, overrides: dict[str, str] | None = None) -> Recipe:
    """Return a recipe by name, with fields replaced by values given as text.

    Raises:
        UsageError: unknown recipe or field, or a value that is not of the field's type.
    """
    if name not in RECIPES:
        raise UsageError(f"unknown recipe {name!r}: expected one of {', '.join(RECIPES)}")
    recipe = RECIPES[name]
    kinds = {f.name: type(getattr(recipe, f.name)) for f in fields(Recipe)}
    values: dict[str, Any] = {}
    for key, text in (overrides or {}).items():
        if key not in kinds:
            raise UsageError(f"recipe {name} has no field {key!r}: expected one of {', '.join(kinds)}")
        try:
            values[key] = _BOOLEANS[text] if kinds[key] is bool else kinds[key](text)
        except (KeyError, ValueError) as error:
            raise UsageError(f"recipe field {key}: {text!r} is not of type {kinds[key].__name__}") from error
    return replace(recipe, **values)
