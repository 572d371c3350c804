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
    """One engine of a matrix.

    Attributes:
        target: ``tensorrt`` or ``tensorrt-rtx``.
        precision: one of :data:`edgepose.bundle.manifest.PRECISIONS`.
        record: record of the engine, None if it was not built.
        megabytes: size of the engine file in 10^6 bytes.
        failure: the error of the build, None if there was none.
    """

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
    """Return every (target, precision) to build.

    Args:
        bundle: an opened bundle.
        targets: None for all that can build here.
        precisions: None for all of the bundle's graphs.
        options: options of the builds.

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
    """Build one engine after another, and continue if one fails.

    Args:
        bundle: an opened bundle.
        pairs: (target, precision) of each engine.
        options: options of every build.
        say: called with a line for each engine when it is done.
    """
    rows = []
    for target, precision in pairs:
        row = _build_one(bundle, target, precision, options)
        say(f"{row.name}: {'failed' if row.record is None else f'{row.record.build_seconds:.1f} s'}")
        rows.append(row)
    return Matrix(tuple(rows))


def _build_one(bundle: Bundle, target: str, precision: str, options: BuildOptions) -> MatrixRow:
    try:
        record = build_engine(bundle, target, precision, options)
    except (UsageError, CheckError) as error:
        # A new error without the traceback, which would keep the builder and its memory alive.
        return MatrixRow(target, precision, failure=type(error)(str(error)))
    size = (bundle.path / ENGINES / record.file_name).stat().st_size
    return MatrixRow(target, precision, record, size / 1e6)


def _cells(row: MatrixRow) -> tuple[str, ...]:
    if row.record is None:
        return (row.precision, row.target, "-", "-", "-", "-")
    chosen, layers = (
        ", ".join(f"{count} {name}" for name, count in counts.items())
        for counts in (row.record.chosen, row.record.datatypes)
    )
    return (row.precision, row.target, f"{row.record.build_seconds:.1f}", f"{row.megabytes:.1f}", chosen, layers)
