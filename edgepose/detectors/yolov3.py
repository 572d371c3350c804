"""YOLOv3 as a person detector: RGB 0..1 in float32; three raw heads or one list of decoded boxes out.

Its authors letterbox to the centre on grey 128. Here it sees the picture at the top left on grey 114, as every detector
of this package does: the layers are convolutions, so a box moves with its person, and where the padding lies changes
only what the cells at the border see.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from ..backends.session import Arrays, Session
from ..bundle.contract import TensorSpec
from ..core.geometry import Size
from ..core.yolov3 import ANCHORS, STRIDES
from .detector import Decoded, DetectorKind, count_rows

#: Index of the objectness and of the probability of the class "person" in the values of a box.
_OBJECTNESS, _PERSON = 4, 5


def find_heads(outputs: Sequence[TensorSpec], size: Size) -> tuple[str, ...] | None:
    """Return the names of the raw heads, float32 (N, 3 * (5 + classes), h, w), in the order of the strides, or None."""
    heads = [_head(outputs, (size[0] // stride, size[1] // stride)) for stride in STRIDES]
    if len(outputs) != len(STRIDES) or None in heads or len({spec.shape[1] for spec in outputs}) > 1:
        return None
    return tuple(name for name in heads if name is not None)


def _head(outputs: Sequence[TensorSpec], grid: Size) -> str | None:
    for spec in outputs:
        match spec.dtype.name, spec.shape:
            case "float32", (_, int(channels), height, width) if (height, width) == grid:
                values = channels / len(ANCHORS[0])
                return spec.name if values.is_integer() and values > _PERSON else None
    return None


def find_rows(outputs: Sequence[TensorSpec]) -> TensorSpec | None:
    """Return the output that lists decoded boxes, float32 (N, boxes, 5 + classes), or None.

    Raw heads of five sides, which some exporters add, are passed over.
    """
    others = [spec for spec in outputs if len(spec.shape) != 5]
    match [(spec.dtype.name, spec.shape) for spec in others]:
        case [("float32", (_, _, int(values)))] if values > _PERSON:
            return others[0]
    return None


def count_boxes(size: Size) -> int:
    """Return the number of boxes for an input of (height, width).

    >>> count_boxes((416, 416))
    10647
    """
    return sum(len(a) * (size[0] // s) * (size[1] // s) for s, a in zip(STRIDES, ANCHORS, strict=True))


def decode_heads(heads: Sequence[NDArray[np.float32]], threshold: float) -> Decoded:
    """Decode the persons in raw heads of one picture, by stride, anchor, row and column.

    Args:
        heads: (3 * (5 + classes), h, w) at each of the strides; channels are anchor by anchor the logits of the
            centre in its cell, the logarithm of the size in anchors, the logits of the objectness and of the classes.
        threshold: least score of a person.
    """
    boxes, scores = [], []
    for raw, stride, anchors in zip(heads, STRIDES, ANCHORS, strict=True):
        values = raw.reshape(len(anchors), -1, *raw.shape[1:]).astype(np.float64)
        certain = _sigmoid(values[:, _OBJECTNESS]) * _sigmoid(values[:, _PERSON])
        # Few cells hold a person, so compute their boxes only.
        anchor, row, column = np.nonzero(certain >= threshold)
        found = values[anchor, :_OBJECTNESS, row, column]
        centre = (_sigmoid(found[:, :2]) + np.stack([column, row], axis=1)) * stride
        half = np.exp(found[:, 2:]) * np.array(anchors)[anchor] / 2
        boxes.append(np.concatenate([centre - half, centre + half], axis=1))
        scores.append(certain[anchor, row, column])
    return np.concatenate(boxes), np.concatenate(scores).astype(np.float32)


def decode_rows(rows: NDArray[np.float32], threshold: float) -> Decoded:
    """Decode the persons in rows (boxes, 5 + classes): centre and size in pixels, objectness, class probabilities."""
    scores = rows[:, _OBJECTNESS] * rows[:, _PERSON]
    chosen = np.flatnonzero(scores >= threshold)
    centre, half = rows[chosen, :2].astype(np.float64), rows[chosen, 2:4].astype(np.float64) / 2
    return np.concatenate([centre - half, centre + half], axis=1), scores[chosen]


def _sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.5 * (1 + np.tanh(logits / 2))


def _recognise(session: Session) -> Size | None:
    match [(spec.dtype.name, spec.shape) for spec in session.inputs]:
        case [("float32", (1 | None, 3, int(height), int(width)))]:
            size, rows = (height, width), find_rows(session.outputs)
            if height % STRIDES[0] or width % STRIDES[0]:
                return None
            if find_heads(session.outputs, size) or (rows and count_rows(session, rows) == count_boxes(size)):
                return size
    return None


def _decode(outputs: Arrays, size: Size, threshold: float) -> Decoded:
    specs = [TensorSpec(name, array.shape, array.dtype) for name, array in outputs.items()]
    names = find_heads(specs, size)
    if names:
        return decode_heads([outputs[name][0] for name in names], threshold)
    rows = find_rows(specs)
    if rows is None:
        raise AssertionError("the outputs were those of a YOLOv3 when it was opened")
    return decode_rows(outputs[rows.name][0], threshold)


#: The score is the objectness times the probability of a person; 0.5 is darknet's own threshold.
YOLOV3 = DetectorKind(
    name="yolov3",
    threshold=0.5,
    expects=(
        "YOLOv3: input float32 (1, 3, h, w), h and w fixed multiples of 32, output float32 (1, 3 boxes per cell, 5 + "
        "classes), or three of float32 (1, 3 * (5 + classes), h / stride, w / stride) at strides "
        f"{', '.join(map(str, STRIDES))}"
    ),
    recognise=_recognise,
    blob=lambda canvas: cv2.dnn.blobFromImage(canvas, 1 / 255),
    decode=_decode,
)
