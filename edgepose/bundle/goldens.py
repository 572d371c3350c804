"""Goldens: images with the outputs of the reference. Read them, measure outputs against them, judge the error."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import UsageError
from .bundle import Bundle
from .contract import BONES, IMAGES, SEGMENTATION, TensorSpec
from .limits import Limits
from .manifest import GOLDENS
from .tasks import POSE, Outputs, Task


@dataclass(frozen=True)
class Goldens:
    """Images and the outputs of a reference for them: PyTorch, or the file that a network was imported from.

    Attributes:
        images: (N, H, W, 3) uint8 RGB: crops, or letterboxed pictures for a detector.
        outputs: float32 arrays by name, see :mod:`edgepose.bundle.contract`.
        task: task of the network.
    """

    images: NDArray[np.uint8]
    outputs: Mapping[str, NDArray[np.float32]]
    task: Task = POSE

    def first(self, count: int) -> Goldens:
        """Return the first ``count`` images and their outputs."""
        few = {name: values[:count] for name, values in self.outputs.items()}
        return Goldens(self.images[:count], few, self.task)

    def save(self, path: Path) -> None:
        """Write a compressed ``.npz``."""
        arrays: dict[str, Any] = {IMAGES: self.images, **self.outputs}
        np.savez_compressed(path, **arrays)


@dataclass(frozen=True)
class Figures:
    """Errors of one replay against the goldens.

    Attributes:
        score: largest absolute error of a score; every value of a heat-map counts as a score.
        score_fraction: the same, as a fraction of the golden scores' range.
        p50, p99, largest: median, 99th percentile and largest distance of keypoints, or of the corners of boxes, in
            pixels of the network's input.
    """

    score: float
    score_fraction: float
    p50: float
    p99: float
    largest: float


def read_goldens(bundle: Bundle) -> Goldens:
    """Read the goldens of a bundle; raise UsageError if they are missing, damaged, empty, not finite or misshapen."""
    path, task, contract = bundle.path / GOLDENS, bundle.task, bundle.contract
    remake = bundle.manifest.remake
    if not path.is_file():
        raise UsageError(f"bundle {bundle.path} has no {GOLDENS} to verify against: {remake}")
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        images = arrays.pop(IMAGES)
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UsageError(f"{path} is damaged ({error}): {remake}") from error
    if len(images) == 0:
        raise UsageError(f"{path} holds no {task.image}s, expected at least one: {remake}")
    _check_array(bundle, images, images, contract.images)
    for spec in contract.outputs_in(arrays):
        if spec.name not in arrays:
            raise UsageError(f"{path} lacks {spec.name}: {remake}")
        _check_array(bundle, arrays[spec.name], images, spec)
    flaw = task.flaw(arrays)
    if flaw:
        raise UsageError(f"{path}: {flaw}: {remake}")
    return Goldens(images, arrays, task)


def _check_array(bundle: Bundle, array: NDArray[Any], images: NDArray[Any], spec: TensorSpec) -> None:
    shape = (len(images), *spec.sample)
    if array.dtype != spec.dtype or array.shape != shape or not np.isfinite(array).all():
        expected = f"expected finite {spec.dtype} {shape}: {bundle.manifest.remake}"
        raise UsageError(f"{bundle.path / GOLDENS}: {spec.name} is {array.dtype} {array.shape}, {expected}")


def malformed(goldens: Goldens, outputs: Outputs) -> str | None:
    """Return why outputs cannot be compared with the goldens, or None."""
    for name, expected in goldens.outputs.items():
        if name not in outputs:
            return f"there is no output {name}, only {', '.join(sorted(outputs))}"
        if outputs[name].shape != expected.shape:
            return f"output {name} has shape {outputs[name].shape}, expected {expected.shape}"
    return None


def not_finite(goldens: Goldens, outputs: Outputs) -> str | None:
    """Return where outputs first hold NaN or infinity, or None."""
    task = goldens.task
    for name in filter(goldens.outputs.__contains__, task.outputs):
        wrong = ~np.isfinite(outputs[name])
        if wrong.any():
            image, point = np.argwhere(wrong)[0][:2]
            what = "map" if name in (BONES, SEGMENTATION) else task.point
            where = f"the first in {task.image} {image}, {what} {point}"
            return f"{name} hold {wrong.sum()} NaN or infinite values, {where}"
    return None


def compare(goldens: Goldens, outputs: Outputs) -> Figures:
    """Measure the errors of ``outputs``, finite arrays by name for the images of ``goldens``."""
    per_image, scores = goldens.task.errors(goldens.outputs, outputs)
    distances = np.concatenate(per_image)
    p50, p99, largest = np.percentile(distances, (50, 99, 100)) if distances.size else (0.0, 0.0, 0.0)
    fraction = float(scores.max()) / goldens.task.score_range(goldens.outputs)
    return Figures(float(scores.max()), fraction, float(p50), float(p99), float(largest))


def excess(figures: Figures, limits: Limits, task: Task = POSE) -> str | None:
    """Return a sentence on the figures that are above their limits, or None."""
    found = [
        f"{what} is {got:.3g}{unit}, the limit is {limit:.3g}{unit}"
        for what, got, limit, unit in (
            (f"the {task.score} error as a fraction of the range", figures.score_fraction, limits.score, ""),
            (f"the median {task.point} error", figures.p50, limits.p50, " px"),
            (f"the 99th percentile of {task.point} errors", figures.p99, limits.p99, " px"),
        )
        if limit is not None and got > limit
    ]
    return "; ".join(found) or None


def verdict(goldens: Goldens, outputs: Outputs, precision: str) -> tuple[Figures | None, str | None]:
    """Measure one replay; return its figures (None if it cannot be compared) and why it fails (None if it passes)."""
    problem = malformed(goldens, outputs) or not_finite(goldens, outputs)
    if problem:
        return None, problem
    figures = compare(goldens, outputs)
    return figures, excess(figures, goldens.task.limits(precision), goldens.task)
