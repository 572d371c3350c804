"""What the kinds of person detectors share: a picture in, boxes of persons out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..backends.session import Arrays, Session
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
    """The three steps of a detector, apart, so that the network's time is told from the time around it.

    Attributes:
        engine: what runs the network, such as ``openvino int8``; of a file, whose precision nobody knows, the backend.
    """

    engine: str

    def prepare(self, image: NDArray[np.uint8]) -> Arrays:
        """Return what the network takes, from a picture (H, W, 3) uint8 RGB."""
        ...

    def infer(self, feeds: Arrays) -> Arrays:
        """Run the network."""
        ...

    def finish(self, outputs: Arrays, source: Size) -> Detections:
        """Return the persons in what the network gave for a picture of size ``source`` (height, width).

        Raises:
            CheckError: the network gave numbers that are not finite.
        """
        ...

    def close(self) -> None:
        """Free the network."""
        ...


@dataclass(frozen=True)
class DetectorKind:
    """What differs between detectors: how to recognise one, what it takes, and how its outputs are read.

    Attributes:
        name: of the kind, as bundles name it.
        threshold: least score of a person, unless another one is asked for.
        expects: the inputs and outputs of such a network, in words.
        recognise: the (height, width) of the input of a network of this kind; None for any other network.
        blob: the network's input, from a letterboxed picture (h, w, 3) uint8 RGB.
        decode: the boxes in the network's outputs for one picture, of an input size (height, width), that reach a
            least score. They may overlap.
    """

    name: str
    threshold: float
    expects: str
    recognise: Callable[[Session], Size | None]
    blob: Callable[[NDArray[np.uint8]], NDArray[Any]]
    decode: Callable[[Arrays, Size, float], Decoded]


class NetworkDetector:
    """A detector of any kind: letterbox, run, decode, bring the boxes back into the picture.

    Args:
        session: the network; owned by the detector from here on.
        kind: how it is fed and read.
        threshold: least score of a person, from 0 to 1; None for the kind's own.

    Attributes:
        kind: as above.
        size: (height, width) of the network's input.
        engine: see :class:`Detector`.

    Raises:
        UsageError: the network is not of this kind, or the threshold is no score.
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
            UsageError: not such a picture.
            CheckError: the network gave numbers that are not finite.
        """
        return self.finish(self.infer(self.prepare(image)), image.shape[:2])

    def prepare(self, image: NDArray[np.uint8]) -> Arrays:
        check_image(image)
        return {self._session.inputs[0].name: self.kind.blob(letterbox(image, self.size))}

    def infer(self, feeds: Arrays) -> Arrays:
        return self._session.run(feeds)

    def finish(self, outputs: Arrays, source: Size) -> Detections:
        if not all(np.isfinite(array).all() for array in outputs.values()):
            # No score above the threshold would read as an empty picture.
            backend = self._session.backend
            raise CheckError(f"the detector gave NaN or infinity on backend {backend}: check its file")
        boxes, scores = self.kind.decode(outputs, self.size, self._threshold)
        fitted = fitted_size(source, self.size)
        limit = np.array([source[1], source[0]] * 2, dtype=np.float64)
        inside = np.clip(boxes * limit / [fitted[1], fitted[0], fitted[1], fitted[0]], 0, limit)
        boxes, scores = find_persons(inside, scores, self._threshold)
        wide = (boxes[:, 2:] - boxes[:, :2]).min(axis=1) >= 1  # a sliver at the border is nobody
        return Detections(boxes[wide], scores[wide])

    def close(self) -> None:
        self._session.close()


def unknown_network(session: Session, expected: str) -> UsageError:
    """Return the error of a network that is of no kind that was expected."""
    inputs, outputs = (", ".join(map(str, specs)) for specs in (session.inputs, session.outputs))
    return UsageError(f"got inputs {inputs}, outputs {outputs}; expected {expected}")
