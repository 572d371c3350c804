"""The goldens as a test: reading them, errors against them, and the limits that these are held to."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.boxes import PERSON_SCORE, person_errors
from ..core.errors import UsageError
from .bundle import Bundle
from .goldens import Goldens
from .manifest import BOXES, GOLDENS, QUARTER


@dataclass(frozen=True)
class Limits:
    """Largest errors that still pass.

    Attributes:
        score: fraction of the range (maximum - minimum) of the golden heat-maps, or of a detector's scores.
        p50: median error of keypoints, or of a detector's boxes, in crop pixels.
        p99: 99th percentile of it; None for no limit.
        why: the reason for the numbers.
    """

    score: float
    p50: float
    p99: float | None
    why: str


#: A maximum that moves to its neighbour, or a quarter offset that turns round, moves a keypoint by 2 px an axis.
_DECODE_STEP = 2.0 * 2**0.5 + 0.05

#: One row per arithmetic, the coarsest first: what holds several is held to the coarsest of them. Below FP32 the tail
#: of the keypoints has no limit: a joint with two peaks of nearly the same height jumps from one to the other although
#: the heat-maps are right (52 px at p99 on ditn_lite in INT8). Whether that matters, accuracy tells.
LIMITS = {
    "int8": Limits(
        0.2,
        _DECODE_STEP,
        None,
        "254 steps a tensor; ditn_lite 0.07, and 0.12 to 0.55 with one activation clipped at an eighth of its range: "
        "this finds a broken engine, accuracy judges the rest",
    ),
    "bf16": Limits(
        0.2, _DECODE_STEP, None, "8-bit significands: 1/256 a rounding; ditn_lite 0.02, with random weights 0.14"
    ),
    "fp16": Limits(
        0.05, 0.05, None, "11-bit significands: 1/2048 a rounding; ditn_lite 0.001, with random weights 0.013"
    ),
    "fp32": Limits(
        1e-4, 0.05, 0.05, "the same arithmetic in another order: a keypoint is equal or jumps 1 px and more"
    ),
}


#: The same for a detector. Boxes lie on no grid, so they move a little in every arithmetic; below FP32 the tail has no
#: limit, where two boxes of nearly the same score box one person.
BOX_LIMITS = {
    "int8": Limits(
        0.6,
        8.0,
        None,
        "254 steps a tensor; person_lite 0.03 and 0.5 px, YOLOX-nano 0.1 to 0.33, for a tiny person in a crowd, and "
        "1.4 px: this finds a broken engine, the average precision beside FP32 (edgepose calibrate) judges the rest",
    ),
    "bf16": Limits(0.2, 4.0, None, "8-bit significands: 1/256 a rounding; YOLOX-nano 0.03 and 0.5 px"),
    "fp16": Limits(0.05, 0.5, None, "11-bit significands: 1/2048 a rounding; YOLOX-nano 0.006 and 0.04 px"),
    "fp32": Limits(1e-4, 0.05, 0.05, "the same arithmetic in another order: YOLOX-nano 1e-6 and 0.00 px"),
}


@dataclass(frozen=True)
class Kind:
    """The words and limits of one kind of network.

    Attributes:
        score, point, points: what is compared.
        outputs: their names in the graph.
        reference: whose are right.
        limits: one row per arithmetic.
    """

    score: str
    point: str
    points: str
    outputs: tuple[str, str]
    reference: str
    limits: Mapping[str, Limits]


#: By how the graph reads its results.
KINDS = {
    QUARTER: Kind("heat-map", "keypoint", "keypoints", ("heatmaps", "keypoints"), "PyTorch", LIMITS),
    BOXES: Kind("score", "box", "boxes", ("scores", "boxes"), "the imported file", BOX_LIMITS),
}


def limits_for(precision: str, decode: str = QUARTER) -> Limits:
    """Limits of ``fp32``, ``fp16``, ``bf16``, ``int8``, ``int8+fp16`` or ``mixed`` (which may hold INT8).

    >>> limits_for("int8+fp16") is LIMITS["int8"]
    True
    """
    rows = KINDS[decode].limits
    if precision == "mixed":
        return rows["int8"]
    for name, limits in rows.items():
        if name in precision.split("+"):
            return limits
    raise UsageError(f"no limits for precision {precision!r}: expected mixed or a sum of {', '.join(rows)}")


@dataclass(frozen=True)
class Figures:
    """Errors of one replay against the goldens.

    Attributes:
        score: largest absolute error of a score; every value of a heat-map is one.
        score_fraction: the same, as a fraction of the golden scores' range.
        p50: median distance of keypoints, or of the corners of boxes, in crop pixels; likewise ``p99`` and ``largest``.
    """

    score: float
    score_fraction: float
    p50: float
    p99: float
    largest: float


def read_goldens(bundle: Bundle) -> Goldens:
    """The goldens of a bundle, checked against its manifest and each other.

    Raises:
        UsageError: they are missing, damaged, empty, not finite, or not of the bundle's shapes.
    """
    path = bundle.path / GOLDENS
    if not path.is_file():
        raise UsageError(f"bundle {bundle.path} has no {GOLDENS} to verify against: {bundle.manifest.remake}")
    try:
        goldens = bundle.goldens()
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UsageError(f"{path} is damaged ({error}): {bundle.manifest.remake}") from error
    count = len(goldens.images)
    if count == 0:
        raise UsageError(f"{path} holds no crops, expected at least one: {bundle.manifest.remake}")
    _check_array(bundle, "images", goldens.images, np.uint8, (count, *bundle.manifest.input_size, 3))
    for name, shape in bundle.output_shapes.items():
        if name not in goldens.outputs:
            raise UsageError(f"{path} lacks {name}: {bundle.manifest.remake}")
        _check_array(bundle, name, goldens.outputs[name], np.float32, (count, *shape))
    if bundle.manifest.detects and not goldens.outputs["scores"].max() >= PERSON_SCORE:
        raise UsageError(f"{path} shows nobody, so it proves nothing: {bundle.manifest.remake}")
    return goldens


def _check_array(bundle: Bundle, name: str, array: NDArray[Any], dtype: type, shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape or not np.isfinite(array).all():
        expected = f"expected finite {np.dtype(dtype)} {shape}: {bundle.manifest.remake}"
        raise UsageError(f"{bundle.path / GOLDENS}: {name} is {array.dtype} {array.shape}, {expected}")


def malformed(goldens: Goldens, outputs: Mapping[str, NDArray[Any]]) -> str | None:
    """Why outputs cannot be compared with the goldens, or None."""
    for name, expected in goldens.outputs.items():
        if name not in outputs:
            return f"there is no output {name}, only {', '.join(sorted(outputs))}"
        if outputs[name].shape != expected.shape:
            return f"output {name} has shape {outputs[name].shape}, expected {expected.shape}"
    return None


def not_finite(outputs: Mapping[str, NDArray[Any]], kind: Kind = KINDS[QUARTER]) -> str | None:
    """Where outputs first hold NaN or infinity, or None."""
    for name in kind.outputs:
        wrong = ~np.isfinite(outputs[name])
        if wrong.any():
            crop, point = np.argwhere(wrong)[0][:2]
            return f"{name} hold {wrong.sum()} NaN or infinite values, the first in crop {crop}, {kind.point} {point}"
    return None


def crop_errors(
    goldens: Goldens, outputs: Mapping[str, NDArray[Any]]
) -> tuple[list[NDArray[np.float64]], NDArray[np.float64]]:
    """Of each crop the distances of its points, in crop pixels, and its largest error of a score; NaN is infinite.

    The points are the keypoints (J,), or of a detector the persons of the golden picture.
    """
    if goldens.decode == BOXES:
        wanted, got = (zip(found["boxes"], found["scores"], strict=True) for found in (goldens.outputs, outputs))
        found = [person_errors(*pair, PERSON_SCORE) for pair in zip(wanted, got, strict=True)]
        finite = np.isfinite(outputs["boxes"]).all(axis=(1, 2)) & np.isfinite(outputs["scores"]).all(axis=1)
        return [distances for distances, _ in found], np.where(finite, [score for _, score in found], np.inf)
    difference = outputs["keypoints"].astype(np.float64) - goldens.outputs["keypoints"]
    distances = np.nan_to_num(np.linalg.norm(difference[..., :2], axis=-1), nan=np.inf)
    maps = np.abs(outputs["heatmaps"].astype(np.float64) - goldens.outputs["heatmaps"]).max(axis=(1, 2, 3))
    maps = np.maximum(maps, np.abs(difference[..., 2]).max(axis=1))
    return list(distances), np.nan_to_num(maps, nan=np.inf)


def compare(goldens: Goldens, outputs: Mapping[str, NDArray[Any]]) -> Figures:
    """Figures of one replay.

    Args:
        goldens: what the reference gave.
        outputs: likewise by name, of the same crops, finite.
    """
    per_crop, scores = crop_errors(goldens, outputs)
    distances = np.concatenate(per_crop)
    p50, p99, largest = np.percentile(distances, (50, 99, 100)) if distances.size else (0.0, 0.0, 0.0)
    # Constant scores have no range to measure by.
    spread = float(np.ptp(goldens.outputs["scores" if goldens.decode == BOXES else "heatmaps"])) or 1.0
    return Figures(float(scores.max()), float(scores.max()) / spread, float(p50), float(p99), float(largest))


def judge(figures: Figures, limits: Limits, kind: Kind = KINDS[QUARTER]) -> str | None:
    """Why figures fail, or None if they are within the limits."""
    excess = [
        f"{what} is {got:.3g}{unit}, the limit is {limit:.3g}{unit}"
        for what, got, limit, unit in (
            (f"the {kind.score} error as a fraction of the range", figures.score_fraction, limits.score, ""),
            (f"the median {kind.point} error", figures.p50, limits.p50, " px"),
            (f"the 99th percentile of {kind.point} errors", figures.p99, limits.p99, " px"),
        )
        if limit is not None and got > limit
    ]
    return "; ".join(excess) or None


def examine(goldens: Goldens, outputs: Mapping[str, NDArray[Any]], precision: str) -> tuple[Figures | None, str | None]:
    """Figures of one replay, None where there are none, and why it fails, None where it is within the limits."""
    kind = KINDS[goldens.decode]
    problem = malformed(goldens, outputs) or not_finite(outputs, kind)
    if problem:
        return None, problem
    figures = compare(goldens, outputs)
    return figures, judge(figures, limits_for(precision, goldens.decode), kind)
