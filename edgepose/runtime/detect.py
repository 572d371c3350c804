"""Person detectors: a picture in, boxes of persons out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import CheckError, UsageError
from ..geometry import Size
from .backends import open_graph
from .session import Arrays, Session, TensorSpec

#: YOLOX predicts on three grids, whose cells are this many pixels wide.
STRIDES = (8, 16, 32)
_PAD = 114
_PERSON = 0


@dataclass(frozen=True)
class Detections:
    """Persons in one picture, the most certain first.

    Attributes:
        boxes: (N, 4) float64 xyxy in source pixels, inside the picture.
        scores: (N,) float32 in 0..1.
    """

    boxes: NDArray[np.float64]
    scores: NDArray[np.float32]


class Detector(Protocol):
    """The three steps of a detector, apart, so that the network's time is told from the time around it."""

    def prepare(self, image: NDArray[np.uint8]) -> Arrays:
        """What the network takes, from a picture (H, W, 3) uint8 RGB."""
        ...

    def infer(self, feeds: Arrays) -> Arrays:
        """Run the network."""
        ...

    def finish(self, outputs: Arrays, source: Size) -> Detections:
        """Persons from what the network gave for a picture of size ``source`` (height, width).

        Raises:
            CheckError: the network gave numbers that are not finite.
        """
        ...

    def close(self) -> None:
        """Free the network."""
        ...


class YoloxDetector:
    """YOLOX: BGR 0..255 in float32, letterboxed to the top left, raw predictions out.

    Args:
        session: with one input (1, 3, h, w) float32 and one output (1, cells, 5 + classes) float32, class 0 a person.
        threshold: least objectness times person probability.
        nms: of two boxes that overlap by more than this IoU, the more certain stays.

    Raises:
        UsageError: the network's inputs or outputs are not YOLOX's.
    """

    def __init__(self, session: Session, threshold: float = 0.4, nms: float = 0.5) -> None:
        self.size = _check_yolox(session)
        self._session, self._threshold, self._nms = session, threshold, nms
        self._cells = yolox_cells(self.size)

    def __call__(self, image: NDArray[np.uint8]) -> Detections:
        """Detect persons in a picture (H, W, 3) uint8 RGB."""
        return self.finish(self.infer(self.prepare(image)), image.shape[:2])

    def prepare(self, image: NDArray[np.uint8]) -> Arrays:
        blob = cv2.dnn.blobFromImage(letterbox(image, self.size), swapRB=True)
        return {self._session.inputs[0].name: np.asarray(blob, dtype=np.float32)}

    def infer(self, feeds: Arrays) -> Arrays:
        return self._session.run(feeds)

    def finish(self, outputs: Arrays, source: Size) -> Detections:
        (raw,) = outputs.values()
        if not np.isfinite(raw).all():  # no score above the threshold would read as an empty picture
            backend = self._session.backend
            raise CheckError(f"the detector gave NaN or infinity on backend {backend}: check its ONNX file")
        boxes, scores = decode_yolox(raw[0], self._cells, self._threshold)
        fitted = fitted_size(source, self.size)
        limit = np.array([source[1], source[0]] * 2, dtype=np.float64)
        boxes = np.clip(boxes * limit / [fitted[1], fitted[0], fitted[1], fitted[0]], 0, limit)
        keep = nms(boxes, scores, self._nms)
        keep = keep[(boxes[keep, 2:] - boxes[keep, :2]).min(axis=1) >= 1]  # a sliver at the border is nobody
        return Detections(boxes[keep], scores[keep])

    def close(self) -> None:
        self._session.close()


def open_detector(path: Path | str, backend: str = "onnxruntime") -> YoloxDetector:
    """Open a YOLOX detector from its ONNX file.

    Raises:
        UsageError: the file cannot be loaded on this backend, or is not YOLOX.
    """
    session = open_graph(Path(path), backend)
    try:
        return YoloxDetector(session)
    except UsageError as error:
        session.close()
        raise UsageError(f"detector {path}: {error}") from None


def fitted_size(source: Size, size: Size) -> Size:
    """The largest (height, width) of the picture's shape that fits into ``size``.

    >>> fitted_size((720, 1280), (416, 416))
    (234, 416)
    """
    scale = min(size[0] / source[0], size[1] / source[1])
    return max(1, round(source[0] * scale)), max(1, round(source[1] * scale))


def letterbox(image: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Fit a picture (H, W, 3) into the top left of ``size`` (height, width), bilinear; the rest is grey 114."""
    height, width = fitted_size(image.shape[:2], size)
    canvas = np.full((*size, 3), _PAD, dtype=np.uint8)
    canvas[:height, :width] = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return canvas


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


def box_iou(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """Intersection over union of every box of (N, 4) with every box of (M, 4), xyxy: (N, M).

    >>> box_iou(np.array([[0.0, 0, 2, 2]]), np.array([[1.0, 0, 3, 2], [5, 5, 6, 6]])).round(3).tolist()
    [[0.333, 0.0]]
    """
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=2)
    area_a, area_b = np.prod(a[:, 2:] - a[:, :2], axis=1), np.prod(b[:, 2:] - b[:, :2], axis=1)
    return np.asarray(shared / np.maximum(area_a[:, None] + area_b[None, :] - shared, 1e-9), dtype=np.float64)


def nms(boxes: NDArray[np.floating], scores: NDArray[np.floating], overlap: float) -> NDArray[np.intp]:
    """Indices of the boxes (N, 4) that stay, the most certain first: none overlaps a better one by more than an IoU."""
    order = np.argsort(-scores, kind="stable")
    rivals = box_iou(boxes[order], boxes[order]) > overlap
    stays = np.ones(len(order), dtype=bool)
    for i in range(len(order)):
        if stays[i]:
            stays[i + 1 :] &= ~rivals[i, i + 1 :]
    return order[stays]


def _check_yolox(session: Session) -> Size:
    """The (height, width) of a YOLOX network's input."""
    expected = "expected YOLOX: input float32 (1, 3, h, w), output float32 (1, cells, 5 + classes), h and w fixed"
    got = f"inputs {_listed(session.inputs)}, outputs {_listed(session.outputs)}"
    if len(session.inputs) != 1 or len(session.outputs) != 1:
        raise UsageError(f"got {got}; {expected}")
    taken, given = session.inputs[0], session.outputs[0]
    floats = taken.dtype == given.dtype == np.float32
    if not floats or len(taken.shape) != 4 or len(given.shape) != 3 or taken.shape[0] not in (1, None):
        raise UsageError(f"got {got}; {expected}")
    _, channels, height, width = taken.shape
    if channels != 3 or height is None or width is None or given.shape[2] is None or given.shape[2] < 6:
        raise UsageError(f"got {got}; {expected}")
    cells = len(yolox_cells((height, width)))
    if given.shape[1] not in (cells, None):
        raise UsageError(f"got {got}; {expected}, where {height}x{width} pixels are {cells} cells")
    return height, width


def _listed(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(map(str, specs))
