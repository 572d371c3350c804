"""The goldens as a test: reading them, errors against them, and the limits that these are held to."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bundle import GOLDENS, Bundle, Goldens
from .errors import UsageError
from .heatmaps import STRIDE


@dataclass(frozen=True)
class Limits:
    """Largest errors that still pass.

    Attributes:
        heatmap: fraction of the range (maximum - minimum) of the golden heat-maps.
        p50: median keypoint error in crop pixels.
        p99: 99th percentile of it; None for no limit.
        why: the reason for the numbers.
    """

    heatmap: float
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


def limits_for(precision: str) -> Limits:
    """Limits of ``fp32``, ``fp16``, ``bf16``, ``int8``, ``int8+fp16`` or ``mixed`` (which may hold INT8).

    >>> limits_for("int8+fp16") is LIMITS["int8"]
    True
    """
    if precision == "mixed":
        return LIMITS["int8"]
    for name, limits in LIMITS.items():
        if name in precision.split("+"):
            return limits
    raise UsageError(f"no limits for precision {precision!r}: expected mixed or a sum of {', '.join(LIMITS)}")


@dataclass(frozen=True)
class Figures:
    """Errors of one replay against PyTorch.

    Attributes:
        heatmap: largest absolute error of heat-maps and scores (a score is a heat-map value).
        heatmap_fraction: the same, as a fraction of the golden heat-maps' range.
        p50: median distance of keypoints, in crop pixels; likewise ``p99`` and ``largest``.
    """

    heatmap: float
    heatmap_fraction: float
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
        raise UsageError(f"bundle {bundle.path} has no {GOLDENS} to verify against: export it again")
    try:
        goldens = bundle.goldens()
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UsageError(f"{path} is damaged ({error}): export the bundle again") from error
    count, joints = len(goldens.images), len(bundle.skeleton.joints)
    height, width = bundle.manifest.input_size
    if count == 0:
        raise UsageError(f"{path} holds no crops, expected at least one: export the bundle again")
    expected: dict[str, tuple[NDArray[Any], type, tuple[int, ...]]] = {
        "images": (goldens.images, np.uint8, (count, height, width, 3)),
        "keypoints": (goldens.keypoints, np.float32, (count, joints, 3)),
        "heatmaps": (goldens.heatmaps, np.float32, (count, joints, height // STRIDE, width // STRIDE)),
    }
    for name, (array, dtype, shape) in expected.items():
        if array.dtype != dtype or array.shape != shape or not np.isfinite(array).all():
            raise UsageError(
                f"{path}: {name} is {array.dtype} {array.shape}, expected finite {np.dtype(dtype)} {shape}: "
                "export the bundle again"
            )
    return goldens


def malformed(goldens: Goldens, outputs: Mapping[str, NDArray[Any]]) -> str | None:
    """Why outputs cannot be compared with the goldens, or None."""
    for name, expected in (("keypoints", goldens.keypoints), ("heatmaps", goldens.heatmaps)):
        if name not in outputs:
            return f"there is no output {name}, only {', '.join(sorted(outputs))}"
        if outputs[name].shape != expected.shape:
            return f"output {name} has shape {outputs[name].shape}, PyTorch's has {expected.shape}"
    return None


def not_finite(outputs: Mapping[str, NDArray[Any]]) -> str | None:
    """Where outputs first hold NaN or infinity, or None."""
    for name in ("heatmaps", "keypoints"):
        wrong = ~np.isfinite(outputs[name])
        if wrong.any():
            crop, joint = np.argwhere(wrong)[0][:2]
            return f"{name} hold {wrong.sum()} NaN or infinite values, the first in crop {crop}, joint {joint}"
    return None


def crop_errors(
    goldens: Goldens, outputs: Mapping[str, NDArray[Any]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Keypoint distances (N, J) in crop pixels, and each crop's largest heat-map error (N,); NaN counts as infinite."""
    difference = outputs["keypoints"].astype(np.float64) - goldens.keypoints
    distances = np.linalg.norm(difference[..., :2], axis=-1)
    maps = np.abs(outputs["heatmaps"].astype(np.float64) - goldens.heatmaps).max(axis=(1, 2, 3))
    maps = np.maximum(maps, np.abs(difference[..., 2]).max(axis=1))
    return np.nan_to_num(distances, nan=np.inf), np.nan_to_num(maps, nan=np.inf)


def compare(goldens: Goldens, outputs: Mapping[str, NDArray[Any]]) -> Figures:
    """Figures of one replay.

    Args:
        goldens: what PyTorch gave.
        outputs: ``keypoints`` (N, J, 3) and ``heatmaps`` (N, J, h, w) of the same crops, finite.
    """
    distances, maps = crop_errors(goldens, outputs)
    p50, p99, largest = np.percentile(distances, (50, 99, 100))
    spread = float(np.ptp(goldens.heatmaps)) or 1.0  # constant heat-maps have no range to measure by
    return Figures(float(maps.max()), float(maps.max()) / spread, float(p50), float(p99), float(largest))


def judge(figures: Figures, limits: Limits) -> str | None:
    """Why figures fail, or None if they are within the limits."""
    excess = [
        f"{what} is {got:.3g}{unit}, the limit is {limit:.3g}{unit}"
        for what, got, limit, unit in (
            ("the heat-map error as a fraction of the range", figures.heatmap_fraction, limits.heatmap, ""),
            ("the median keypoint error", figures.p50, limits.p50, " px"),
            ("the 99th percentile of keypoint errors", figures.p99, limits.p99, " px"),
        )
        if limit is not None and got > limit
    ]
    return "; ".join(excess) or None


def examine(goldens: Goldens, outputs: Mapping[str, NDArray[Any]], precision: str) -> tuple[Figures | None, str | None]:
    """Figures of one replay, None where there are none, and why it fails, None where it is within the limits."""
    problem = malformed(goldens, outputs) or not_finite(outputs)
    if problem:
        return None, problem
    figures = compare(goldens, outputs)
    return figures, judge(figures, limits_for(precision))
