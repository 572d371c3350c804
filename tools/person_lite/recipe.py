"""Everything that decides a training run of the detector."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from edgepose.core.errors import UsageError

#: Steps over which the learning rate rises, and share of all steps over which it falls.
WARM_UP = 300
COOL_DOWN = 0.3


@dataclass(frozen=True)
class DetectorRecipe:
    """The recipe of ``person_lite``.

    Attributes:
        height, width: of the training pictures in pixels, multiples of 32. The shipped graph takes larger pictures:
            the network learns how people of a size in pixels look, whatever the size of the picture.
        steps: optimiser steps.
        batch: pictures per step.
        lr: learning rate of AdamW, after its rise over :data:`WARM_UP` steps and before its fall to 0 over the last
            :data:`COOL_DOWN` of all steps.
        weight_decay: of AdamW.
        average: decay per step of the moving average of the weights, which is the network that is kept.
        shares: chances that a tile shows a picture of LSP, and of COCO.
        grids: chances that a picture is one tile, 2x2 and 3x3.
        smallest: shortest length in pixels that a window gives to the person that it shows.
        largest: longest such length, as a multiple of the window's longer side.
        colour: largest relative change of brightness, contrast and each channel's gain.
        seed: of weights and pictures.
    """

    height: int = 320
    width: int = 320
    steps: int = 30_000
    batch: int = 8
    lr: float = 2e-3
    weight_decay: float = 1e-2
    average: float = 0.999
    shares: tuple[float, float] = (0.7, 0.3)
    grids: tuple[float, float, float] = (0.5, 0.4, 0.1)
    smallest: float = 14.0
    largest: float = 1.6
    colour: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        for name, chances in (("shares", self.shares), ("grids", self.grids)):
            if min(chances) < 0 or abs(sum(chances) - 1) > 1e-9:
                raise UsageError(f"detector: {name} must be chances that sum up to 1, got {chances}")
        if self.steps < 1 or self.batch < 1:
            raise UsageError(f"detector: steps and batch must be at least 1, got {self.steps} and {self.batch}")
        if min(self.size) < 32 or self.height % 32 or self.width % 32:
            raise UsageError(f"detector: height and width must be multiples of 32, got {self.height}x{self.width}")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the training pictures."""
        return self.height, self.width

    def lr_factor(self, step: int) -> float:
        """Return the factor on the learning rate at a step.

        >>> [DetectorRecipe(steps=10_000).lr_factor(step) for step in (0, 149, 5_000, 8_500, 10_000)]
        [0.0033333333333333335, 0.5, 1.0, 0.5, 0.0]
        """
        return min(1.0, (step + 1) / WARM_UP, (self.steps - step) / (COOL_DOWN * self.steps))

    def to_json(self) -> str:
        """Return the fields as a JSON object."""
        return json.dumps(asdict(self))
