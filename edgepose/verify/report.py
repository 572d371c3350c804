"""What verify found, as a table and as JSON; the page is in :mod:`edgepose.verify.page`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..backends.environment import environment
from ..bundle.bundle import Bundle
from ..bundle.goldens import Goldens
from ..bundle.limits import KINDS, Kind, limits_for
from ..core.errors import CheckError
from ..core.files import write_text
from ..core.tables import text_table
from .checks import Check
from .drop import AccuracyReport
from .page import DATA_HEAD, check_head, verify_page


@dataclass(frozen=True)
class VerifyReport:
    """What :func:`edgepose.verify.verify` found; ``str(report)`` is the table.

    Attributes:
        bundle, goldens: what was replayed.
        checks: one per backend, precision and batch size.
        skipped: backend, or backend and precision, to the reason why it was not checked.
        differences: by name of a failed check, the sentence of :func:`edgepose.verify.locate.first_difference`.
        notes: by name of a check, what its passing does not prove.
        accuracy: on labelled data, None where none were given.
    """

    bundle: Bundle
    goldens: Goldens
    checks: tuple[Check, ...]
    skipped: dict[str, str]
    differences: dict[str, str]
    notes: dict[str, str] = field(default_factory=dict)
    accuracy: AccuracyReport | None = None

    @property
    def kind(self) -> Kind:
        """What is compared."""
        return KINDS[self.goldens.decode]

    @property
    def problems(self) -> list[str]:
        """Of every check that failed, which it was and why."""
        found = [f"{c.backend} {c.precision}, batch {c.batch}: {c.problem}" for c in self.checks if c.problem]
        if self.accuracy is not None:
            data = self.accuracy.data
            found += [f"{c.backend} {c.precision}, {data}: {c.problem}" for c in self.accuracy.checks if c.problem]
        return found

    @property
    def passed(self) -> bool:
        """Whether at least one check ran and none failed."""
        return bool(self.checks) and not self.problems

    def __str__(self) -> str:
        rows = [(c.backend, c.precision, str(c.batch), *c.cells, _result(c.problem)) for c in self.checks]
        lines = [text_table(check_head(self.kind), rows)]
        if self.accuracy is not None:
            metric = self.accuracy.metric
            rows = [(c.backend, c.precision, metric, *c.cells, _result(c.problem)) for c in self.accuracy.checks]
            lines += [f"accuracy on {self.accuracy.data}:", text_table(DATA_HEAD, rows)]
        lines += self.problems
        lines += [f"{name}: {sentence}" for name, sentence in self.differences.items()]
        lines += [f"note: {sentence}" for sentence in dict.fromkeys(self.notes.values())]
        lines += [f"skipped {name}: {reason}" for name, reason in self.skipped.items()]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Everything but the arrays, as plain values."""
        precisions = dict.fromkeys(check.precision for check in self.checks)
        return {
            "bundle": self.bundle.manifest.name,
            "passed": self.passed,
            "goldens": len(self.goldens.images),
            "checks": [_check_json(check) for check in self.checks],
            "accuracy": asdict(self.accuracy) if self.accuracy else None,
            "skipped": self.skipped,
            "first_differences": self.differences,
            "notes": self.notes,
            "limits": {precision: asdict(limits_for(precision, self.goldens.decode)) for precision in precisions},
            "files": self.bundle.manifest.files,
            "environment": environment(),
        }

    def write(self, folder: Path) -> None:
        """Write ``verify.json`` and ``verify.html``."""
        write_text(folder / "verify.json", json.dumps(self.to_json(), indent=2) + "\n")
        write_text(folder / "verify.html", verify_page(self))

    def require_passed(self) -> None:
        """Raise CheckError with the first reason unless every check passed."""
        if not self.checks:
            raise CheckError(f"verify: no backend could run: {'; '.join(self.skipped.values())}")
        count = len(self.checks) + (len(self.accuracy.checks) if self.accuracy else 0)
        if self.problems:
            raise CheckError(f"verify: {len(self.problems)} of {count} checks failed; {self.problems[0]}")


def _result(problem: str | None) -> str:
    return "FAILED" if problem else "passed"


def _check_json(check: Check) -> dict[str, Any]:
    return {
        "backend": check.backend,
        "precision": check.precision,
        "batch": check.batch,
        "passed": check.problem is None,
        "problem": check.problem,
        "figures": asdict(check.figures) if check.figures else None,
    }
