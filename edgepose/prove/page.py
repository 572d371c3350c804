"""The HTML page of a proof, with verify's sections, bench's tables and the engines' records."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from html import escape
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..bench import BenchReport, plot
from ..bundle.engine_record import EngineRecord
from ..core.html import html_page, html_table
from ..core.images import read_image
from ..core.pictures import picture_tag
from ..verify import VerifyReport, verification_html
from .record import HEAD, PASSED, STEPS, Case, Proof

_MORE_STYLE = "pre { overflow-x: auto; font-size: .85rem; } td { vertical-align: top; }"
_Shorten = Callable[[Any], Any]


def proof_page(proof: Proof) -> str:
    """Return the self-contained HTML page of a proof, without the user's paths."""
    sections = list(_sections(proof, proof.anonymise, proof.to_json()))
    return html_page(f"proof of {escape(proof.bundle.manifest.name)}", sections, _MORE_STYLE)


def _sections(proof: Proof, shorten: _Shorten, record: Mapping[str, Any]) -> Iterator[str]:
    device, gpu = record["device"], record["device"]["gpu"]
    state = "pass" if proof.passed else "fail"
    verdict = f'<span class="{state}">{state}ed</span>'
    yield f"<h1>{escape(proof.bundle.manifest.name)}: proof on {escape(', '.join(proof.targets))} {verdict}</h1>"
    where = device["board"] or (gpu["name"] if gpu else device["cpu"])
    reference = proof.bundle.manifest.reference
    yield f"<p>{escape(where)}, {escape(proof.time)}. Every figure of verify is against {reference} in FP32.</p>"
    yield html_table(HEAD, [_row(case) for case in proof.cases])
    yield from (_sentence(name, shorten(problem)) for name, problem in proof.problems.items())
    yield from (_sentence(name, f"left out: {reason}") for name, reason in record["skipped"].items())
    if record["accuracy"]:
        yield "<h2>Accuracy is compared with</h2>" + _facts(record["accuracy"])
    if proof.speed:
        yield _speed(proof.speed)
    for case in proof.cases:
        engine = case.steps["build"].result if "build" in case.steps else None
        if isinstance(engine, EngineRecord):
            yield f"<h2>Engine {escape(engine.file_name)}</h2><pre>{escape(shorten(str(engine)))}</pre>"
    titles = {"device": "Device", "power": "Power and clocks", "versions": "Versions", "asked": "Asked"}
    for name, title in {**titles, "files": "Files, sha256"}.items():
        yield f"<h2>{title}</h2>" + (_facts(record[name]) if record[name] else "<p>Unknown.</p>")
    if proof.verification:
        yield from _verification(proof.verification, shorten)


def _row(case: Case) -> list[str]:
    """Return a row of the table, coloured where a step was to be taken."""
    row = [escape(cell) for cell in case.cells]
    for i, name in enumerate(STEPS, start=len(row) - len(STEPS)):
        if name in case.steps:
            row[i] = f'<span class="{"pass" if case.steps[name].state == PASSED else "fail"}">{row[i]}</span>'
    return row


def _sentence(name: str, text: str) -> str:
    return f"<p><b>{escape(name)}</b> {escape(text)}</p>"


def _facts(facts: Mapping[str, Any]) -> str:
    """Return a table of names and values; lists and objects in one line."""
    rows = [(escape(name), f"<pre>{escape(_plain(value))}</pre>") for name, value in facts.items()]
    return html_table(("", ""), rows)


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(item)}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return {None: "-", True: "yes", False: "no"}[value] if value is None or isinstance(value, bool) else str(value)


def _speed(report: BenchReport) -> str:
    """Return the table of speeds, and the plot if matplotlib is installed."""
    table = f"<h2>Speed</h2><pre>{escape(str(report))}</pre>"
    if find_spec("matplotlib") is None:
        return table
    with TemporaryDirectory() as folder:
        path = Path(folder) / "speed.png"
        plot(report, path)
        image = report.bundle.task.image
        return table + picture_tag(read_image(path), f"latency per {image} and {image}s per second by batch")


def _verification(report: VerifyReport, shorten: _Shorten) -> Iterator[str]:
    """Yield the sections of verify's page."""
    report = replace(
        report,
        checks=tuple(replace(check, problem=shorten(check.problem)) for check in report.checks),
        differences=shorten(report.differences),
        notes=shorten(report.notes),
    )
    yield from ("<h2>Verification</h2>", *verification_html(report))
