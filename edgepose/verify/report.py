"""What verify found, as a table, as JSON, and as one HTML page with pictures of the crops and both skeletons."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..bundle import Bundle, Goldens
from ..errors import CheckError
from ..files import write_text
from ..machine import environment
from ..skeletons import Skeleton
from ..tables import text_table
from .checks import Check, crop_errors, limits_for

#: Columns of the table, in text and in HTML.
HEAD = ("backend", "precision", "batch", "heat-map error", "of range", "p50 px", "p99 px", "max px", "result")

#: RGB, also used in the page's legend: PyTorch's skeleton lies wide below, the backend's thin above.
_PYTORCH = (0, 200, 255)
_BACKEND = (255, 90, 0)
#: Pictures are enlarged so that their longer side is about this many pixels.
_PICTURE = 384


@dataclass(frozen=True)
class VerifyReport:
    """What :func:`edgepose.verify.verify` found; ``str(report)`` is the table.

    Attributes:
        bundle, goldens: what was replayed.
        checks: one per backend and batch size.
        skipped: backend to the reason why it was not checked.
        differences: failed backend to the sentence of :func:`edgepose.verify.locate.first_difference`.
    """

    bundle: Bundle
    goldens: Goldens
    checks: tuple[Check, ...]
    skipped: dict[str, str]
    differences: dict[str, str]

    @property
    def passed(self) -> bool:
        """Whether at least one check ran and none failed."""
        return bool(self.checks) and all(check.problem is None for check in self.checks)

    def __str__(self) -> str:
        rows = [
            (c.backend, c.precision, str(c.batch), *c.cells, "FAILED" if c.problem else "passed") for c in self.checks
        ]
        lines = [text_table(HEAD, rows)]
        lines += [f"{c.backend}, batch {c.batch}: {c.problem}" for c in self.checks if c.problem]
        lines += [f"{backend}: {sentence}" for backend, sentence in self.differences.items()]
        lines += [f"skipped {backend}: {reason}" for backend, reason in self.skipped.items()]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Everything but the arrays, as plain values."""
        precisions = dict.fromkeys(check.precision for check in self.checks)
        return {
            "bundle": self.bundle.manifest.name,
            "passed": self.passed,
            "goldens": len(self.goldens.images),
            "checks": [_check_json(check) for check in self.checks],
            "skipped": self.skipped,
            "first_differences": self.differences,
            "limits": {precision: asdict(limits_for(precision)) for precision in precisions},
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
        failed = [check for check in self.checks if check.problem]
        if failed:
            raise CheckError(
                f"verify: {len(failed)} of {len(self.checks)} checks failed; "
                f"{failed[0].backend}, batch {failed[0].batch}: {failed[0].problem}"
            )


def _check_json(check: Check) -> dict[str, Any]:
    return {
        "backend": check.backend,
        "precision": check.precision,
        "batch": check.batch,
        "passed": check.problem is None,
        "problem": check.problem,
        "figures": asdict(check.figures) if check.figures else None,
    }


def draw_pair(
    crop: NDArray[np.uint8], pytorch: NDArray[np.float32], backend: NDArray[np.float32], skeleton: Skeleton
) -> NDArray[np.uint8]:
    """An enlarged crop with PyTorch's skeleton wide below and the backend's thin above.

    Args:
        crop: (H, W, 3) uint8 RGB.
        pytorch: (J, 3) x, y in crop pixels and score; likewise ``backend``. Joints without a positive score, which
            have no place, and those that are not finite are left out.
        skeleton: the bones to draw.

    Returns:
        (kH, kW, 3) uint8 RGB with a whole factor k >= 1.
    """
    factor = max(1, round(_PICTURE / max(crop.shape[:2])))
    picture = np.ascontiguousarray(crop.repeat(factor, axis=0).repeat(factor, axis=1))
    for keypoints, colour, width in ((pytorch, _PYTORCH, 6), (backend, _BACKEND, 2)):
        # To the centre of an enlarged pixel; an engine that fails may give points too far away for OpenCV.
        points = ((keypoints[:, :2] + 0.5) * factor).clip(-9999, 9999)
        drawn = (keypoints[:, 2] > 0) & np.isfinite(keypoints[:, :2]).all(axis=1)
        corners = {j: (round(float(x)), round(float(y))) for j, (x, y) in enumerate(points) if drawn[j]}
        for a, b in skeleton.bones:
            if a in corners and b in corners:
                cv2.line(picture, corners[a], corners[b], colour, width, cv2.LINE_AA)
        for corner in corners.values():
            cv2.circle(picture, corner, width, colour, -1, cv2.LINE_AA)
    return picture


def picture_tag(picture: NDArray[np.uint8], alt: str) -> str:
    """An ``<img>`` that carries its JPEG inside, from (H, W, 3) uint8 RGB."""
    _, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])
    encoded = base64.b64encode(data.tobytes()).decode("ascii")
    height, width = picture.shape[:2]
    return f'<img width="{width}" height="{height}" alt="{escape(alt)}" src="data:image/jpeg;base64,{encoded}">'


