"""Person detectors: the protocol, and the class that runs a network of any kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..backends.session import Arrays, Session
from ..bundle.contract import TensorSpec
from ..core.boxes import check_threshold, find_persons
from ..core.errors import CheckError, UsageError
from ..core.geometry import Size
from ..core.images import check_image, fitted_size, letterbox

#: Boxes (N, 4) float64 xyxy in pixels of the network's input, and scores (N,) float32.
Decoded = tuple[NDArray[np.float64], NDArray[np.float32]]


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
    """The three steps of a detector, separate so that each can be timed.

    Attributes:
        engine: backend and precision of the network, such as ``openvino int8``; for an ONNX file only the backend.
    """

    engine: str

    def prepare(self, image: NDArray[np.uint8]) -> Arrays:
        """Return the network's inputs for a picture (H, W, 3) uint8 RGB."""

    def infer(self, feeds: Arrays) -> Arrays:
        """Run the network."""

    def finish(self, outputs: Arrays, source: Size) -> Detections:
        """Return the persons in a picture of size ``source`` (height, width); CheckError for NaN or infinity."""

    def close(self) -> None:
        """Free the network."""


@dataclass(frozen=True)
class DetectorKind:
    """The differences between kinds of detectors.

    Attributes:
        name: name of the kind in bundles.
        threshold: default for the least score of a person.
        expects: the inputs and outputs of such a network, in words.
        recognise: returns the (height, width) of the input of a network of this kind; None for any other network.
        blob: returns the network's input for a letterboxed picture (h, w, 3) uint8 RGB.
        decode: returns the boxes, which may overlap, from the outputs for one picture, the input size (height, width)
            and the least score.
    """

    name: str
    threshold: float
    expects: str
    recognise: Callable[[Session], Size | None]
    blob: Callable[[NDArray[np.uint8]], NDArray[Any]]
    decode: Callable[[Arrays, Size, float], Decoded]


class NetworkDetector:
    """A detector of any kind: letterbox the picture, run the network, decode, and scale the boxes back.

    Args:
        session: a network of the kind; owned by the detector.
        threshold: least score of a person, from 0 to 1; None for the kind's default.

    Attributes:
        size: (height, width) of the network's input.

    Raises:
        UsageError: the network is not of this kind, or the threshold is not within 0 to 1.
    """

    def __init__(self, session: Session, kind: DetectorKind, threshold: float | None = None) -> None:
        self._threshold = kind.threshold if threshold is None else threshold
        check_threshold(self._threshold, "the detector's threshold")
        size = kind.recognise(session)
        if size is None:
            raise unknown_network(session, kind.expects)
        self.kind, self.size, self.engine = kind, size, session.backend
        self._session = session

    def __call__(self, image: NDArray[np.uint8]) -> Detections:
        """Detect the persons in a picture (H, W, 3) uint8 RGB.

        Raises:
            UsageError: the picture has another shape or dtype.
            CheckError: the network's outputs hold NaN or infinity.
        """
        return self.finish(self.infer(self.prepare(image)), image.shape[:2])

    def prepare(self, image: NDArray[np.uint8]) -> Arrays:
        check_image(image)
        return {self._session.inputs[0].name: self.kind.blob(letterbox(image, self.size))}

    def infer(self, feeds: Arrays) -> Arrays:
        return self._session.run(feeds)

    def finish(self, outputs: Arrays, source: Size) -> Detections:
        if not all(np.isfinite(array).all() for array in outputs.values()):
            # Scores that are NaN would look like a picture without persons.
            backend = self._session.backend
            raise CheckError(f"the detector gave NaN or infinity on backend {backend}: check its file")
        boxes, scores = self.kind.decode(outputs, self.size, self._threshold)
        fitted = fitted_size(source, self.size)
        limit = np.array([source[1], source[0]] * 2, dtype=np.float64)
        inside = np.clip(boxes * limit / [fitted[1], fitted[0], fitted[1], fitted[0]], 0, limit)
        boxes, scores = find_persons(inside, scores, self._threshold)
        wide = (boxes[:, 2:] - boxes[:, :2]).min(axis=1) >= 1  # thinner than a pixel at the border: not a person
        return Detections(boxes[wide], scores[wide])

    def close(self) -> None:
        self._session.close()


def count_rows(session: Session, output: TensorSpec) -> int:
    """Return the number of boxes in an output (N, boxes, values); where a file leaves it open, run the network once."""
    if output.shape[1] is not None:
        return output.shape[1]
    (taken,) = session.inputs
    blank = np.zeros([side or 1 for side in taken.shape], dtype=taken.dtype)
    return session.run({taken.name: blank})[output.name].shape[1]


def unknown_network(session: Session, expected: str) -> UsageError:
    """Return the error for a network of another kind than expected."""
    inputs, outputs = (", ".join(map(str, specs)) for specs in (session.inputs, session.outputs))
    return UsageError(f"got inputs {inputs}, outputs {outputs}; expected {expected}")
