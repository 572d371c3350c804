"""What is checked: replays of the goldens, their errors, and the limits they are held to."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle import GOLDENS, Bundle, Goldens
from ..engines import read_record
from ..errors import UsageError
from ..heatmaps import STRIDE
from ..runtime.backends import ENGINE_BACKENDS, open_session
from ..runtime.session import Arrays, Session


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

#: One row per arithmetic, the coarsest first: an engine of several is held to the coarsest it uses. Below FP32 the
#: tail of the keypoints has no limit: a joint with two peaks of nearly the same height jumps from one to the other
#: although the heat-maps are right (46 px at p99 on a young ditn_lite in FP16). Whether that matters, accuracy tells.
LIMITS = {
    "int8": Limits(
        0.3, _DECODE_STEP, None, "256 levels a tensor: this finds a broken engine, accuracy judges the rest"
    ),
    "bf16": Limits(0.2, _DECODE_STEP, None, "8-bit significands: 1/256 a rounding; ditn_lite in PyTorch's BF16: 0.08"),
    "fp16": Limits(0.05, 0.05, None, "11-bit significands: 1/2048 a rounding; ditn_lite in PyTorch's FP16: 0.02"),
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


@dataclass(frozen=True)
class Check:
    """One backend at one batch size. ``problem`` says why it failed, None that it passed.

    ``outputs``, the keypoints and heat-maps of all goldens, is None where the engine gave no arrays of that form;
    ``figures`` is None there too, and where an output is not finite.
    """

    backend: str
    precision: str
    batch: int
    figures: Figures | None = None
    problem: str | None = None
    outputs: Arrays | None = field(default=None, repr=False, compare=False)

    @property
    def cells(self) -> tuple[str, ...]:
        """The figures as five cells of a table, in the order of :class:`Figures`."""
        if self.figures is None:
            return ("-",) * 5
        f = self.figures
        return (f"{f.heatmap:.2g}", f"{f.heatmap_fraction:.2g}", *(f"{px:.2f}" for px in (f.p50, f.p99, f.largest)))


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


def check_backend(bundle: Bundle, goldens: Goldens, backend: str) -> Iterator[Check]:
    """Replay the goldens on one backend, one by one and all at once."""
    precision = _precision(bundle, backend)
    batches = sorted({1, len(goldens.images)})
    try:
        session = open_session(bundle, backend)
    except UsageError as error:
        yield Check(backend, precision, batches[0], problem=str(error))
        return
    try:
        for batch in batches:
            yield _check_batch(session, goldens, precision, batch)
    finally:
        session.close()


def _precision(bundle: Bundle, backend: str) -> str:
    """Every backend but the engines runs the FP32 graph; an engine's record knows."""
    if backend not in ENGINE_BACKENDS:
        return "fp32"
    from ..runtime.backends.tensorrt import find_engine

    return read_record(find_engine(bundle, backend)).precision


def _check_batch(session: Session, goldens: Goldens, precision: str, batch: int) -> Check:
    try:
        parts = [
            session.run({"images": goldens.images[start : start + batch]})
            for start in range(0, len(goldens.images), batch)
        ]
    except Exception as error:  # the engines' own exception types share no public base
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        return Check(session.backend, precision, batch, problem=f"a batch of {batch} does not run: {reason}")
    outputs = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    problem = _malformed(outputs, goldens)
    if problem:
        return Check(session.backend, precision, batch, problem=problem)
    problem = _not_finite(outputs)
    if problem:
        return Check(session.backend, precision, batch, problem=problem, outputs=outputs)
    figures = compare(goldens, outputs)
    return Check(session.backend, precision, batch, figures, judge(figures, limits_for(precision)), outputs)


def _malformed(outputs: Arrays, goldens: Goldens) -> str | None:
    for name, expected in (("keypoints", goldens.keypoints), ("heatmaps", goldens.heatmaps)):
        if name not in outputs:
            return f"there is no output {name}, only {', '.join(sorted(outputs))}"
        if outputs[name].shape != expected.shape:
            return f"output {name} has shape {outputs[name].shape}, PyTorch's has {expected.shape}"
    return None


def _not_finite(outputs: Arrays) -> str | None:
    for name in ("heatmaps", "keypoints"):
        wrong = ~np.isfinite(outputs[name])
        if wrong.any():
            crop, joint = np.argwhere(wrong)[0][:2]
            return f"{name} hold {wrong.sum()} NaN or infinite values, the first in crop {crop}, joint {joint}"
    return None


def crop_errors(goldens: Goldens, outputs: Arrays) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Keypoint distances (N, J) in crop pixels, and each crop's largest heat-map error (N,); NaN counts as infinite."""
    difference = outputs["keypoints"].astype(np.float64) - goldens.keypoints
    distances = np.linalg.norm(difference[..., :2], axis=-1)
    maps = np.abs(outputs["heatmaps"].astype(np.float64) - goldens.heatmaps).max(axis=(1, 2, 3))
    maps = np.maximum(maps, np.abs(difference[..., 2]).max(axis=1))
    return np.nan_to_num(distances, nan=np.inf), np.nan_to_num(maps, nan=np.inf)


def compare(goldens: Goldens, outputs: Arrays) -> Figures:
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
