"""Plot the results of a search: latency against accuracy, and the accuracy lost by each part of the network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import missing_extra
from ..core.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .report import CalibrationReport
    from .search import SearchResult


def write_plots(report: CalibrationReport) -> list[Path]:
    """Write the plots of a search, if there was one, into the bundle's reports and return their paths.

    Raises:
        UsageError: matplotlib is not installed.
    """
    if report.search is None:
        return []
    title = f"{report.bundle.manifest.name}: accuracy on {report.judged} {report.bundle.task.image}s"
    paths = []
    for name, draw in {"pareto.png": draw_front, "sensitivity.png": draw_sensitivity}.items():
        paths.append(report.bundle.reports / name)
        with atomic_path(paths[-1]) as temporary:
            draw(report.search, title).savefig(temporary, dpi=120)
    return paths


def draw_front(result: SearchResult, title: str) -> Figure:
    """Draw every measured point, the front, FP32 and the chosen point."""
    figure = _figure(6)
    axes = figure.subplots()
    axes.scatter([p.milliseconds for p in result.points], [p.accuracy for p in result.points], s=18, label="measured")
    front = result.front
    axes.step([p.milliseconds for p in front], [p.accuracy for p in front], where="post", label="front")
    for point, label, marker in ((result.fp32, "FP32", "s"), (result.chosen, "chosen", "*")):
        axes.plot(point.milliseconds, point.accuracy, marker, markersize=12, label=label)
    least, budget = result.fp32.accuracy - result.max_drop, f"budget {result.max_drop:g}"
    axes.axhline(least, linestyle=":", color="grey", label=budget)
    axes.set(title=title, xlabel="ms per crop", ylabel="accuracy, %", xlim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def draw_sensitivity(result: SearchResult, title: str) -> Figure:
    """Draw one bar per part and precision: the points lost if only this part computes in it."""
    figure = _figure(1 + 0.25 * len(result.sensitivity))
    axes = figure.subplots()
    parts = list(result.sensitivity)[::-1]
    axes.barh(parts, [result.sensitivity[part] for part in parts])
    axes.set(title=title, xlabel="points lost when only this part is in this precision")
    axes.grid(axis="x", alpha=0.3)
    return figure


def _figure(height: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_extra("matplotlib") from error
    return Figure(figsize=(9, height), layout="constrained")  # without pyplot there is no window and no global state