_STYLE = f"""
:root {{ color-scheme: light dark; --line: #8884; --pass: #16803c; --fail: #c62828; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 1180px; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.6rem; }} h2 {{ font-size: 1.2rem; margin-top: 2.2rem; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ text-align: left; padding: .35rem .9rem .35rem 0; border-bottom: 1px solid var(--line); }}
.scroll {{ overflow-x: auto; }} .pass {{ color: var(--pass); font-weight: 600; }}
.fail {{ color: var(--fail); font-weight: 600; }}
.crops {{ display: flex; flex-wrap: wrap; gap: 1.2rem; }} figure {{ margin: 0; }}
img {{ display: block; border-radius: 6px; max-width: 100%; height: auto; }}
figcaption {{ font-size: .85rem; padding-top: .3rem; font-variant-numeric: tabular-nums; }}
.key {{ display: inline-block; width: 1.6em; vertical-align: middle; margin: 0 .35em 0 1em; border-radius: 3px; }}
.pytorch {{ height: 6px; background: rgb{_PYTORCH}; }} .backend {{ height: 2px; background: rgb{_BACKEND}; }}
"""


def verify_page(report: VerifyReport) -> str:
    """The self-contained HTML page of a verification: verdict, figures, and every golden crop of every backend."""
    name = escape(report.bundle.manifest.name)
    verdict = '<span class="pass">passed</span>' if report.passed else '<span class="fail">failed</span>'
    last = {check.backend: check for check in report.checks}  # the largest batch; the figures of all are in the table
    where = environment()
    made = f"{where['cpu']}, {where['gpu'] or 'no GPU'}, {where['time']}"
    return "\n".join(
        (
            '<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>verify {name}</title><style>{_STYLE}</style></head>\n<body>",
            f"<h1>{name}: verification {verdict}</h1>",
            f"<p>{len(report.goldens.images)} golden crops replayed and compared with PyTorch. {escape(made)}.</p>",
            _figures_html(report),
            "<h2>Limits</h2>",
            _limits_html(report),
            *(_backend_html(report, check) for check in last.values()),
            "</body>\n</html>\n",
        )
    )


def _html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are HTML already."""
    header = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f'<div class="scroll"><table>\n<tr>{header}</tr>\n{body}</table></div>'


def _figures_html(report: VerifyReport) -> str:
    rows = []
    for check in report.checks:
        result = '<span class="pass">passed</span>'
        if check.problem:
            result = f'<span class="fail">failed</span>: {escape(check.problem)}'
        rows.append((check.backend, escape(check.precision), str(check.batch), *check.cells, result))
    notes = [f"<p><b>{b}</b>: {escape(sentence)}</p>" for b, sentence in report.differences.items()]
    notes += [f"<p><b>{b}</b> skipped: {escape(reason)}</p>" for b, reason in report.skipped.items()]
    return _html_table(HEAD, rows) + "\n".join(notes)


def _limits_html(report: VerifyReport) -> str:
    precisions = dict.fromkeys(check.precision for check in report.checks)
    rows = [
        (escape(p), f"{x.heatmap:g}", f"{x.p50:.2f}", "-" if x.p99 is None else f"{x.p99:.2f}", escape(x.why))
        for p, x in ((p, limits_for(p)) for p in precisions)
    ]
    return _html_table(("precision", "heat-maps, of range", "p50 px", "p99 px", "why"), rows)


def _backend_html(report: VerifyReport, check: Check) -> str:
    title = f"<h2>{check.backend}, {escape(check.precision)}</h2>"
    if check.outputs is None:
        return f"{title}<p>No keypoints to draw.</p>"
    distances, maps = crop_errors(report.goldens, check.outputs)
    figures = []
    for i, crop in enumerate(report.goldens.images):
        picture = draw_pair(crop, report.goldens.keypoints[i], check.outputs["keypoints"][i], report.bundle.skeleton)
        joint = report.bundle.skeleton.joints[int(distances[i].argmax())].replace("_", " ")
        caption = f"crop {i}: largest error {distances[i].max():.2f} px ({joint}), heat-map {maps[i]:.2g}"
        tag = picture_tag(picture, f"golden crop {i} with the skeletons of PyTorch and {check.backend}")
        figures.append(f"<figure>{tag}<figcaption>{escape(caption)}</figcaption></figure>")
    legend = f'<p><span class="key pytorch"></span>PyTorch<span class="key backend"></span>{check.backend}</p>'
    return f'{title}{legend}<div class="crops">\n' + "\n".join(figures) + "\n</div>"
