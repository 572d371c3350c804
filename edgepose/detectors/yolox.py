"""YOLOX as a person detector."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from ..backends.session import Arrays, Session
from ..core.boxes import NMS
from ..core.geometry import Size
from .detector import NetworkDetector, _unknown

#: YOLOX predicts on three grids, whose cells are this many pixels wide.
STRIDES = (8, 16, 32)


_PERSON = 0


#: Least score of a person, unless another one is asked for: of YOLOX, and of a network that decodes its boxes itself,
#: whose score is how well the box is thought to fit.
YOLOX_THRESHOLD, PEAK_THRESHOLD = 0.4, 0.35


class YoloxDetector(NetworkDetector):
    """YOLOX: BGR 0..255 in float32, letterboxed to the top left, raw predictions out.

    Args:
        session: with one input (1, 3, h, w) float32 and one output (1, cells, 5 + classes) float32, class 0 a person.
        threshold: least objectness times person probability.
        nms: see :class:`NetworkDetector`.

    Raises:
        UsageError: the network's inputs or outputs are not YOLOX's.
    """

    def __init__(self, session: Session, threshold: float = YOLOX_THRESHOLD, nms: float = NMS) -> None:
        super().__init__(session, _check_yolox(session), threshold, nms)
        self._cells = yolox_cells(self.size)

    def blob(self, canvas: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.asarray(cv2.dnn.blobFromImage(canvas, swapRB=True), dtype=np.float32)

    def decode(self, outputs: Arrays) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        (raw,) = outputs.values()
        return decode_yolox(raw[0], self._cells, self._threshold)


def yolox_cells(size: Size) -> NDArray[np.float32]:
    """Left, top and width of every grid cell in pixels, (cells, 3), in the order of YOLOX's predictions."""
    grids = []
    for stride in STRIDES:
        y, x = np.mgrid[: size[0] // stride, : size[1] // stride] * stride
        grids.append(np.stack([x.ravel(), y.ravel(), np.full(x.size, stride)], axis=1))
    return np.concatenate(grids).astype(np.float32)


def decode_yolox(
    raw: NDArray[np.float32], cells: NDArray[np.float32], threshold: float
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Persons from raw predictions: centre offset in cells, logarithm of the size in cells, objectness, classes.

    Args:
        raw: (cells, 5 + classes).
        cells: from :func:`yolox_cells`.
        threshold: least score.

    Returns:
        boxes (N, 4) xyxy in pixels of the network's input, and scores (N,), in the order of the cells.
    """
    scores = raw[:, 4] * raw[:, 5 + _PERSON]
    # Few cells hold a person: the exponentials are taken of those only.
    chosen = np.flatnonzero(scores >= threshold)
    raw, corner, stride = raw[chosen].astype(np.float64), cells[chosen, :2], cells[chosen, 2:]
    centre = raw[:, :2] * stride + corner
    half = np.exp(raw[:, 2:4]) * stride / 2
    return np.concatenate([centre - half, centre + half], axis=1), scores[chosen]


def _check_yolox(session: Session) -> Size:
    """The (height, width) of a YOLOX network's input."""
    expected = (
        "expected YOLOX: input float32 (1, 3, h, w), output float32 (1, cells, 5 + classes), h and w fixed, a batch of "
        f"1 or of any size, strides {', '.join(map(str, STRIDES))}"
    )
    if len(session.inputs) != 1 or len(session.outputs) != 1:
        raise _unknown(session, expected)
    taken, given = session.inputs[0], session.outputs[0]
    floats = taken.dtype == given.dtype == np.float32
    if not floats or len(taken.shape) != 4 or len(given.shape) != 3 or taken.shape[0] not in (1, None):
        raise _unknown(session, expected)
    _, channels, height, width = taken.shape
    if channels != 3 or height is None or width is None or given.shape[2] is None or given.shape[2] < 6:
        raise _unknown(session, expected)
    cells = len(yolox_cells((height, width)))
    if given.shape[1] not in (cells, None):
        raise _unknown(session, f"{expected}, where {height}x{width} pixels are {cells} cells")
    return height, width
