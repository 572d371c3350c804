"""YOLOX as a person detector: BGR 0..255 in float32, letterboxed to the top left, raw predictions out."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from ..backends.session import Arrays, Session
from ..core.geometry import Size
from .detector import Decoded, DetectorKind, count_rows

#: Width in pixels of the cells of YOLOX's three grids.
STRIDES = (8, 16, 32)
#: Index of the class "person".
_PERSON = 0


@cache
def yolox_cells(size: Size) -> NDArray[np.float32]:
    """Return left, top and width of every grid cell in pixels, (cells, 3) float32, read-only, in YOLOX's order."""
    grids = []
    for stride in STRIDES:
        y, x = np.mgrid[: size[0] // stride, : size[1] // stride] * stride
        grids.append(np.stack([x.ravel(), y.ravel(), np.full(x.size, stride)], axis=1))
    cells = np.concatenate(grids).astype(np.float32)
    cells.setflags(write=False)
    return cells


def decode_yolox(raw: NDArray[np.float32], cells: NDArray[np.float32], threshold: float) -> Decoded:
    """Decode the persons in raw predictions, in the order of the cells, which :func:`yolox_cells` returns.

    ``raw`` (cells, 5 + classes) holds offset of the centre and logarithm of the size, in cells, objectness, classes.
    """
    scores = raw[:, 4] * raw[:, 5 + _PERSON]
    # Few cells hold a person, so compute exponentials for those only.
    chosen = np.flatnonzero(scores >= threshold)
    raw, corner, stride = raw[chosen].astype(np.float64), cells[chosen, :2], cells[chosen, 2:]
    centre = raw[:, :2] * stride + corner
    half = np.exp(raw[:, 2:4]) * stride / 2
    return np.concatenate([centre - half, centre + half], axis=1), scores[chosen]


def _recognise(session: Session) -> Size | None:
    inputs, outputs = ([(spec.dtype.name, spec.shape) for spec in specs] for specs in (session.inputs, session.outputs))
    match inputs, outputs:
        case [("float32", (1 | None, 3, int(height), int(width)))], [("float32", (_, _, int(values)))]:
            if values >= 6 and count_rows(session, session.outputs[0]) == len(yolox_cells((height, width))):
                return height, width
    return None


def _decode(outputs: Arrays, size: Size, threshold: float) -> Decoded:
    (raw,) = outputs.values()
    return decode_yolox(raw[0], yolox_cells(size), threshold)


#: The score is the objectness times the probability of a person.
YOLOX = DetectorKind(
    name="yolox",
    threshold=0.4,
    expects=(
        "YOLOX: input float32 (1, 3, h, w), output float32 (1, cells, 5 + classes), h and w fixed, a batch of 1 or of "
        f"any size, one cell per square of {', '.join(map(str, STRIDES))} pixels"
    ),
    recognise=_recognise,
    blob=lambda canvas: cv2.dnn.blobFromImage(canvas, swapRB=True),
    decode=_decode,
)
