"""Goldens: crops and what the reference gave for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .manifest import QUARTER


@dataclass(frozen=True)
class Goldens:
    """Crops and what a reference gave for them: PyTorch, or the file that a network was imported from.

    Attributes:
        images: (N, H, W, 3) uint8 RGB; of a detector whole pictures, letterboxed.
        outputs: float32 arrays by name: of a pose network ``keypoints`` (N, J, 3), x, y in crop pixels and score, and
            ``heatmaps`` (N, J, H/4, W/4); of a detector ``boxes`` (N, K, 4), xyxy in pixels, and ``scores`` (N, K).
        decode: how the graph reads them, see :class:`Manifest`.
    """

    images: NDArray[np.uint8]
    outputs: Mapping[str, NDArray[np.float32]]
    decode: str = QUARTER

    def first(self, count: int) -> Goldens:
        """The first crops."""
        few = {name: values[:count] for name, values in self.outputs.items()}
        return Goldens(self.images[:count], few, self.decode)

    def save(self, path: Path) -> None:
        """Write a compressed ``.npz``."""
        arrays: dict[str, Any] = {"images": self.images, **self.outputs}
        np.savez_compressed(path, **arrays)
