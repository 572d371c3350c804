"""The record of a proof, as text and as JSON without the user's paths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from ..bench import BenchReport
from ..build import BuildOptions
from ..bundle.bundle import Bundle
from ..bundle.engine_record import EngineRecord
from ..core.errors import CheckError
from ..core.report import Report
from ..core.tables import text_table
from ..verify import AccuracyCheck, AccuracyReport, VerifyReport
from .anonymous import anonymiser
from .device import describe_device, describe_versions, power_state

#: Version of the record's layout.
SCHEMA = 1
#: Steps in order. Graphs have no build, and accuracy needs data.
STEPS = ("build", "verify", "measure", "accuracy")
PASSED, FAILED, NOT_RUN, UNFINISHED = "passed", "failed", "not run", "not finished"

Result = EngineRecord | VerifyReport | BenchReport | AccuracyCheck | AccuracyReport
_Joinable = TypeVar("_Joinable", VerifyReport, BenchReport)


@dataclass(frozen=True, eq=False)
class Step:
    """The outcome of one step.

    Attributes:
        state: one of :data:`PASSED`, :data:`FAILED`, :data:`NOT_RUN`, :data:`UNFINISHED`.
        problem: why it did not pass, a sentence; None if it passed.
        seconds: duration; accuracies are measured together, so each has the time of all.
        result: the result, also of a step that failed.
        trace: Python's traceback of an unexpected error.
    """

    state: str
    problem: str | None = None
    seconds: float = 0.0
    result: Result | None = None
    trace: str | None = None


@dataclass(eq=False)
class Case:
    """One target in one precision.

    Attributes:
        steps: all planned steps by name.
        file: path in the bundle of the engine or graph that runs; None before the build.
        impossible: True if the target cannot be proven on this machine; then no step is run.
    """

    target: str
    precision: str
    steps: dict[str, Step]
    file: str | None = None
    impossible: bool = False

    @property
    def name(self) -> str:
        return f"{self.target} {self.precision}"

    @property
    def passed(self) -> bool:
        return all(step.state == PASSED for step in self.steps.values())

    @property
    def cells(self) -> tuple[str, ...]:
        """The row of the table: the figures of every step, or its state if it did not pass."""
        return (self.target, self.precision, *(_cell(self.steps.get(name)) for name in STEPS))


#: Head of the table with :attr:`Case.cells` as rows.
HEAD = ("target", "precision", "build", "verify", "batch: p50 ms", "accuracy")


@dataclass
class Proof(Report):
    """The result of :func:`edgepose.prove.prove`, filled step by step; ``str(proof)`` is the tables.

    Attributes:
        bundle: the bundle with the new engines.
        cases: the targets and precisions.
        skipped: reasons for precisions of the bundle that were left out, by target and precision.
        precisions: the requested ones; None for all.
        options: options of the builds; the batches are also measured.
        data: KIND:ROOT, None without accuracies.
        time: start in UTC, in ISO 8601.
        page: the HTML file; the record is beside it.
        accuracy: the accuracies and their reference, None until they are known.
    """

    bundle: Bundle
    cases: tuple[Case, ...]
    skipped: dict[str, str]
    precisions: tuple[str, ...] | None
    options: BuildOptions
    data: str | None
    time: str
    page: Path
    accuracy: AccuracyReport | None = None
    device: dict[str, Any] = field(default_factory=describe_device)
    versions: dict[str, str] = field(default_factory=describe_versions)
    power: dict[str, str] = field(default_factory=power_state)

    @property
    def record(self) -> Path:
        """The path of the JSON file."""
        return self.page.with_suffix(".json")

    @property
    def targets(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(case.target for case in self.cases))

    @property
    def problems(self) -> dict[str, str]:
        """Reasons of steps that did not pass, by case and step."""
        steps = {f"{case.name}, {name}": step for case in self.cases for name, step in case.steps.items()}
        return {name: f"{step.state}: {step.problem}" for name, step in steps.items() if step.state != PASSED}

    @property
    def passed(self) -> bool:
        """True if every step of every case passed."""
        return all(case.passed for case in self.cases)

    @property
    def verification(self) -> VerifyReport | None:
        """All reports of verify as one, None if there is none."""
        return self._joined(VerifyReport, "checks", "differences", "notes")

    @property
    def speed(self) -> BenchReport | None:
        """All reports of bench as one, None if there is none."""
        return self._joined(BenchReport, "rows", "skipped")

    def _joined(self, kind: type[_Joinable], rows: str, *notes: str) -> _Joinable | None:
        """Return the reports of one kind as one, with the ``rows`` (a tuple) and ``notes`` (dictionaries) of all."""
        steps = (step for case in self.cases for step in case.steps.values())
        reports = [step.result for step in steps if isinstance(step.result, kind)]
        if not reports:
            return None
        joined: dict[str, Any] = {rows: tuple(row for report in reports for row in getattr(report, rows))}
        for name in notes:
            joined[name] = {key: text for report in reports for key, text in getattr(report, name).items()}
        return replace(reports[0], **joined)

    @property
    def anonymise(self) -> Callable[[Any], Any]:
        """The function that shortens the user's paths, see :func:`edgepose.prove.anonymous.anonymiser`."""
        root = self.data.partition(":")[2] if self.data else ""
        return anonymiser([self.bundle.path, *([Path(root)] if root else [])])

    def __str__(self) -> str:
        lines = [text_table(HEAD, [case.cells for case in self.cases])]
        if self.speed:
            lines.append(str(self.speed))
        lines += [f"{name} {problem}" for name, problem in self.problems.items()]
        if self.verification:
            lines += [f"note: {note}" for note in dict.fromkeys(self.verification.notes.values())]
        return "\n".join([*lines, *(f"left out {name}: {reason}" for name, reason in self.skipped.items())])

    def to_json(self) -> dict[str, Any]:
        """Return JSON values, without the user's paths."""
        manifest = self.bundle.manifest
        facts = ("name", "model", "skeleton", "input_size", "trained", "made_with")
        reference = self.accuracy and self.accuracy.to_json()  # what the accuracies are compared with
        if reference:
            del reference["checks"]
        values: dict[str, Any] = {
            "schema": SCHEMA,
            "passed": self.passed,
            "time": self.time,
            "bundle": {name: getattr(manifest, name) for name in facts},
            "asked": {
                "targets": self.targets,
                "precisions": self.precisions,
                "batches": self.options.profile,
                "build_options": self.options.recorded(),
                "data": self.data,
            },
            "device": self.device,
            "versions": self.versions,
            "power": self.power,
            "cases": [self._case_json(case) for case in self.cases],
            "skipped": self.skipped,
            "accuracy": reference,
            "files": manifest.files,
        }
        shortened: dict[str, Any] = self.anonymise(values)
        return shortened

    def _case_json(self, case: Case) -> dict[str, Any]:
        return {
            "target": case.target,
            "precision": case.precision,
            "passed": case.passed,
            "file": case.file,
            "sha256": self.bundle.manifest.files.get(case.file or ""),
            "steps": {name: _step_json(step) for name, step in case.steps.items()},
        }

    def require_passed(self) -> None:
        """Raise CheckError with the first problem unless every step passed."""
        if not self.passed:
            count = sum(len(case.steps) for case in self.cases)
            name, problem = next(iter(self.problems.items()))
            raise CheckError(f"prove: {len(self.problems)} of {count} steps did not pass; {name} {problem}")


