"""Person detectors: a picture in, boxes of persons out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from ..bundle import Bundle, open_bundle
from ..errors import CheckError, UsageError
from ..geometry import Size
from ..persons import NMS, nms
from .backends import choose, open_graph, open_session
from .self_check import self_check as check_here
from .session import Arrays, Session, TensorSpec

#: YOLOX predicts on three grids, whose cells are this many pixels wide.
STRIDES = (8, 16, 32)
_PAD = 114
_PERSON = 0

#: The detector that comes with the package: its name, and its graph.
SHIPPED_NAME = "person_lite"
SHIPPED = Path(__file__).parent.parent / "assets" / SHIPPED_NAME / f"{SHIPPED_NAME}.onnx"
#: Least score of a person, unless another one is asked for: of YOLOX, and of a network that decodes its boxes itself,
#: whose score is how well the box is thought to fit.
YOLOX_THRESHOLD, PEAK_THRESHOLD = 0.4, 0.35


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
    """The three steps of a detector, apart, so that the network's time is told from the time around it.

    Attributes:
        engine: what runs the network, such as ``openvino int8``; of a file, whose precision nobody knows, the backend.
    """

    engine: str

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


class NetworkDetector:
    """What the kinds of detectors share: letterbox, run, decode, bring the boxes back into the picture.

    Args:
        session: the network.
        size: (height, width) of its input.
        threshold: least score of a person.
        nms: of two boxes that overlap by more than this IoU, the more certain stays.
    """

    def __init__(self, session: Session, size: Size, threshold: float, nms: float) -> None:
        self.size, self.engine = size, session.backend
        self._session, self._threshold, self._nms = session, threshold, nms

    def __call__(self, image: NDArray[np.uint8]) -> Detections:
        """Detect persons in a picture (H, W, 3) uint8 RGB."""
        return self.finish(self.infer(self.prepare(image)), image.shape[:2])

    def prepare(self, image: NDArray[np.uint8]) -> Arrays:
        return {self._session.inputs[0].name: self.blob(letterbox(image, self.size))}

    def infer(self, feeds: Arrays) -> Arrays:
        return self._session.run(feeds)

    def finish(self, outputs: Arrays, source: Size) -> Detections:
        if not all(np.isfinite(array).all() for array in outputs.values()):
            # No score above the threshold would read as an empty picture.
            backend = self._session.backend
            raise CheckError(f"the detector gave NaN or infinity on backend {backend}: check its file")
        boxes, scores = self.decode(outputs)
        fitted = fitted_size(source, self.size)
        limit = np.array([source[1], source[0]] * 2, dtype=np.float64)
        boxes = np.clip(boxes * limit / [fitted[1], fitted[0], fitted[1], fitted[0]], 0, limit)
        keep = nms(boxes, scores, self._nms)
        keep = keep[(boxes[keep, 2:] - boxes[keep, :2]).min(axis=1) >= 1]  # a sliver at the border is nobody
        return Detections(boxes[keep], scores[keep])

    def close(self) -> None:
        self._session.close()

    def blob(self, canvas: NDArray[np.uint8]) -> NDArray[Any]:
        """The network's input, from a letterboxed picture (h, w, 3) uint8 RGB."""
        raise NotImplementedError

    def decode(self, outputs: Arrays) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Boxes (N, 4) xyxy in pixels of the network's input, and scores (N,), of the persons above the threshold."""
        raise NotImplementedError


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


