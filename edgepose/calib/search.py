"""Search for the fastest mixed precision that loses at most a given accuracy.

First the sensitivity of each part of the network is measured: the accuracy lost if only this part computes in a lower
precision. Then all parts start in the lowest precision and are raised one by one, the most sensitive first; accuracy
and latency are measured at each step. Every figure is stored at once, so that a stopped search can continue.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.files import write_text
from ..core.progress import Progress
from ..core.tables import text_table
from ..graphs.module_names import module_of
from ..graphs.parts import partition
from ..graphs.quantise import quantisable
from ..graphs.variants import Choice, make_graph
from .scorer import Scorer

if TYPE_CHECKING:
    import onnx

#: Path of a part to its precision: ``int8``, ``fp16`` or ``fp32``.
Levels = dict[str, str]


@dataclass(frozen=True)
class Point:
    """One choice of precisions (none for the FP32 graph): its accuracy in percent, and median latency of one crop."""

    levels: Levels
    accuracy: float
    milliseconds: float

    def count(self, level: str) -> int:
        """Return the number of parts in a precision."""
        return list(self.levels.values()).count(level)


@dataclass(frozen=True)
class SearchResult:
    """The result of a search.

    Attributes:
        fp32: the FP32 graph, measured.
        sensitivity: part and precision, such as ``backbone.layer1 int8``, to the accuracy lost if only this part
            computes in it, in percentage points; largest loss first.
        points: every measured choice, lowest precision first.
        chosen: the fastest choice within the budget.
        max_drop: the budget: largest loss of accuracy to accept, in percentage points.
        finished: False if the time limit ended the search.
    """

    fp32: Point
    sensitivity: dict[str, float]
    points: tuple[Point, ...]
    chosen: Point
    max_drop: float
    finished: bool

    @property
    def front(self) -> tuple[Point, ...]:
        """Points for which none is both faster and at least as accurate, fastest first."""
        best: list[Point] = []
        for point in sorted((*self.points, self.fp32), key=lambda p: (p.milliseconds, -p.accuracy)):
            if not best or point.accuracy > best[-1].accuracy:
                best.append(point)
        return tuple(best)

    def __str__(self) -> str:
        """Return the front as a table, the most sensitive parts, and the choice."""
        levels = sorted({level for point in self.points for level in point.levels.values()})
        rows = [
            (f"{p.milliseconds:.2f}", f"{p.accuracy:.2f} %", *(str(p.count(level)) for level in levels))
            for p in self.front
        ]
        most = [f"{part} {drop:.2f}" for part, drop in list(self.sensitivity.items())[:5]]
        chosen, speed = self.chosen, self.fp32.milliseconds / self.chosen.milliseconds
        parts = ", ".join(f"{chosen.count(level)} parts in {level}" for level in levels) if chosen.levels else "FP32"
        lines = (
            text_table(("ms", "accuracy", *(f"parts in {level}" for level in levels)), rows),
            f"most sensitive (points lost by one part alone): {', '.join(most)}",
            f"chosen: {parts}, {chosen.milliseconds:.2f} ms ({speed:.1f} x FP32), "
            f"accuracy {chosen.accuracy - self.fp32.accuracy:+.2f} points, budget {self.max_drop:g}",
            *([] if self.finished else ["the time limit ended the search: run it again to continue"]),
        )
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values, with the front."""
        return {**asdict(self), "front": [asdict(point) for point in self.front]}


