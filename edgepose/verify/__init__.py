"""The command ``verify``: replay the goldens of a bundle on every engine in every precision, and locate errors."""

from __future__ import annotations

from collections.abc import Sequence

from ..backends.plan import plan
from ..bundle.bundle import Bundle
from ..bundle.goldens import read_goldens
from ..core.errors import UsageError
from .checks import check_runner
from .drop import MAX_DROP, AccuracyCheck, AccuracyReport, check_accuracy, check_max_drop
from .locate import first_difference
from .page import verification_html
from .report import VerifyReport

__all__ = [
    "MAX_DROP",
    "AccuracyCheck",
    "AccuracyReport",
    "VerifyReport",
    "check_accuracy",
    "check_max_drop",
    "verification_html",
    "verify",
]


def verify(
    bundle: Bundle,
    backends: Sequence[str] | None = None,
    precisions: Sequence[str] | None = None,
    *,
    data: str | None = None,
    max_drop: float = MAX_DROP,
) -> VerifyReport:
    """Replay a bundle's goldens, one by one and in one batch, and compare with the reference that made them.

    Args:
        backends: names of :data:`edgepose.backends.plan.BACKENDS`; None or ``["all"]`` for all that can run here, with
            the others in ``skipped``.
        precisions: names of :data:`edgepose.bundle.manifest.PRECISIONS`; None or ``["all"]`` for all that the bundle
            has and a backend can run.
        data: KIND:ROOT of labelled data, to compare accuracies with FP32's too.
        max_drop: largest loss of accuracy against FP32, in percentage points.

    Raises:
        UsageError: the goldens are missing or damaged, a named backend or precision cannot run here, or the data cannot
            be read.
    """
    goldens = read_goldens(bundle)
    found = plan(bundle, backends, precisions)
    accuracy = check_accuracy(bundle, found.runners, data, max_drop) if data and found.runners else None
    checks = tuple(check for runner in found.runners for check in check_runner(runner, goldens))
    differences = {}
    for check in checks:
        if check.problem and check.outputs and check.name not in differences:
            image = int(bundle.task.errors(goldens.outputs, check.outputs)[1].argmax())
            try:
                differences[check.name] = first_difference(check.runner, goldens, image)
            except UsageError as error:  # without onnx, for example, report the failure without its cause
                differences[check.name] = f"the first difference cannot be searched for: {error}"
    notes = {str(runner): runner.note for runner in found.runners if runner.note}
    return VerifyReport(bundle, goldens, checks, found.skipped, differences, notes, accuracy)