class PeakDetector(NetworkDetector):
    """A network that decodes its boxes itself, such as ``person_lite``: uint8 RGB, letterboxed to the top left.

    Args:
        session: with one input (N, h, w, 3) uint8 and the outputs ``boxes`` (N, K, 4) float32, xyxy in pixels of the
            input, and ``scores`` (N, K) float32.
        threshold: least score.
        nms: see :class:`NetworkDetector`; two peaks may say the same large person.

    Raises:
        UsageError: the network's inputs or outputs are others.
    """

    def __init__(self, session: Session, threshold: float = PEAK_THRESHOLD, nms: float = NMS) -> None:
        super().__init__(session, _check_peaks(session), threshold, nms)

    def blob(self, canvas: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return canvas[None]

    def decode(self, outputs: Arrays) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        boxes, scores = outputs["boxes"][0].astype(np.float64), outputs["scores"][0]
        chosen = scores >= self._threshold
        return boxes[chosen], scores[chosen]


def detector_graph(detector: Path | str) -> Path:
    """The ONNX file of a detector: the one given, or that of ``person_lite``, which comes with the package."""
    return SHIPPED if str(detector) == SHIPPED_NAME else Path(detector)


def open_detector(
    detector: Path | str,
    backend: str = "auto",
    *,
    precision: str = "auto",
    threshold: float | None = None,
    self_check: bool = True,
) -> NetworkDetector:
    """Open a detector; the kind of a file is seen from its inputs and outputs.

    Args:
        detector: a bundle that ``edgepose import`` made, an ONNX file, or ``person_lite`` for the one that comes with
            the package.
        backend: of a bundle as in :func:`edgepose.load`, of a file ``onnxruntime``, which is also its ``auto``, or
            ``openvino``.
        precision: of a bundle, as in :func:`edgepose.load`.
        threshold: least score of a person; None for the kind's own.
        self_check: whether to replay a bundle's goldens on a machine where that was not done yet.

    Raises:
        UsageError: the detector cannot be loaded on this backend, or is of no known kind.
        CheckError: a bundle's network does not give its golden persons here.
    """
    if str(detector) != SHIPPED_NAME and Path(detector).is_dir():
        return _open_bundle(open_bundle(detector), backend, precision, threshold, self_check)
    session = open_graph(detector_graph(detector), "onnxruntime" if backend == "auto" else backend)
    decodes = {spec.name for spec in session.outputs} == {"boxes", "scores"}
    options = {} if threshold is None else {"threshold": threshold}
    try:
        return PeakDetector(session, **options) if decodes else YoloxDetector(session, **options)
    except UsageError as error:
        session.close()
        other = "" if decodes else "; or a network that decodes its boxes itself, with the outputs boxes and scores"
        raise UsageError(f"detector {detector}: {error}{other}") from None


def _open_bundle(
    bundle: Bundle, backend: str, precision: str, threshold: float | None, self_check: bool
) -> NetworkDetector:
    if not bundle.manifest.detects:
        raise UsageError(f"bundle {bundle.path} holds a pose network: expected a detector (edgepose import makes one)")
    backend, precision = choose(bundle, backend, precision)
    session = open_session(bundle, backend, precision)
    try:
        if self_check:
            check_here(bundle, session, precision)
        own = YOLOX_THRESHOLD if bundle.manifest.model == "yolox" else PEAK_THRESHOLD
        detector = PeakDetector(session, own if threshold is None else threshold)
        detector.engine = f"{backend} {precision}"
        return detector
    except Exception:
        session.close()
        raise


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


def _check_peaks(session: Session) -> Size:
    """The (height, width) of the input of a network that decodes its boxes itself."""
    expected = "expected input uint8 (N, h, w, 3), outputs float32 boxes (N, K, 4) and scores (N, K), h and w fixed"
    outputs = {spec.name: spec for spec in session.outputs}
    if len(session.inputs) != 1 or outputs.keys() != {"boxes", "scores"}:
        raise _unknown(session, expected)
    taken, boxes, scores = session.inputs[0], outputs["boxes"], outputs["scores"]
    kinds = (taken.dtype, boxes.dtype, scores.dtype) == (np.uint8, np.float32, np.float32)
    if not kinds or len(taken.shape) != 4 or len(boxes.shape) != 3 or len(scores.shape) != 2:
        raise _unknown(session, expected)
    _, height, width, channels = taken.shape
    if channels != 3 or height is None or width is None or boxes.shape[1:] != (scores.shape[1], 4):
        raise _unknown(session, expected)
    return height, width


def _unknown(session: Session, expected: str) -> UsageError:
    return UsageError(f"got inputs {_listed(session.inputs)}, outputs {_listed(session.outputs)}; {expected}")


def _listed(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(map(str, specs))
