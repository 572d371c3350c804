"""What a precision costs on labelled data: the accuracy of every backend and precision beside FP32's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from ..bundle.bundle import Bundle
from ..core.errors import CheckError, UsageError

#: Points that a precision may lose against FP32.
MAX_DROP = 0.5


@dataclass(frozen=True)
class AccuracyCheck:
    """One backend in one precision on labelled data.

    Attributes:
        value: the headline figure in percent; None where it could not be computed.
        drop: points below FP32; negative where it is above.
        problem: why it failed, None if it passed.
    """

    backend: str
    precision: str
    value: float | None = None
    drop: float | None = None
    problem: str | None = None

    @property
    def cells(self) -> tuple[str, str]:
        """Value and drop as cells of a table."""
        return ("-", "-") if self.value is None else (f"{self.value:.2f}", f"{self.drop:.2f}")


@dataclass(frozen=True)
class AccuracyReport:
    """Accuracies on one data set.

    Attributes:
        data: KIND:ROOT.
        metric: name of the headline figure, such as ``AP``.
        reference: of FP32, in percent.
        reference_backend: what FP32 ran on.
        max_drop: points that a precision may lose against it.
        checks: one per backend and precision.
    """

    data: str
    metric: str
    reference: float
    reference_backend: str
    max_drop: float
    checks: tuple[AccuracyCheck, ...]


def check_max_drop(points: float) -> None:
    """Refuse, by UsageError, what is no number of points from 0 to 100."""
    if not (isfinite(points) and 0 <= points <= 100):
        raise UsageError(f"the largest drop is {points:g} points, expected 0 to 100")


def check_accuracy(
    bundle: Bundle, pairs: Sequence[tuple[str, str]], data: str, max_drop: float = MAX_DROP
) -> AccuracyReport:
    """Evaluate a bundle on the val split of a data set, in every backend and precision, from labelled boxes.

    Args:
        bundle: an opened bundle.
        pairs: backends and precisions.
        data: KIND:ROOT, see :func:`edgepose.data.load_data`.
        max_drop: points that each may lose against FP32 on the first of these backends that runs it, or else on any.

    Raises:
        UsageError: ``max_drop`` is no number from 0 to 100, the data cannot be read, or FP32 cannot run.
    """
    from ..evaluate import evaluate

    check_max_drop(max_drop)
    backend = next((name for name, precision in pairs if precision == "fp32"), "auto")
    fp32 = evaluate(bundle.path, data, backend=backend, precision="fp32")
    checks = []
    for pair in pairs:
        try:
            same = pair == (fp32.backend, "fp32")
            value = (fp32 if same else evaluate(bundle.path, data, backend=pair[0], precision=pair[1])).scores.value
        except (UsageError, CheckError) as error:  # the data are readable, so this is the engine's failure
            checks.append(AccuracyCheck(*pair, problem=str(error)))
            continue
        drop = fp32.scores.value - value
        problem = None
        if drop > max_drop:
            problem = (
                f"{fp32.scores.name} is {value:.2f} %, {drop:.2f} points below FP32's {fp32.scores.value:.2f} %, the "
                f"limit is {max_drop:g}"
            )
        checks.append(AccuracyCheck(*pair, value, drop, problem))
    return AccuracyReport(data, fp32.scores.name, fp32.scores.value, fp32.backend, max_drop, tuple(checks))
