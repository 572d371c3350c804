"""The loss of accuracy on labelled data against FP32, for each backend and precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from ..backends.plan import Runner, choose
from ..bundle.bundle import Bundle
from ..bundle.tasks import POSE
from ..core.errors import CheckError, UsageError
from ..data import load_data
from ..evaluate import score_runner

#: Default for the largest loss of accuracy against FP32, in percentage points.
MAX_DROP = 0.5


@dataclass(frozen=True)
class AccuracyCheck:
    """The accuracy of one runner on labelled data in percent (None if it could not be computed).

    ``drop`` is in percentage points below FP32, negative above; ``problem`` is None if the check passed.
    """

    runner: Runner
    value: float | None = None
    drop: float | None = None
    problem: str | None = None

    @property
    def cells(self) -> tuple[str, str]:
        """The cells of a table with value and drop."""
        return ("-", "-") if self.value is None else (f"{self.value:.2f}", f"{self.drop:.2f}")

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "backend": self.runner.backend,
            "precision": self.runner.precision,
            "value": self.value,
            "drop": self.drop,
            "problem": self.problem,
        }


@dataclass(frozen=True)
class AccuracyReport:
    """The accuracies of several runners on one data set, KIND:ROOT.

    ``metric`` is the main figure, such as ``AP``; ``reference`` is FP32's in percent, and ``max_drop`` the largest loss
    against it, in percentage points.
    """

    data: str
    metric: str
    reference: float
    reference_backend: str
    max_drop: float
    checks: tuple[AccuracyCheck, ...]

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {**vars(self), "checks": [check.to_json() for check in self.checks]}


def check_max_drop(points: float) -> None:
    """Raise UsageError unless a number of percentage points is from 0 to 100."""
    if not (isfinite(points) and 0 <= points <= 100):
        raise UsageError(f"the largest drop is {points:g} points, expected 0 to 100")


def check_accuracy(bundle: Bundle, runners: Sequence[Runner], data: str, max_drop: float = MAX_DROP) -> AccuracyReport:
    """Score every runner of a bundle on the val split of a data set (KIND:ROOT), from labelled boxes.

    ``max_drop`` is the largest loss in percentage points against FP32, which runs on the first of the runners' backends
    that has it, or else on any.

    Raises:
        UsageError: ``max_drop`` is not from 0 to 100, the data cannot be read, or FP32 cannot run.
    """
    check_max_drop(max_drop)
    bundle.require(POSE)
    split = load_data(data, "val")
    exact = next((runner for runner in runners if runner.precision == "fp32"), None) or choose(bundle, "auto", "fp32")
    fp32 = score_runner(exact, split)
    checks = []
    for runner in runners:
        try:
            scores = fp32 if runner == exact else score_runner(runner, split)
        except (UsageError, CheckError) as error:  # a failure of the engine: FP32 could read the data
            checks.append(AccuracyCheck(runner, problem=str(error)))
            continue
        drop = fp32.value - scores.value
        problem = (
            f"{fp32.name} is {scores.value:.2f} %, {drop:.2f} points below FP32's {fp32.value:.2f} %, the limit is "
            f"{max_drop:g}"
        )
        checks.append(AccuracyCheck(runner, scores.value, drop, problem if drop > max_drop else None))
    return AccuracyReport(data, fp32.name, fp32.value, exact.backend, max_drop, tuple(checks))
