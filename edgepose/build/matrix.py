"""Build several engines of a bundle: every requested precision for every requested target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..backends.environment import environment
from ..bundle.bundle import Bundle
from ..bundle.engine_record import EngineRecord
from ..bundle.manifest import ENGINES
from ..core.errors import CheckError, UsageError
from ..core.report import Report
from ..core.tables import text_table
from ..nvidia.tensorrt import TARGETS
from .engine import build_engine, cannot_build
from .options import DEFAULTS, BuildOptions


@dataclass(frozen=True)
class MatrixRow:
    """One engine of a matrix: its record and size in 10^6 bytes, or the error of its build."""

    target: str
    precision: str
    record: EngineRecord | None = None
    megabytes: float = 0.0
    failure: UsageError | CheckError | None = None

    @property
    def name(self) -> str:
        return f"{self.target} {self.precision}"


@dataclass(frozen=True)
class Matrix(Report):
    """The results of several builds; as text a table, and a sentence for each failure."""

    rows: tuple[MatrixRow, ...]

    def __str__(self) -> str:
        head = ("precision", "target", "seconds", "MB", "convolutions", "layers by datatype")
        notes = [f"{row.name}: {note}" for row in self.rows if row.record for note in row.record.notes]
        failures = [f"{row.name} failed: {row.failure}" for row in self.rows if row.failure]
        return "\n".join([text_table(head, [_cells(row) for row in self.rows]), *notes, *failures])

    def to_json(self) -> dict[str, Any]:
        """Return JSON values: the record of every engine, or why it was not built."""
        rows = [
            {"target": row.target, "precision": row.precision, "megabytes": row.megabytes}
            | ({"record": asdict(row.record)} if row.record else {"failure": str(row.failure)})
            for row in self.rows
        ]
        return {"engines": rows, "environment": environment()}

    def require_passed(self) -> None:
        """Raise CheckError if a build failed with one, else UsageError if any build failed."""
        failed = [row for row in self.rows if row.failure]
        if failed:
            checks = any(isinstance(row.failure, CheckError) for row in failed)
            names = ", ".join(row.name for row in failed)
            raise (CheckError if checks else UsageError)(f"{len(failed)} of {len(self.rows)} engines failed: {names}")


def plan_matrix(
    bundle: Bundle, targets: Sequence[str] | None, precisions: Sequence[str] | None, options: BuildOptions = DEFAULTS
) -> list[tuple[str, str]]:
    """Return every (target, precision) to build; None stands for all targets that can build here, or all graphs.

    Raises:
        UsageError: no target can build here.
    """
    if targets is None:
        reasons = {target: cannot_build(target, options) for target in TARGETS}
        targets = [target for target, reason in reasons.items() if reason is None]
        if not targets:
            raise UsageError(f"no engine can be built here: {'; '.join(str(reason) for reason in reasons.values())}")
    pairs = [(target, precision) for target in targets for precision in precisions or bundle.precisions]
    return list(dict.fromkeys(pairs))


def build_matrix(
    bundle: Bundle,
    pairs: Sequence[tuple[str, str]],
    options: BuildOptions = DEFAULTS,
    say: Callable[[str], None] = lambda _: None,
) -> Matrix:
    """Build an engine for each (target, precision), and continue if one fails; ``say`` gets a line when one is done."""
    rows = []
    for target, precision in pairs:
        try:
            record = build_engine(bundle, target, precision, options)
            size = (bundle.path / ENGINES / record.file_name).stat().st_size
            row = MatrixRow(target, precision, record, size / 1e6)
        except (UsageError, CheckError) as error:
            # A new error without the traceback, which would keep the builder and its memory alive.
            row = MatrixRow(target, precision, failure=type(error)(str(error)))
        say(f"{row.name}: {'failed' if row.record is None else f'{row.record.build_seconds:.1f} s'}")
        rows.append(row)
    return Matrix(tuple(rows))


def _cells(row: MatrixRow) -> tuple[str, ...]:
    if row.record is None:
        return (row.precision, row.target, "-", "-", "-", "-")
    chosen, layers = (
        ", ".join(f"{count} {name}" for name, count in counts.items())
        for counts in (row.record.chosen, row.record.datatypes)
    )
    return (row.precision, row.target, f"{row.record.build_seconds:.1f}", f"{row.megabytes:.1f}", chosen, layers)
