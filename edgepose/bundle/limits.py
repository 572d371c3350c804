"""The largest errors that pass when a bundle's goldens are replayed, for each arithmetic, with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..core.errors import UsageError


@dataclass(frozen=True)
class Limits:
    """The largest errors that pass, and the reason for the numbers.

    ``score`` is a fraction of the range (maximum - minimum) of the golden heat-maps, or of a detector's scores; ``p50``
    and ``p99`` (None for no limit) are percentiles of the error of keypoints, or of the corners of boxes, in pixels of
    the network's input.
    """

    score: float
    p50: float
    why: str
    p99: float | None = None


#: A maximum that moves to the next cell, or a quarter offset that changes sign, moves a keypoint by 2 px along an axis.
_DECODE_STEP = 2.0 * 2**0.5 + 0.05

#: One row per arithmetic, the coarsest first: a graph with several is held to its coarsest. Below FP32, p99 has no
#: limit: a joint with two peaks of nearly the same height jumps from one to the other although the heat-maps are right
#: (52 px at p99 on ditn_lite in INT8). Accuracy on labelled data decides whether that matters.
POSE_LIMITS = {
    "int8": Limits(
        0.2,
        _DECODE_STEP,
        "INT8 has 254 levels per tensor. Measured: ditn_lite 0.07; with one wrong range 0.12 to 0.55. These limits "
        "detect broken engines, and a joint with two peaks may jump at p99; use --data to judge accuracy",
    ),
    "bf16": Limits(
        0.2,
        _DECODE_STEP,
        "BF16 has 8-bit significands: 1/256 per rounding. Measured: ditn_lite 0.02, with random weights 0.14",
    ),
    "fp16": Limits(
        0.05,
        0.05,
        "FP16 has 11-bit significands: 1/2048 per rounding. Measured: ditn_lite 0.001, with random weights 0.013",
    ),
    "fp32": Limits(
        1e-4, 0.05, "the same arithmetic in another order: a keypoint is equal or jumps 1 px and more", p99=0.05
    ),
}

#: The same for a detector. Boxes lie on no grid, so they move a little in every arithmetic; below FP32, p99 has no
#: limit, because two boxes of nearly the same score may compete for one person.
BOX_LIMITS = {
    "int8": Limits(
        0.6,
        8.0,
        "INT8 has 254 levels per tensor. Measured: person_lite 0.03 and 0.5 px; YOLOX-nano 0.1 to 0.33, for a tiny "
        "person in a crowd, and 1.4 px. These limits detect broken engines; the average precision beside FP32 "
        "(edgepose calibrate) judges the rest",
    ),
    "bf16": Limits(0.2, 4.0, "BF16 has 8-bit significands: 1/256 per rounding. Measured: YOLOX-nano 0.03 and 0.5 px"),
    "fp16": Limits(
        0.05, 0.5, "FP16 has 11-bit significands: 1/2048 per rounding. Measured: YOLOX-nano 0.006 and 0.04 px"
    ),
    "fp32": Limits(1e-4, 0.05, "the same arithmetic in another order. Measured: YOLOX-nano 1e-6 and 0.00 px", p99=0.05),
}


def limits_in(rows: Mapping[str, Limits], precision: str) -> Limits:
    """Choose the limits for a precision from :data:`POSE_LIMITS` or :data:`BOX_LIMITS`; ``mixed`` may hold INT8.

    >>> limits_in(POSE_LIMITS, "int8+fp16") is POSE_LIMITS["int8"]
    True
    """
    if precision == "mixed":
        return rows["int8"]
    for name, limits in rows.items():
        if name in precision.split("+"):
            return limits
    raise UsageError(f"no limits for precision {precision!r}: expected mixed or a sum of {', '.join(rows)}")
