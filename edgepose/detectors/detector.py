"""What the kinds of person detectors share: a picture in, boxes of persons out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..backends.session import Arrays, Session
from ..bundle.contract import TensorSpec
from ..core.boxes import nms
from ..core.errors import CheckError, UsageError
from ..core.geometry import Size
from ..core.images import fitted_size, letterbox


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


def _unknown(session: Session, expected: str) -> UsageError:
    return UsageError(f"got inputs {_listed(session.inputs)}, outputs {_listed(session.outputs)}; {expected}")


def _listed(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(map(str, specs))
