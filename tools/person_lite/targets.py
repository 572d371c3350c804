"""Encode the boxes of persons as targets for the network's cells, in NumPy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgepose.core.geometry import Size
from tools.person_lite.network import STRIDES

#: Lengths in input pixels from which on a person belongs to the second and to the third grid.
LENGTHS = (64.0, 144.0)
#: A cell is in the middle of a box, and so may predict it, if its centre lies in this share of both sides of the box.
MIDDLE = 0.4


class Targets(NamedTuple):
    """Targets for the cells of all grids, row by row, one grid after the other: float32.

    Attributes:
        boxes: (cells, 4) xyxy in input pixels, of the person that is assigned to the cell; 0 for none.
        weights: (cells,) of that box in the box loss, 0 for none; the weights of one person's cells sum up to 1.
        counts: (cells,) 1, or 0 where the cell's score is not trained: in a crowd, or on a person who can hardly be
            seen.
    """

    boxes: NDArray[np.float32]
    weights: NDArray[np.float32]
    counts: NDArray[np.float32]


def encode(boxes: NDArray[np.float64], ignored: NDArray[np.float64], size: Size) -> Targets:
    """Encode one picture; the length of a person, the longer side of the box, decides the grid.

    Args:
        boxes: (P, 4) xyxy of the persons, in pixels, their centres inside the picture.
        ignored: (R, 4) xyxy of regions in which finding a person is neither right nor wrong.
        size: (height, width) of the picture, multiples of 32.
    """
    grid = np.searchsorted(LENGTHS, (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0), side="right")
    parts = [encode_grid(boxes[grid == level], ignored, size, stride) for level, stride in enumerate(STRIDES)]
    return Targets(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def encode_grid(boxes: NDArray[np.float64], ignored: NDArray[np.float64], size: Size, stride: int) -> Targets:
    """Encode one grid; a cell in the middle of two persons is assigned to the smaller one (FCOS)."""
    shape = (size[0] // stride, size[1] // stride)
    owner = np.full(shape, -1)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    for index in np.argsort(-areas, kind="stable"):
        owner[_middle(boxes[index] / stride, shape)] = index
    weights, assigned = np.zeros(shape, np.float32), np.zeros((*shape, 4), np.float32)
    for index, box in enumerate(boxes):
        mine = owner == index
        weights[mine], assigned[mine] = 1 / max(int(mine.sum()), 1), box
    counts = np.ones(shape, np.float32)
    for x1, y1, x2, y2 in ignored / stride:
        counts[int(y1) : int(np.ceil(y2)), int(x1) : int(np.ceil(x2))] = 0
    counts[owner >= 0] = 1
    return Targets(assigned.reshape(-1, 4), weights.ravel(), counts.ravel())


def _middle(box: NDArray[np.float64], shape: Size) -> NDArray[np.bool_]:
    """Mark the cells in the middle of a box, and always the one that holds its centre: (h, w).

    Args:
        box: (4,) xyxy in units of cells.
        shape: (h, w) of the grid.
    """
    (cx, cy), reach = (box[:2] + box[2:]) / 2, MIDDLE * (box[2:] - box[:2]) / 2
    rows, columns = np.arange(shape[0])[:, None], np.arange(shape[1])[None]
    near = (abs(columns + 0.5 - cx) <= reach[0]) & (abs(rows + 0.5 - cy) <= reach[1])
    near[min(int(cy), shape[0] - 1), min(int(cx), shape[1] - 1)] = True
    return near