class Memory:
    """Measured figures, stored in a JSON file, which is replaced if it is of another subject.

    The subject identifies what the figures are valid for: graph, ranges, crops, labels and backend.
    """

    def __init__(self, path: Path, subject: Mapping[str, str]) -> None:
        self._path, self._subject = path, dict(subject)
        self._figures: dict[str, float] = {}
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["subject"] == self._subject:
                self._figures = {str(key): float(value) for key, value in content["figures"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass  # without a usable file everything is measured

    def recall(self, what: str, levels: Levels, measure: Callable[[], float]) -> float:
        """Return the figure ``what`` of a choice; if it is not stored yet, measure and store it."""
        key = f"{what} {sha256(json.dumps(levels, sort_keys=True).encode()).hexdigest()[:16]}"
        if key not in self._figures:
            self._figures[key] = measure()
            write_text(self._path, json.dumps({"subject": self._subject, "figures": self._figures}, indent=1) + "\n")
        return self._figures[key]


class Search:
    """A search over the precisions of the parts of an FP32 graph.

    Args:
        base: the choice without INT8. If it is FP16 (with some nodes in FP32), every part has a third precision.
        model, ranges, scorer, memory: the graph, the ranges of its activations, and what measures and stores.
    """

    def __init__(
        self, model: onnx.ModelProto, base: Choice, ranges: Mapping[str, float], scorer: Scorer, memory: Memory
    ) -> None:
        self._model, self._base, self._ranges = model, base, ranges
        self._scorer, self._memory = scorer, memory
        self._parts = partition(quantisable(model, stem=True))
        #: Precisions of a part, lowest first.
        self._levels = ("int8", "fp32") if base.rest == "fp32" else ("int8", base.rest, "fp32")

    def graph(self, levels: Levels) -> onnx.ModelProto:
        """Return the graph of a choice; with empty ``levels``, the FP32 graph."""
        if not levels:
            return self._model
        int8 = frozenset(name for part, level in levels.items() if level == "int8" for name in self._parts[part])
        kept = tuple(f"{part}." for part, level in levels.items() if level == "fp32")
        fp32 = frozenset(node.name for node in self._model.graph.node if f"{module_of(node)}.".startswith(kept))
        return make_graph(self._model, Choice(int8, self._base.rest, self._base.fp32 | fp32), self._ranges)

    def run(self, max_drop: float, seconds: float, progress: Progress = lambda *_: None) -> SearchResult:
        """Measure the sensitivities, and then the choices from the lowest precision upwards.

        If nothing else is within ``max_drop`` percentage points, FP32 is chosen. No measurement begins after
        ``seconds``; ``progress`` is called before every step.
        """
        end = time.monotonic() + seconds
        fp32 = self._measure({})
        steps = [(part, level) for part in self._parts for level in self._levels[:-1]]
        drops: dict[tuple[str, str], float] = {}
        for part, level in steps:
            if time.monotonic() > end:
                break
            progress(len(drops), 2 * len(steps), f"only {part} in {level}")
            alone = {**dict.fromkeys(self._parts, "fp32"), part: level}
            drops[part, level] = fp32.accuracy - self._accuracy(alone)
        order = sorted(drops, key=lambda step: -drops[step])
        points: list[Point] = []
        for levels in self._upwards(order):
            if time.monotonic() > end:
                break
            progress(len(drops) + len(points), 2 * len(steps), f"{list(levels.values()).count('int8')} parts in int8")
            points.append(self._measure(levels))
        within = [point for point in (*points, fp32) if fp32.accuracy - point.accuracy <= max_drop]
        return SearchResult(
            fp32=fp32,
            sensitivity={f"{part} {level}": drops[part, level] for part, level in order},
            points=tuple(points),
            chosen=min(within, key=lambda point: point.milliseconds),
            max_drop=max_drop,
            finished=len(order) == len(steps) and len(points) == len(steps) + 1,
        )

    def _upwards(self, order: list[tuple[str, str]]) -> list[Levels]:
        """Return the choices from the lowest precision up, each raising one part by one precision.

        Parts whose sensitivity was not measured stay FP32.
        """
        judged = {part for part, _ in order}
        levels = {part: self._levels[0] if part in judged else "fp32" for part in self._parts}
        choices = [levels] if order else []
        for part, _ in order:
            levels = {**levels, part: self._levels[self._levels.index(levels[part]) + 1]}
            choices.append(levels)
        return choices

    def _measure(self, levels: Levels) -> Point:
        latency = self._memory.recall("ms", levels, lambda: self._scorer.latency(self.graph(levels)))
        return Point(levels, self._accuracy(levels), latency)

    def _accuracy(self, levels: Levels) -> float:
        scorer = self._scorer
        return self._memory.recall("ap", levels, lambda: scorer.accuracy(scorer.find(self.graph(levels))))
