"""What the network should say about a picture: boxes of persons to values of its cells, in NumPy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...geometry import Size
from .model import STRIDES

#: Lengths in input pixels from which on a person belongs to the second and to the third grid.
LENGTHS = (64.0, 144.0)
#: The Gaussian of a box has a sixth of this share of the box's sides as its sigmas (TTFNet's alpha).
SPREAD = 0.54
#: Cells where a box's Gaussian is below this do not learn its sides.
_LEAST = 0.01


class Targets(NamedTuple):
    """Values of the cells of all grids, row by row, one grid after the other: float32.

    Attributes:
        heat: (cells,), 1 at the cell of a person's centre, falling off as a Gaussian; the maximum over the persons.
        counts: (cells,), 0 where the heat is not judged (in a crowd, or where a person can hardly be seen), else 1.
        boxes: (cells, 4) xyxy in input pixels, of the person whose sides the cell should know.
        weights: (cells,) of that box in the box loss, 0 for none; the weights of a person's cells sum up to 1.
    """

    heat: NDArray[np.float32]
    counts: NDArray[np.float32]
    boxes: NDArray[np.float32]
    weights: NDArray[np.float32]


def encode(boxes: NDArray[np.float64], ignored: NDArray[np.float64], size: Size) -> Targets:
    """Targets of one picture: each person on the grid of his length.

    Args:
        boxes: (P, 4) xyxy of the persons, in pixels, their centres inside the picture.
        ignored: (R, 4) xyxy of regions in which finding a person is neither right nor wrong.
        size: (height, width) of the picture, multiples of 32.
    """
    grid = np.searchsorted(LENGTHS, (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0), side="right")
    parts = [encode_grid(boxes[grid == level], ignored, size, stride) for level, stride in enumerate(STRIDES)]
    return Targets(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def encode_grid(boxes: NDArray[np.float64], ignored: NDArray[np.float64], size: Size, stride: int) -> Targets:
    """:func:`encode` on one grid (TTFNet, section 3); where two Gaussians meet, the smaller person has the cell."""
    shape = (size[0] // stride, size[1] // stride)
    heat, weights = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    owner = np.full(shape, -1)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    for index in np.argsort(-areas, kind="stable"):
        spot = _gaussian(boxes[index] / stride, shape)
        heat = np.maximum(heat, spot)
        owner[spot > _LEAST] = index
        weights = np.where(owner == index, spot, weights)
    for index in range(len(boxes)):
        mine = owner == index
        weights[mine] /= max(float(weights[mine].sum()), 1e-6)
    targets = np.zeros((*shape, 4), np.float32)
    targets[owner >= 0] = boxes[owner[owner >= 0]]
    counts = _judged(ignored / stride, heat)
    return Targets(heat.ravel(), counts.ravel(), targets.reshape(-1, 4), weights.ravel())


def _gaussian(box: NDArray[np.float64], shape: Size) -> NDArray[np.float32]:
    """(h, w) of a box in cells: exactly 1 at the cell in which the box's centre lies."""
    rows, columns = np.arange(shape[0])[:, None], np.arange(shape[1])[None]
    column, row = ((box[:2] + box[2:]) / 2).astype(int)
    width, height = np.maximum(SPREAD * (box[2:] - box[:2]) / 6, 1e-3)
    exponent = ((columns - min(column, shape[1] - 1)) / width) ** 2 + ((rows - min(row, shape[0] - 1)) / height) ** 2
    return np.exp(-exponent / 2).astype(np.float32)


def _judged(ignored: NDArray[np.float64], heat: NDArray[np.float32]) -> NDArray[np.float32]:
    counts = np.ones_like(heat)
    for x1, y1, x2, y2 in ignored:
        counts[int(y1) : int(np.ceil(y2)), int(x1) : int(np.ceil(x2))] = 0
    return np.where(heat > _LEAST, 1, counts).astype(np.float32)
