"""The command ``prove``: build, verify and measure a bundle on a device, and write a report."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from ..backends.plan import BACKENDS, choose, get_backend, plan, unavailable
from ..bench import bench
from ..build import DEFAULTS, BuildOptions, build_engine, cannot_build
from ..bundle.bundle import Bundle, open_bundle
from ..bundle.goldens import read_goldens
from ..bundle.manifest import ENGINES
from ..core.errors import CheckError, UsageError, first_line
from ..core.files import check_writable, write_text
from ..nvidia.tensorrt import TARGETS as ENGINE_TARGETS
from ..verify import MAX_DROP, AccuracyReport, check_accuracy, check_max_drop, verify
from .page import proof_page
from .record import FAILED, NOT_RUN, PASSED, STEPS, UNFINISHED, Case, Proof, Step

__all__ = ["TARGETS", "Proof", "prove"]

#: The backends that can be proven: all but the reference.
TARGETS = tuple(name for name in BACKENDS if name != "torch")

Say = Callable[[str], object]
#: What a record tells of a step in which the process ended.
_IN_STEP = Step(UNFINISHED, "the process ended in this step, for example because the memory was full")


def prove(
    bundle: Bundle,
    targets: Sequence[str],
    precisions: Sequence[str] | None = None,
    options: BuildOptions = DEFAULTS,
    *,
    data: str | None = None,
    max_drop: float = MAX_DROP,
    folder: Path | None = None,
    say: Say = lambda _: None,
) -> Proof:
    """Build engines of a bundle, verify them against the goldens, measure them, and write a page and a record.

    A step that fails is recorded, and the others continue. The record is written before every step, so that it exists
    if the device crashes in one; the page is written at the end.

    Args:
        bundle: an opened bundle; it gets the engines.
        targets: names of :data:`TARGETS`.
        precisions: names of :data:`edgepose.bundle.manifest.PRECISIONS`; None or ``["all"]`` for all of the bundle,
            except those that a target without engines cannot compute in, which are in ``skipped``.
        options: options of the builds; each of the batches is measured.
        data: KIND:ROOT of labelled data, to compare accuracies with FP32's too.
        max_drop: largest loss of accuracy against FP32, in percentage points.
        folder: folder for ``proof-TARGETS-TIME.html`` and ``.json``; None for the bundle's reports.
        say: called with a line for each step when it is done.

    Raises:
        UsageError: before anything is built: a target or precision is unknown, cannot run here, or the bundle has no
            graph for it; the goldens or the data cannot be read; ``max_drop`` is not from 0 to 100; or the folder
            cannot be written to.
    """
    named = None if precisions is None or list(precisions) == ["all"] else tuple(dict.fromkeys(precisions))
    cases, skipped = _plan(bundle, targets, named, options, accuracy=data is not None)
    read_goldens(bundle)
    check_max_drop(max_drop)
    if data:
        from ..data import load_data

        _ = bundle.skeleton  # a detector has no accuracy on labelled poses
        load_data(data, "val")
    now = datetime.now(timezone.utc)
    page = (folder or bundle.reports) / f"proof-{'-'.join(dict.fromkeys(targets))}-{now:%Y%m%d-%H%M%S}.html"
    check_writable(page)
    proof = Proof(
        bundle=bundle,
        cases=cases,
        skipped=skipped,
        precisions=named,
        options=options,
        data=data,
        time=now.isoformat(timespec="seconds"),
        page=page,
    )
    for case in proof.cases:
        if not case.impossible:
            _prove_case(proof, case, say)
    if data:
        _prove_accuracy(proof, data, max_drop, say)
    proof.save(proof.record)
    write_text(page, proof_page(proof))
    return proof


def _plan(
    bundle: Bundle, targets: Sequence[str], precisions: tuple[str, ...] | None, options: BuildOptions, *, accuracy: bool
) -> tuple[tuple[Case, ...], dict[str, str]]:
    """Return the cases to prove, and the reasons for what is left out, by target and precision."""
    for name in targets or [""]:
        if name not in TARGETS:
            raise UsageError(f"unknown target {name!r}: expected one of {', '.join(TARGETS)}")
    for precision in precisions or ():
        bundle.graph_for(precision)  # raises UsageError if the bundle has no such graph
    cases: list[Case] = []
    skipped, impossible = dict[str, str](), dict[str, UsageError]()
    for target in dict.fromkeys(targets):
        names = precisions or bundle.precisions
        try:
            if target in ENGINE_TARGETS:
                _require_engines(target, options)
            else:
                found = plan(bundle, [target], precisions)
                names = tuple(runner.precision for runner in found.runners)
                skipped.update(found.skipped)
        except UsageError as error:  # continue with the other targets
            impossible[target] = error
        cases += [_case(target, name, impossible.get(target), accuracy=accuracy) for name in names]
    if len(impossible) == len(dict.fromkeys(targets)):
        raise next(iter(impossible.values()))
    return tuple(cases), skipped


def _require_engines(target: str, options: BuildOptions) -> None:
    """Refuse a target if its engines cannot be built or run here."""
    if reason := cannot_build(target, options):
        raise UsageError(reason)
    if reason := unavailable(target):
        raise UsageError(f"{target} can build engines here, but not run them: {reason}")


def _case(target: str, precision: str, impossible: UsageError | None, *, accuracy: bool) -> Case:
    wanted = {"build": target in ENGINE_TARGETS, "accuracy": accuracy}
    why = str(impossible or "the process ended before this step")
    steps = {name: Step(NOT_RUN, why) for name in STEPS if wanted.get(name, True)}
    return Case(target, precision, steps, impossible=impossible is not None)


def _prove_case(proof: Proof, case: Case, say: Say) -> None:
    if "build" in case.steps:
        _take(proof, case, "build", partial(_build, proof, case), say)
        if case.steps["build"].state != PASSED:
            case.steps.update({name: Step(NOT_RUN, "there is no engine") for name in ("verify", "measure")})
            return
    else:
        case.file = choose(proof.bundle, case.target, case.precision).file.name
    _take(proof, case, "verify", partial(_verify, proof, case), say)
    _take(proof, case, "measure", partial(_measure, proof, case), say)


#: The result of a step, and why it does not pass, or None.
_Outcome = tuple[Any, str | None]


def _build(proof: Proof, case: Case) -> _Outcome:
    record = build_engine(proof.bundle, case.target, case.precision, proof.options)
    proof.bundle = open_bundle(proof.bundle.path)
    case.file = f"{ENGINES}/{record.file_name}"
    _, runs = get_backend(case.target).choose(proof.bundle, case.precision)
    if runs.name == record.file_name:
        return record, None
    return record, f"the bundle's {runs.name}, built for this GPU only, would run instead: build without compatibility"


def _verify(proof: Proof, case: Case) -> _Outcome:
    report = verify(proof.bundle, [case.target], [case.precision])
    return report, "; ".join([*report.problems[:1], *report.differences.values()]) or None


def _measure(proof: Proof, case: Case) -> _Outcome:
    return bench(proof.bundle, [case.target], proof.options.profile, precisions=[case.precision]), None


def _prove_accuracy(proof: Proof, data: str, max_drop: float, say: Say) -> None:
    """Measure the accuracies of all cases that passed verify in one call, which measures FP32's only once."""
    verified = [case for case in proof.cases if case.steps["verify"].state == PASSED]
    exact = [case for case in proof.cases if case.precision == "fp32"]
    if exact and not any(case in verified for case in exact):
        verified = []
    failed = Step(NOT_RUN, "it or FP32, its reference, did not pass verify")
    for case in proof.cases:
        if not case.impossible:
            case.steps["accuracy"] = _IN_STEP if case in verified else failed
    if not verified:
        return
    _save(proof)
    runners = [choose(proof.bundle, case.target, case.precision) for case in verified]
    step = _attempt(lambda: (check_accuracy(proof.bundle, runners, data, max_drop), None))
    proof.accuracy = step.result if isinstance(step.result, AccuracyReport) else None
    for number, case in enumerate(verified):
        case.steps["accuracy"] = step
        if proof.accuracy is not None:
            found = proof.accuracy.checks[number]
            state = FAILED if found.problem else PASSED
            case.steps["accuracy"] = replace(step, state=state, problem=found.problem, result=found)
        _tell(case, "accuracy", say)


def _take(proof: Proof, case: Case, name: str, call: Callable[[], _Outcome], say: Say) -> None:
    """Run a step, store its result, and report it."""
    case.steps[name] = _IN_STEP
    _save(proof)
    case.steps[name] = _attempt(call)
    _tell(case, name, say)


def _attempt(call: Callable[[], _Outcome]) -> Step:
    start = time.perf_counter()
    result, trace = None, None
    try:
        result, problem = call()
    except (UsageError, CheckError) as error:
        problem = str(error)
    except Exception as error:  # record it, and continue with the other steps
        problem, trace = f"{type(error).__name__}: {first_line(error)}", traceback.format_exc()
    return Step(FAILED if problem else PASSED, problem, time.perf_counter() - start, result, trace)


def _tell(case: Case, name: str, say: Say) -> None:
    step = case.steps[name]
    say(f"{case.name}: {name} {step.state}, {step.seconds:.1f} s{f': {step.problem}' if step.problem else ''}")


def _save(proof: Proof) -> None:
    with suppress(UsageError):  # a disk that is full now says so at the end, and until then the figures go on
        proof.save(proof.record)
