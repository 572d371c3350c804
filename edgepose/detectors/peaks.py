"""Detectors with a graph that decodes the boxes itself, such as ``person_lite``."""

from __future__ import annotations

import numpy as np

from ..backends.session import Arrays, Session
from ..core.geometry import Size
from .detector import Decoded, DetectorKind


def _recognise(session: Session) -> Size | None:
    outputs = {spec.name: spec for spec in session.outputs}
    if len(session.inputs) != 1 or outputs.keys() != {"boxes", "scores"}:
        return None
    taken, boxes, scores = session.inputs[0], outputs["boxes"], outputs["scores"]
    kinds = (taken.dtype, boxes.dtype, scores.dtype) == (np.uint8, np.float32, np.float32)
    if not kinds or len(taken.shape) != 4 or len(boxes.shape) != 3 or len(scores.shape) != 2:
        return None
    _, height, width, channels = taken.shape
    if channels != 3 or height is None or width is None or boxes.shape[1:] != (scores.shape[1], 4):
        return None
    return height, width


def _decode(outputs: Arrays, size: Size, threshold: float) -> Decoded:  # noqa: ARG001 (the boxes are in pixels already)
    chosen = outputs["scores"][0] >= threshold
    return outputs["boxes"][0][chosen].astype(np.float64), outputs["scores"][0][chosen]


#: Two peaks may belong to one large person, so boxes may overlap. The score is the IoU that the network predicts.
PEAKS = DetectorKind(
    name="peaks",
    threshold=0.35,
    expects=(
        "input uint8 (N, h, w, 3), outputs float32 boxes (N, K, 4) and scores (N, K), h and w fixed (a network that "
        "decodes its boxes itself)"
    ),
    recognise=_recognise,
    blob=lambda canvas: canvas[None],
    decode=_decode,
)
