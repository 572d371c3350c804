"""The HTML page of a verification, with pictures of the images that moved most."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING

from ..backends.environment import environment
from ..bundle.contract import BONES, SEGMENTATION
from ..core.html import html_page, html_table
from ..core.pictures import picture_tag
from .checks import Check
from .drop import AccuracyReport

if TYPE_CHECKING:
    from .report import VerifyReport

Table = tuple[tuple[str, ...], Sequence[tuple[str, ...]]]
#: Number of images that are drawn for each backend and precision.
_SHOWN = 8


def check_table(report: VerifyReport, result: Callable[[str | None], str]) -> Table:
    """Return the head and the rows of the table of checks; ``result`` words a problem, or None for none."""
    errors = (f"{report.task.score} error", "of range", "p50 px", "p99 px", "max px")
    rows = [(c.runner.backend, c.runner.precision, str(c.batch), *c.cells, result(c.problem)) for c in report.checks]
    return ("backend", "precision", "batch", *errors, "result"), rows


def accuracy_table(accuracy: AccuracyReport, result: Callable[[str | None], str]) -> Table:
    """Return the head and the rows of the table of accuracies, likewise."""
    metric = accuracy.metric
    rows = [(c.runner.backend, c.runner.precision, metric, *c.cells, result(c.problem)) for c in accuracy.checks]
    return ("backend", "precision", "metric", "percent", "drop", "result"), rows


def verify_page(report: VerifyReport) -> str:
    """Return the self-contained HTML page of a verification: verdict, figures, and the images that moved most."""
    name, reference = escape(report.bundle.manifest.name), report.bundle.manifest.reference
    state = '<span class="pass">passed</span>' if report.passed else '<span class="fail">failed</span>'
    where = environment()
    made = f"{where['cpu']}, {where['gpu'] or 'no GPU'}, {where['time']}"
    body = (
        f"<h1>{name}: verification {state}</h1>",
        f"<p>{len(report.goldens.images)} golden {report.task.image}s replayed and compared with {reference}.</p>",
        f"<p>{escape(made)}.</p>",
        *verification_html(report),
    )
    return html_page(f"verify {name}", body)


def verification_html(report: VerifyReport) -> Iterator[str]:
    """Return the sections of a verification: figures, accuracy, limits, and the images that moved most."""
    last = {check.name: check for check in report.checks}  # the check with the largest batch
    remarks = [*report.differences.items(), *report.notes.items()]
    lines = [f"<p><b>{name}</b>: {escape(sentence)}</p>" for name, sentence in remarks]
    lines += [f"<p><b>{name}</b> skipped: {escape(reason)}</p>" for name, reason in report.skipped.items()]
    yield html_table(*check_table(report, _result)) + "\n".join(lines)
    if report.accuracy is not None:
        title = f"<h2>Accuracy on {escape(report.accuracy.data)}</h2>"
        yield title + html_table(*accuracy_table(report.accuracy, _result))
    limits = {check.runner.precision: report.task.limits(check.runner.precision) for check in report.checks}
    rows = [
        (escape(p), f"{x.score:g}", f"{x.p50:.2f}", "-" if x.p99 is None else f"{x.p99:.2f}", escape(x.why))
        for p, x in limits.items()
    ]
    head = ("precision", f"{report.task.score}s, of range", "p50 px", "p99 px", "why")
    yield f"<h2>Limits</h2>{html_table(head, rows)}"
    yield from (_check_html(report, check) for check in last.values())


def _result(problem: str | None) -> str:
    if problem:
        return f'<span class="fail">failed</span>: {escape(problem)}'
    return '<span class="pass">passed</span>'


def _check_html(report: VerifyReport, check: Check) -> str:
    """Return the section of a check: the golden images that moved most, with both results drawn on them."""
    reference, task = report.bundle.manifest.reference, report.task
    title = f"<h2>{check.runner.backend}, {escape(check.runner.precision)}</h2>"
    if check.outputs is None:
        return f"{title}<p>No {task.points} to draw.</p>"
    distances, scores = task.errors(report.goldens.outputs, check.outputs)
    # The images that moved most first, and those that did not move by the difference of their scores.
    order = sorted(range(len(scores)), key=lambda i: (-distances[i].max(initial=0), -scores[i]))[:_SHOWN]
    figures = []
    for i in order:
        golden, got = ({name: values[i] for name, values in o.items()} for o in (report.goldens.outputs, check.outputs))
        picture, where = task.draw(report.bundle.manifest, report.goldens.images[i], golden, got, distances[i])
        moved = f"largest error {distances[i].max(initial=0):.2f} px{where}, {task.score} {scores[i]:.2g}"
        tag = picture_tag(picture, f"golden {task.image} {i} with the {task.points} of {reference} and {check.name}")
        figures.append(f"<figure>{tag}<figcaption>{escape(f'{task.image} {i}: {moved}')}</figcaption></figure>")
    keys = f'<span class="key pytorch"></span>{reference}<span class="key backend"></span>{check.runner.backend}'
    shown = f"{len(order)} of {len(scores)} {task.image}s, those that moved most first"
    maps = [name for name in (BONES, SEGMENTATION) if name in report.goldens.outputs]
    shown += f"; right of each the {maps[0]} of {reference}, then of {check.runner.backend}" if maps else ""
    return f'{title}<p>{keys}</p><p>{shown}</p><div class="crops">\n' + "\n".join(figures) + "\n</div>"
