"""Training set-ups: one frozen dataclass each.

Sizes, rotation, optimiser and losses are DITN's. The learning rate follows one cycle instead of the paper's steps at
epochs 130 and 160 of 210, to get as far in a fraction of the epochs; colour and half-body changes are ours, too.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from ..errors import UsageError


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run.

    Attributes:
        model: name for :func:`edgepose.train.models.build_model`.
        skeleton: skeleton id.
        height, width: of the crops, in pixels.
        epochs: passes over the training images.
        batch: crops per step.
        lr: peak learning rate of the one-cycle schedule (AdamW).
        weight_decay: of AdamW.
        gamma: focusing exponent of the focal L2 loss on the joints (equation 6); 0 is plain L2.
        bone_weight: lambda of equation 10, the weight of the bone loss.
        rotation: the crop turns by up to this many degrees either way.
        scale_low, scale_high: range of the factor on the size of the person in the crop.
        half_body: share of the samples that show the body from the hips up, as a close camera does.
        colour: largest relative change of brightness, contrast and each channel's gain.
        seed: of weights, order and augmentation.
    """

    model: str
    skeleton: str
    height: int = 256
    width: int = 192
    epochs: int = 210
    batch: int = 32
    lr: float = 1e-3
    weight_decay: float = 1e-4
    gamma: float = 2.0
    bone_weight: float = 0.1
    rotation: float = 30.0
    scale_low: float = 0.65
    scale_high: float = 1.35
    half_body: float = 0.0
    colour: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 1:
            raise UsageError(f"recipe: epochs and batch must be at least 1, got {self.epochs} and {self.batch}")
        if not 0 < self.scale_low <= self.scale_high:
            raise UsageError(f"recipe: need 0 < scale_low <= scale_high, got {self.scale_low} and {self.scale_high}")

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of the crops."""
        return self.height, self.width

    def to_json(self) -> str:
        return json.dumps(asdict(self))


RECIPES = {
    "ditn_lite_lsp": Recipe(
        model="ditn_lite",
        skeleton="lsp14",
        epochs=28,
        batch=8,
        lr=2e-3,
        weight_decay=1e-2,
        scale_low=0.75,
        scale_high=1.25,
        half_body=0.3,
    ),
    "ditn_lsp": Recipe(model="ditn_hrnet_w32", skeleton="lsp14"),
}


def get_recipe(name: str, overrides: dict[str, str] | None = None) -> Recipe:
    """A recipe by name, with fields replaced by values given as text.

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
            values[key] = kinds[key](text)
        except ValueError as error:
            raise UsageError(f"recipe field {key}: {text!r} is not of type {kinds[key].__name__}") from error
    return replace(recipe, **values)
