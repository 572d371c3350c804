"""A detector whose graph decodes its boxes itself, such as ``person_lite``."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..backends.session import Arrays, Session
from ..core.boxes import NMS
from ..core.geometry import Size
from .detector import NetworkDetector, _unknown
from .yolox import PEAK_THRESHOLD


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