def _cell(step: Step | None) -> str:
    """Return a step's main figures as a short text."""
    if step is None:
        return "-"
    result = step.result
    if step.state != PASSED:
        return step.state
    if isinstance(result, EngineRecord):
        return f"{result.build_seconds:.1f} s"
    if isinstance(result, VerifyReport):
        figures = [check.figures for check in result.checks if check.figures]
        score, median = (max(getattr(f, name) for f in figures) for name in ("score_fraction", "p50"))
        return f"{score:.2g} of range, p50 {median:.2f} px"
    if isinstance(result, BenchReport):
        return ", ".join(f"{row.batch}: {row.latency.p50:.2f}" for row in result.rows)
    if isinstance(result, AccuracyCheck):
        return "{} %, drop {}".format(*result.cells)
    return step.state


#: Keys that are once in the record, not in every step; and the layers of an engine, whose counts are enough here.
_ONCE = ("bundle", "passed", "files", "environment", "accuracy", "skipped", "layers")


def _step_json(step: Step) -> dict[str, Any]:
    result = step.result
    values = asdict(result) if isinstance(result, EngineRecord) else result and result.to_json()
    return {
        "state": step.state,
        "problem": step.problem,
        "seconds": round(step.seconds, 3),
        "figures": values and {name: value for name, value in values.items() if name not in _ONCE},
        "trace": step.trace,
    }
