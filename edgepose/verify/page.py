"""The HTML page of a verification, with pictures of the images that moved most."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING

from ..backends.environment import environment
from ..backends.plan import Runner
from ..bundle.tasks import Task
from ..core.html import html_page, html_table
from ..core.pictures import picture_tag
from .checks import Check

if TYPE_CHECKING:
    from .report import VerifyReport

#: Columns of the table of accuracies, in text and in HTML.
DATA_HEAD = ("backend", "precision", "metric", "percent", "drop", "result")
#: Number of images that are drawn for each backend and precision.
_SHOWN = 8


def check_head(task: Task) -> tuple[str, ...]:
    """Return the columns of the table of checks, in text and in HTML."""
    return ("backend", "precision", "batch", f"{task.score} error", "of range", "p50 px", "p99 px", "max px", "result")


def verify_page(report: VerifyReport) -> str:
    """Return the self-contained HTML page of a verification: verdict, figures, and the images that moved most."""
    name, task = escape(report.bundle.manifest.name), report.task
    state = '<span class="pass">passed</span>' if report.passed else '<span class="fail">failed</span>'
    where = environment()
    made = f"{where['cpu']}, {where['gpu'] or 'no GPU'}, {where['time']}"
    body = (
        f"<h1>{name}: verification {state}</h1>",
        f"<p>{len(report.goldens.images)} golden {task.image}s replayed and compared with {task.reference}.</p>",
        f"<p>{escape(made)}.</p>",
        *verification_html(report),
    )
    return html_page(f"verify {name}", body)


def verification_html(report: VerifyReport) -> Iterator[str]:
    """Return the sections of a verification: figures, accuracy, limits, and the images that moved most."""
    last = {check.name: check for check in report.checks}  # the check with the largest batch
    yield _figures_html(report)
    yield _accuracy_html(report)
    yield "<h2>Limits</h2>" + _limits_html(report)
    yield from (_check_html(report, check) for check in last.values())


def _pair(runner: Runner) -> tuple[str, str]:
    return runner.backend, escape(runner.precision)


def _result(problem: str | None) -> str:
    if problem:
        return f'<span class="fail">failed</span>: {escape(problem)}'
    return '<span class="pass">passed</span>'


def _figures_html(report: VerifyReport) -> str:
    rows = [(*_pair(c.runner), str(c.batch), *c.cells, _result(c.problem)) for c in report.checks]
    remarks = [*report.differences.items(), *report.notes.items()]
    lines = [f"<p><b>{name}</b>: {escape(sentence)}</p>" for name, sentence in remarks]
    lines += [f"<p><b>{name}</b> skipped: {escape(reason)}</p>" for name, reason in report.skipped.items()]
    return html_table(check_head(report.task), rows) + "\n".join(lines)


def _accuracy_html(report: VerifyReport) -> str:
    accuracy = report.accuracy
    if accuracy is None:
        return ""
    rows = [(*_pair(c.runner), escape(accuracy.metric), *c.cells, _result(c.problem)) for c in accuracy.checks]
    return f"<h2>Accuracy on {escape(accuracy.data)}</h2>{html_table(DATA_HEAD, rows)}"


def _limits_html(report: VerifyReport) -> str:
    precisions = dict.fromkeys(check.runner.precision for check in report.checks)
    rows = [
        (escape(p), f"{x.score:g}", f"{x.p50:.2f}", "-" if x.p99 is None else f"{x.p99:.2f}", escape(x.why))
        for p, x in ((p, report.task.limits(p)) for p in precisions)
    ]
    return html_table(("precision", f"{report.task.score}s, of range", "p50 px", "p99 px", "why"), rows)


def _check_html(report: VerifyReport, check: Check) -> str:
    """Return the section of a check: the golden images that moved most, with both results drawn on them."""
    title, task = f"<h2>{check.runner.backend}, {escape(check.runner.precision)}</h2>", report.task
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
        tag = picture_tag(
            picture, f"golden {task.image} {i} with the {task.points} of {task.reference} and {check.name}"
        )
        figures.append(f"<figure>{tag}<figcaption>{escape(f'{task.image} {i}: {moved}')}</figcaption></figure>")
    keys = f'<span class="key pytorch"></span>{task.reference}<span class="key backend"></span>{check.runner.backend}'
    shown = f"{len(order)} of {len(scores)} {task.image}s, those that moved most first"
    return f'{title}<p>{keys}</p><p>{shown}</p><div class="crops">\n' + "\n".join(figures) + "\n</div>"
