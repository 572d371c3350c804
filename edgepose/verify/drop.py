"""What a precision costs on labelled data: the accuracy of every backend and precision beside FP32's."""

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

#: Points that a precision may lose against FP32.
MAX_DROP = 0.5


@dataclass(frozen=True)
class AccuracyCheck:
    """One runner on labelled data.

    Attributes:
        runner: what was measured.
        value: the headline figure in percent; None where it could not be computed.
        drop: points below FP32; negative where it is above.
        problem: why it failed, None if it passed.
    """

    runner: Runner
    value: float | None = None
    drop: float | None = None
    problem: str | None = None

    @property
    def cells(self) -> tuple[str, str]:
        """Value and drop as cells of a table."""
        return ("-", "-") if self.value is None else (f"{self.value:.2f}", f"{self.drop:.2f}")

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "backend": self.runner.backend,
            "precision": self.runner.precision,
            "value": self.value,
            "drop": self.drop,
            "problem": self.problem,
        }


@dataclass(frozen=True)
class AccuracyReport:
    """Accuracies on one data set.

    Attributes:
        data: KIND:ROOT.
        metric: name of the headline figure, such as ``AP``.
        reference: of FP32, in percent.
        reference_backend: what FP32 ran on.
        max_drop: points that a precision may lose against it.
        checks: one per runner.
    """

    data: str
    metric: str
    reference: float
    reference_backend: str
    max_drop: float
    checks: tuple[AccuracyCheck, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        names = ("data", "metric", "reference", "reference_backend", "max_drop")
        return {**{name: getattr(self, name) for name in names}, "checks": [check.to_json() for check in self.checks]}


def check_max_drop(points: float) -> None:
    """Refuse, by UsageError, what is no number of points from 0 to 100."""
    if not (isfinite(points) and 0 <= points <= 100):
        raise UsageError(f"the largest drop is {points:g} points, expected 0 to 100")


def check_accuracy(bundle: Bundle, runners: Sequence[Runner], data: str, max_drop: float = MAX_DROP) -> AccuracyReport:
    """Score every runner of a bundle on the val split of a data set, from labelled boxes.

    Args:
        bundle: an opened bundle.
        runners: of the bundle.
        data: KIND:ROOT, see :func:`edgepose.data.load_data`.
        max_drop: points that each may lose against FP32 on the first of these backends that runs it, or else on any.

    Raises:
        UsageError: ``max_drop`` is no number from 0 to 100, the data cannot be read, or FP32 cannot run.
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
        except (UsageError, CheckError) as error:  # the data are readable, so this is the engine's failure
            checks.append(AccuracyCheck(runner, problem=str(error)))
            continue
        drop = fp32.value - scores.value
        problem = None
        if drop > max_drop:
            problem = (
                f"{fp32.name} is {scores.value:.2f} %, {drop:.2f} points below FP32's {fp32.value:.2f} %, the limit is "
                f"{max_drop:g}"
            )
        checks.append(AccuracyCheck(runner, scores.value, drop, problem))
    return AccuracyReport(data, fp32.name, fp32.value, exact.backend, max_drop, tuple(checks))
