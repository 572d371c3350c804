"""``edgepose calibrate``: ranges on real crops, and from them the graphs of a bundle in every precision."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..backends.plan import unavailable
from ..bundle.bundle import Bundle, open_bundle, replace_files
from ..bundle.manifest import CALIBRATION
from ..core.errors import UsageError, missing_extra
from ..core.files import atomic_path, staging_folder
from ..core.progress import bar
from ..graphs.calibration import Calibration, read_calibration
from ..graphs.quantise import tensors_to_collect
from ..graphs.sixteen_bit import Unsafe, unsafe_nodes, with_rounding
from ..graphs.variants import VARIANTS, Choice, choice_for, make_graph
from ..nvidia.tensorrt import TARGETS
from .crops import CropSet
from .ranges import Extent, collect, scan
from .report import CalibrationReport, Variant
from .scorer import Scorer, make_scorer, open_engine, open_on_cpu
from .search import Memory, Search, SearchResult

if TYPE_CHECKING:
    import onnx

#: The first crops set the ranges; this share of them, the last, judges what came of it.
JUDGED = 1 / 3
#: More crops than these are not scanned for what FP16 cannot hold.
SCANNED = 128
#: Figures of a search, in the reports.
FIGURES = "search-figures.json"


@dataclass(frozen=True)
class SearchOptions:
    """How a search for the fastest mixed precision is bounded.

    Attributes:
        max_drop: most accuracy that may be lost, in points.
        backend: what is measured: ``openvino``, ``onnxruntime``, or with a GPU ``tensorrt`` or ``tensorrt-rtx``, whose
            engines are built for each candidate, with FP16 as the third precision.
        minutes: no measurement is begun later.
    """

    max_drop: float
    backend: str
    minutes: float

    def __post_init__(self) -> None:
        if not 0 <= self.max_drop <= 100:
            raise UsageError(f"--max-drop is in points of accuracy, from 0 to 100, got {self.max_drop:g}")
        if self.backend == "torch":
            raise UsageError("a search measures what runs graphs or engines, got --backend torch")
        reason = unavailable(self.backend)
        if reason:
            raise UsageError(f"--max-drop measures on {self.backend}, which cannot run here: {reason}")
        if not self.minutes > 0:
            raise UsageError(f"--time-limit is in minutes, above 0, got {self.minutes:g}")


def calibrate(
    bundle: Bundle,
    crops: CropSet,
    method: str,
    *,
    calibration: Path | None = None,
    search: SearchOptions | None = None,
) -> CalibrationReport:
    """Make the graphs of a bundle in FP16, BF16, INT8 and INT8 with FP16, and with a search also a mixed one.

    The bundle gets the graphs and the ranges (``calibration.json``), its reports the figures. It stays as it is if
    anything fails.

    Args:
        bundle: an opened bundle.
        crops: persons, or a detector's pictures, as the network sees them; with labels, accuracy is measured against
            those.
        method: one of :data:`edgepose.graphs.calibration.METHODS`.
        calibration: ranges that were collected before, in place of collecting them.
        search: None for no search.

    Raises:
        UsageError: onnx is not installed, the graph is quantised already or cannot be run, or the calibration is of
            another graph.
        CheckError: values are not finite.
    """
    try:
        import onnx
    except ImportError as error:
        raise missing_extra("onnx", "export") from error
    model = onnx.load(bundle.graph)
    tensors = tensors_to_collect(model)
    count = len(crops.images) - round(len(crops.images) * JUDGED)
    scorer = make_scorer(bundle, crops, count)
    scorer.accuracy(scorer.fp32)  # says what is missing before minutes are spent
    with bar("scanning") as progress:
        extents = scan(bundle.graph, crops.images[: min(count, SCANNED)], progress=progress)
    unsafe = unsafe_nodes(model, {name: _largest(extent) for name, extent in extents.items()})
    if calibration is not None:
        found = read_calibration(calibration, bundle.graph)
    else:
        with bar("collecting ranges") as progress:
            found = collect(bundle.graph, tensors, crops.images[:count], method, progress=progress)
    work = _Work(bundle, model, found, tuple(unsafe), scorer)
    with staging_folder(bundle.path) as folder:
        variants = work.variants(folder)
        result = work.search(folder, search) if search else None
        found.write(folder / CALIBRATION)
        files = {file.name: file for file in folder.iterdir()}
        bundle = replace_files(open_bundle(bundle.path), files)
    report = CalibrationReport(
        bundle=bundle,
        crops=str(crops),
        calibrated=len(found.crops),
        judged=len(crops.images) - count,
        method=found.method,
        unsafe=tuple(unsafe),
        variants=variants,
        search=result,
    )
    report.save(bundle.reports / "calibration.json")
    return report


@dataclass(frozen=True)
class _Work:
    """What making a graph and judging it need."""

    bundle: Bundle
    model: onnx.ModelProto
    calibration: Calibration
    unsafe: tuple[Unsafe, ...]
    scorer: Scorer

    def variants(self, folder: Path) -> tuple[Variant, ...]:
        """Write the graph of every precision into a folder, and judge it; FP32 comes first."""
        made = [self._judged("fp32", self.bundle.graph, self.model, 0)]
        with bar("making graphs") as progress:
            for done, precision in enumerate(VARIANTS):
                choice = choice_for(precision, self.model, self.unsafe)
                made.append(self._write(folder, precision, choice))
                progress(done + 1, len(VARIANTS))
        return tuple(made)

    def search(self, folder: Path, options: SearchOptions) -> SearchResult:
        """Search, and write the chosen graph."""
        subject = {
            "graph": self.calibration.graph_sha256,
            "ranges": _hash(json.dumps(self.calibration.ranges, sort_keys=True).encode()),
            "crops": _hash(self.scorer.crops.tobytes()),
            "labels": str(self.scorer.labelled),
            "backend": options.backend,
        }
        memory = Memory(self.bundle.reports / FIGURES, subject)
        engines = options.backend in TARGETS
        opened = partial(open_engine, self.bundle) if engines else open_on_cpu
        scorer = replace(self.scorer, open_model=partial(opened, options.backend))
        base = Choice(rest="fp16", fp32=frozenset(found.node for found in self.unsafe)) if engines else Choice()
        search = Search(self.model, base, self.calibration.ranges, scorer, memory)
        with bar("searching") as progress:
            result = search.run(options.max_drop, options.minutes * 60, progress)
        self._save(folder, "mixed", search.graph(result.chosen.levels))
        return result

    def _write(self, folder: Path, precision: str, choice: Choice) -> Variant:
        graph = make_graph(self.model, choice, self.calibration.ranges)
        path = self._save(folder, precision, graph)
        # No CPU computes in FP16, so its roundings are put into the graph that is judged.
        judged = graph if choice.rest == "fp32" else with_rounding(graph)
        return self._judged(precision, path, judged, len(choice.int8))

    def _judged(self, precision: str, path: Path, model: onnx.ModelProto, int8: int) -> Variant:
        scorer, found = self.scorer, self.scorer.find(model)
        accuracy = scorer.accuracy(found) if scorer.labelled else None
        return Variant(precision, round(path.stat().st_size / 1e6, 3), int8, scorer.agreement(found), accuracy)

    def _save(self, folder: Path, precision: str, model: onnx.ModelProto) -> Path:
        import onnx

        path = folder / self.bundle.manifest.graph_name(precision)
        with atomic_path(path) as temporary:
            onnx.save(model, temporary)
        return path


def _largest(extent: Extent) -> float:
    return float(np.nanmax([abs(extent.low), abs(extent.high)])) if extent.finite else float("inf")


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
