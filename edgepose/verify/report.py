"""The report of ``verify``, as a table and as JSON; the page is in :mod:`edgepose.verify.page`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..backends.environment import environment
from ..bundle.bundle import Bundle
from ..bundle.goldens import Goldens
from ..bundle.tasks import Task
from ..core.errors import CheckError
from ..core.files import write_text
from ..core.report import Report
from ..core.tables import text_table
from .checks import Check
from .drop import AccuracyReport
from .page import accuracy_table, check_table, verify_page

#: Error in pixels at p99 from which a check that passes gets a note.
_FAR = 4.0


@dataclass(frozen=True)
class VerifyReport(Report):
    """The result of :func:`edgepose.verify.verify`; ``str(report)`` is the table.

    Attributes:
        bundle, goldens: the bundle and its goldens.
        checks: one per backend, precision and batch size.
        skipped: reasons by name of a backend, or of a backend and precision, that was not checked.
        differences: sentences of :func:`edgepose.verify.locate.first_difference` by name of a failed check.
        notes: caveats by name of a check.
        accuracy: accuracies on labelled data, None without data.
    """

    bundle: Bundle
    goldens: Goldens
    checks: tuple[Check, ...]
    skipped: dict[str, str]
    differences: dict[str, str]
    notes: dict[str, str] = field(default_factory=dict)
    accuracy: AccuracyReport | None = None

    @property
    def task(self) -> Task:
        """The task of the network: poses or persons."""
        return self.goldens.task

    @property
    def problems(self) -> list[str]:
        """The names of failed checks, each with the reason."""
        found = [f"{c.name}, batch {c.batch}: {c.problem}" for c in self.checks if c.problem]
        if self.accuracy is not None:
            data = self.accuracy.data
            found += [f"{c.runner}, {data}: {c.problem}" for c in self.accuracy.checks if c.problem]
        return found

    @property
    def passed(self) -> bool:
        """True if at least one check ran and none failed."""
        return bool(self.checks) and not self.problems

    def __str__(self) -> str:
        lines = [text_table(*check_table(self, _result))]
        if self.accuracy is not None:
            lines += [f"accuracy on {self.accuracy.data}:", text_table(*accuracy_table(self.accuracy, _result))]
        lines += self.problems
        lines += [f"{name}: {sentence}" for name, sentence in self.differences.items()]
        lines += [f"note: {sentence}" for sentence in dict.fromkeys(self.notes.values())]
        far = [check.name for check in self.checks if check.figures and not check.problem and check.figures.p99 > _FAR]
        if far:
            lines.append(
                f"note: {', '.join(dict.fromkeys(far))}: a few {self.task.points} are far off (p99) and pass: below "
                "FP32 one with two nearly equal candidates may take the other; use --data KIND:ROOT to measure the cost"
            )
        lines += [f"skipped {name}: {reason}" for name, reason in self.skipped.items()]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return everything except the arrays as JSON values."""
        precisions = dict.fromkeys(check.runner.precision for check in self.checks)
        return {
            "bundle": self.bundle.manifest.name,
            "passed": self.passed,
            "goldens": len(self.goldens.images),
            "checks": [check.to_json() for check in self.checks],
            "accuracy": self.accuracy.to_json() if self.accuracy else None,
            "skipped": self.skipped,
            "first_differences": self.differences,
            "notes": self.notes,
            "limits": {precision: asdict(self.task.limits(precision)) for precision in precisions},
            "files": self.bundle.manifest.files,
            "environment": environment(),
        }

    def save(self, path: Path) -> None:
        """Write the JSON, and the page (``.html``) beside it."""
        super().save(path)
        write_text(path.with_suffix(".html"), verify_page(self))

    def require_passed(self) -> None:
        """Raise CheckError with the first problem unless every check passed."""
        if not self.checks:
            raise CheckError(f"verify: no backend could run: {'; '.join(self.skipped.values())}")
        count = len(self.checks) + (len(self.accuracy.checks) if self.accuracy else 0)
        if self.problems:
            raise CheckError(f"verify: {len(self.problems)} of {count} checks failed; {self.problems[0]}")


def _result(problem: str | None) -> str:
    return "FAILED" if problem else "passed"
