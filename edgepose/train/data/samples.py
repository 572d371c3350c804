"""Annotated persons, the form into which every data set is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class PoseSample:
    """One labelled person.

    Attributes:
        image: path of the image file.
        joints: (J, 2) float64 x, y in image pixels.
        visible: (J,) bool, True where labelled.
        box: (4,) float64 xyxy in image pixels.
    """

    image: Path
    joints: NDArray[np.float64]
    visible: NDArray[np.bool_]
    box: NDArray[np.float64]
