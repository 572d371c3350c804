"""The graph contract: names, shapes and dtypes of the inputs and outputs of a bundle's network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.errors import UsageError

#: The one input: (N, H, W, 3) uint8 RGB.
IMAGES = "images"
#: Outputs of a pose network, float32: (N, J, 3) x, y in crop pixels and score; and optionally (N, J, h, w).
KEYPOINTS, HEATMAPS = "keypoints", "heatmaps"
#: Further outputs of a pose network that was exported with them, float32: DITN's bone heat-maps (N, B, h, w), and the
#: maps of SG-HRNet's segmentation guided modules (N, 4, h, w) after the sigmoid. Nothing needs them to find poses.
BONES, SEGMENTATION = "bones", "segmentation"
#: Number of SG-HRNet's segmentation guided modules.
GUIDES = 4
#: Outputs of a person detector, float32: (N, K, 4) xyxy in pixels of its input; (N, K).
BOXES, SCORES = "boxes", "scores"


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape and dtype of one input or output; None stands for a dynamic side."""

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]

    def __str__(self) -> str:
        sides = ", ".join("N" if side is None else str(side) for side in self.shape)
        return f"{self.name} {self.dtype.name} ({sides})"

    @property
    def sample(self) -> tuple[int | None, ...]:
        """The shape without the batch."""
        return self.shape[1:]


def float_spec(name: str, *sample: int) -> TensorSpec:
    """Return the spec of a float32 tensor (N, *sample)."""
    return TensorSpec(name, (None, *sample), np.dtype(np.float32))


def image_spec(height: int, width: int) -> TensorSpec:
    """Return the spec of the input: uint8 (N, height, width, 3)."""
    return TensorSpec(IMAGES, (None, height, width, 3), np.dtype(np.uint8))


@dataclass(frozen=True)
class Contract:
    """The input of a network, its required ``outputs``, and the ``optional`` ones."""

    images: TensorSpec
    outputs: tuple[TensorSpec, ...]
    optional: tuple[TensorSpec, ...] = ()

    def outputs_in(self, names: Iterable[str]) -> tuple[TensorSpec, ...]:
        """Return the required outputs, and the optional ones whose name is in ``names``."""
        given = set(names)
        return (*self.outputs, *(spec for spec in self.optional if spec.name in given))

    def refuse(
        self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], *, remedy: str, exact: bool = False
    ) -> None:
        """Refuse a network that differs from the contract.

        Args:
            inputs, outputs: specs of the network.
            remedy: how to fix it, the end of the error.
            exact: require every side but the batch to be static, and no further outputs. Otherwise an output may have
                dynamic sides.

        Raises:
            UsageError: an input or output differs.
        """
        if tuple(inputs) != (self.images,):
            raise UsageError(f"network takes {_listed(inputs)}, expected {self.images}: {remedy}")
        given = {spec.name: spec for spec in outputs}
        wanted = self.outputs_in(given)
        for expected in wanted:
            got = given.get(expected.name)
            if got is None or got.dtype != expected.dtype or not _fits(got.shape, expected.shape, exact=exact):
                raise UsageError(f"network gives {_listed(outputs)}, expected {expected}: {remedy}")
        if exact and len(given) > len(wanted):
            raise UsageError(f"network gives {_listed(outputs)}, expected {_listed(wanted)} alone: {remedy}")


def _fits(got: tuple[int | None, ...], expected: tuple[int | None, ...], *, exact: bool) -> bool:
    same_rank = len(got) == len(expected)
    return same_rank and all(g == e or (g is None and not exact) for g, e in zip(got, expected, strict=True))


def _listed(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(map(str, specs)) or "nothing"
