"""Detectors with a graph that decodes the boxes itself, such as ``person_lite``."""

from __future__ import annotations

import numpy as np

from ..backends.session import Arrays, Session
from ..core.geometry import Size
from .detector import Decoded, DetectorKind


def _recognise(session: Session) -> Size | None:
    inputs = [(spec.dtype.name, spec.shape) for spec in session.inputs]
    outputs = {spec.name: (spec.dtype.name, spec.shape) for spec in session.outputs}
    match inputs, outputs.get("boxes"), outputs.get("scores"):
        case [("uint8", (_, int(height), int(width), 3))], ("float32", (_, peaks, 4)), ("float32", (_, scored)):
            if peaks == scored and len(outputs) == 2:
                return height, width
    return None


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
