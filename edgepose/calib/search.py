"""The fastest precision of each module within a budget of accuracy.

First the sensitivity of every part of the network: what is lost when only it is quantised. Then from everything in INT8
upwards, the most sensitive part first, with accuracy and latency measured at each step: a front from the fastest graph
to FP32. Every figure is kept as it comes, so that a search that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import write_text
from ..tables import text_table
from .judge import Judge
from .modules import partition
from .placement import quantisable
from .progress import Progress
from .variants import Choice, make_graph

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Point:
    """One choice of precisions, measured.

    Attributes:
        parts: the parts of the network in INT8.
        accuracy: in percent, :meth:`edgepose.calib.judge.Judge.accuracy`.
        milliseconds: median latency of one crop.
    """

    parts: tuple[str, ...]
    accuracy: float
    milliseconds: float


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        fp32: the point without INT8.
        sensitivity: by part, the accuracy lost when only it is INT8, in points; most sensitive first.
        points: every choice that was measured, from all INT8 upwards.
        chosen: the fastest point within the budget.
        max_drop: the budget, in points.
        finished: False if the time limit came first.
    """

    fp32: Point
    sensitivity: dict[str, float]
    points: tuple[Point, ...]
    chosen: Point
    max_drop: float
    finished: bool

    @property
    def front(self) -> tuple[Point, ...]:
        """The points that no other one beats in both accuracy and latency, fastest first."""
        best: list[Point] = []
        for point in sorted((*self.points, self.fp32), key=lambda p: (p.milliseconds, -p.accuracy)):
            if not best or point.accuracy > best[-1].accuracy:
                best.append(point)
        return tuple(best)

    def __str__(self) -> str:
        """The front as a table, the most sensitive parts, and the choice."""
        rows = [(f"{p.milliseconds:.2f}", f"{p.accuracy:.2f} %", str(len(p.parts))) for p in self.front]
        most = [f"{part} {drop:.2f}" for part, drop in list(self.sensitivity.items())[:5]]
        chosen, total = self.chosen, len(self.sensitivity)
        speed = self.fp32.milliseconds / chosen.milliseconds
        return "\n".join(
            (
                text_table(("ms", "accuracy", "parts in INT8"), rows),
                f"most sensitive (points lost when alone in INT8): {', '.join(most)}",
                f"chosen: {len(chosen.parts)} of {total} parts in INT8, {chosen.milliseconds:.2f} ms "
                f"({speed:.1f} x FP32), accuracy {chosen.accuracy - self.fp32.accuracy:+.2f} points, "
                f"budget {self.max_drop:g}"
                f"{'' if self.finished else '; the time limit came first: run it again to go on'}",
            )
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the front."""
        return {**asdict(self), "front": [asdict(point) for point in self.front]}


class Memory:
    """Figures that were measured before, in a JSON file.

    Args:
        path: the file; it is made, and replaced if it holds the figures of something else.
        subject: names what the figures are of: graph, ranges, crops and backend.
    """

    def __init__(self, path: Path, subject: Mapping[str, str]) -> None:
        self._path, self._subject = path, dict(subject)
        self._figures: dict[str, float] = {}
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["subject"] == self._subject:
                self._figures = {str(key): float(value) for key, value in content["figures"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass  # nothing usable: measure again

    def recall(self, what: str, parts: tuple[str, ...], measure: Callable[[], float]) -> float:
        """A figure, measured if it is not known, and then kept."""
        key = f"{what} {sha256(json.dumps(parts).encode()).hexdigest()[:16]}"
        if key not in self._figures:
            self._figures[key] = measure()
            write_text(self._path, json.dumps({"subject": self._subject, "figures": self._figures}, indent=1) + "\n")
        return self._figures[key]


class Search:
    """A search over the precisions of a graph's parts.

    Args:
        model: the FP32 graph, with its modules.
        base: what everything that is not INT8 computes in.
        ranges: of the activations.
        judge: measures.
        memory: keeps.
    """

    def __init__(
        self, model: onnx.ModelProto, base: Choice, ranges: Mapping[str, float], judge: Judge, memory: Memory
    ) -> None:
        self._model, self._base, self._ranges = model, base, ranges
        self._judge, self._memory = judge, memory
        self.parts = partition(quantisable(model))

    def graph(self, parts: tuple[str, ...]) -> onnx.ModelProto:
        """The graph with some parts in INT8."""
        int8 = frozenset(name for part in parts for name in self.parts[part])
        return make_graph(self._model, Choice(int8, self._base.rest, self._base.fp32), self._ranges)

    def measure(self, parts: tuple[str, ...]) -> Point:
        """Accuracy and latency with some parts in INT8."""
        latency = self._memory.recall("ms", parts, lambda: self._judge.latency(self.graph(parts)))
        return Point(parts, self._accuracy(parts), latency)

    def sensitivity(self, fp32: float, left: Callable[[], bool], progress: Progress) -> dict[str, float]:
        """By part, what is lost when only it is INT8, most sensitive first; without those there was no time for."""
        drops = {}
        for done, part in enumerate(self.parts):
            if not left():
                break
            progress(done, 2 * len(self.parts), f"only {part} in INT8")
            drops[part] = fp32 - self._accuracy((part,))
        return dict(sorted(drops.items(), key=lambda item: -item[1]))

    def run(self, max_drop: float, seconds: float, progress: Progress = lambda *_: None) -> SearchResult:
        """Measure the sensitivities, and then the choices from all INT8 to none.

        Args:
            max_drop: most accuracy that may be lost, in points.
            seconds: no measurement is begun after this time.
            progress: is told of every step.

        Returns:
            what was found; in the worst case the choice is FP32, which loses nothing.
        """
        end = time.monotonic() + seconds
        fp32 = self.measure(())

        def left() -> bool:
            return time.monotonic() < end

        sensitivity = self.sensitivity(fp32.accuracy, left, progress)
        order, points = list(sensitivity), [fp32]
        finished = len(order) == len(self.parts)
        for raised in range(len(order)):
            if not left():
                finished = False
                break
            progress(len(self.parts) + raised, 2 * len(self.parts), f"{len(order) - raised} parts in INT8")
            points.append(self.measure(tuple(sorted(order[raised:]))))
        within = [point for point in points if fp32.accuracy - point.accuracy <= max_drop]
        chosen = min(within, key=lambda point: point.milliseconds)
        return SearchResult(fp32, sensitivity, tuple(points), chosen, max_drop, finished)

    def _accuracy(self, parts: tuple[str, ...]) -> float:
        return self._memory.recall("ap", parts, lambda: self._judge.accuracy(self._judge.keypoints(self.graph(parts))))
