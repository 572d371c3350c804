"""Darknet's way from decoded boxes of YOLOv3 to those of a picture, for comparing with public results.

It has all classes and pictures in the centre of the network's input, where the package's detectors have persons and
pictures at the top left.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgepose.core.boxes import nms
from edgepose.core.geometry import Size

#: Largest number of boxes per picture.
MOST = 300


def suppress(
    boxes: NDArray[np.float32], *, confidence: float, overlap: float, classes: tuple[int, ...] | None = None
) -> NDArray[np.float32]:
    """Choose boxes by non-maximum suppression in each class; a box counts for every class that is certain enough.

    Args:
        boxes: (boxes, 5 + classes) of one picture, from :func:`edgepose.models.yolov3.decode_maps`.
        confidence: objectness, and objectness times probability, must be above it.
        overlap: of two boxes of one class whose IoU is above it, the more certain stays.
        classes: those to keep; None for all.

    Returns:
        (n, 6) float32: x1, y1, x2, y2 in pixels of the network's input, score, class; the most certain first, at most
        :data:`MOST`.
    """
    boxes = boxes[boxes[:, 4] > confidence]
    scores = boxes[:, 5:] * boxes[:, 4:5]
    index, label = np.nonzero(scores > confidence)
    if classes is not None:
        chosen = np.isin(label, classes)
        index, label = index[chosen], label[chosen]
    score = scores[index, label]
    half = boxes[index, 2:4] / 2
    corners = np.concatenate([boxes[index, :2] - half, boxes[index, :2] + half], axis=1)
    kept = np.zeros(0, dtype=np.intp)
    for one in np.unique(label):
        own = np.flatnonzero(label == one)
        kept = np.append(kept, own[nms(corners[own], score[own], overlap)])
    kept.sort()  # boxes of equal scores stay in the order of the network
    kept = kept[np.argsort(-score[kept], kind="stable")][:MOST]
    return np.column_stack([corners[kept], score[kept], label[kept]]).astype(np.float32)


def to_source(boxes: NDArray[np.float32], size: Size, source: Size) -> NDArray[np.float32]:
    """Map boxes (n, 6) from the pixels of the network's input to those of the picture that was centred in it.

    The picture's longer side fills the input; its shorter one has the padding on both sides, the odd pixel behind.
    ``boxes`` from :func:`suppress` are not modified; ``size`` is the (height, width) of the network's input, a square,
    and ``source`` that of the picture.
    """
    scale = max(source) / max(size)
    offset = [(max(source) - side) / scale // 2 for side in (source[1], source[0])]
    moved = boxes.copy()
    moved[:, :4] = (boxes[:, :4] - np.array(offset * 2, dtype=np.float32)) * scale
    return moved
