"""Everything that decides a training run of the detector."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from edgepose.core.errors import UsageError

#: Steps over which the learning rate rises, and share of all steps over which it falls.
WARM_UP = 300
COOL_DOWN = 0.3


@dataclass(frozen=True)
class Setup:
    """The set-up of ``person_lite``.

    Attributes:
        height, width: of the training pictures in pixels, multiples of 32. The network takes any such size; the shipped
            graph takes larger ones, because what it learns is how people of a size in pixels look.
        steps: optimiser steps.
        batch: pictures a step.
        lr: learning rate of AdamW between its rise over :data:`WARM_UP` steps and its fall to 0 over the last
            :data:`COOL_DOWN` of all steps.
        weight_decay: of AdamW.
        average: decay of the moving average of the weights, which is the network that is kept.
        shares: how often a tile comes from LSP and from COCO.
        grids: how often a picture is one tile, 2x2 and 3x3.
        smallest: length in pixels of the smallest person that a window looks for.
        largest: that of the largest, as a multiple of the window's longer side.
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
        """What the learning rate is multiplied by at a step.

        >>> [Setup(steps=10_000).lr_factor(step) for step in (0, 149, 5_000, 8_500, 10_000)]
        [0.0033333333333333335, 0.5, 1.0, 0.5, 0.0]
        """
        return min(1.0, (step + 1) / WARM_UP, (self.steps - step) / (COOL_DOWN * self.steps))

    def same_run(self, listing: str) -> bool:
        """Whether a run that was begun with the set-up in a text of :meth:`to_json` can go on with this one.

        Only ``steps`` may differ: until the learning rate falls, it changes nothing.
        """
        try:
            return {**json.loads(listing), "steps": self.steps} == json.loads(self.to_json())
        except (ValueError, TypeError):  # not JSON, or no object
            return False

    def to_json(self) -> str:
        return json.dumps(asdict(self))
