"""Calibrate a bundle: collect ranges on real crops, and make its graphs in every precision."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from ..backends.plan import unavailable
from ..bundle.bundle import Bundle, replace_files
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
from .ranges import collect, scan
from .report import CalibrationReport, Variant
from .scorer import Scorer, make_scorer, open_engine, open_on_cpu
from .search import Memory, Search, SearchResult

if TYPE_CHECKING:
    import onnx

#: Share of the crops, the last ones, that accuracy is measured on; the others set the ranges.
JUDGED = 1 / 3
#: Most crops to scan for values that FP16 cannot hold.
SCANNED = 128
#: File in the bundle's reports with the figures of a search.
FIGURES = "search-figures.json"


@dataclass(frozen=True)
class SearchOptions:
    """Bounds of a search for the fastest mixed precision.

    Attributes:
        max_drop: largest loss of accuracy to accept, in percentage points, 0 to 100.
        backend: backend to measure on: ``openvino``, ``onnxruntime``, or with a GPU ``tensorrt`` or ``tensorrt-rtx``;
            these build an engine per candidate, and FP16 is a third precision.
        minutes: no measurement begins after this time.

    Raises:
        UsageError: a number is out of its range, or the backend cannot run here or runs no graphs.
    """

    max_drop: float
    backend: str
    minutes: float

    def __post_init__(self) -> None:
        if not 0 <= self.max_drop <= 100:
            raise UsageError(f"the largest drop is {self.max_drop:g} points of accuracy, expected 0 to 100")
        if self.backend == "torch":
            raise UsageError("the search needs a backend that runs graphs or engines, got torch")
        if reason := unavailable(self.backend):
            raise UsageError(f"the search measures on {self.backend}, which cannot run here: {reason}")
        if not self.minutes > 0:
            raise UsageError(f"the time limit is {self.minutes:g} minutes, expected more than 0")


def calibrate(
    bundle: Bundle, crops: CropSet, method: str, *, calibration: Path | None = None, search: SearchOptions | None = None
) -> CalibrationReport:
    """Make a bundle's graphs in FP16, BF16, INT8 and INT8 with FP16, and after a search also a mixed one.

    Writes the graphs and the ranges (``calibration.json``) into the bundle, and the figures into its reports. If
    anything fails, the bundle is not changed.

    Args:
        bundle: an opened bundle.
        crops: the network's inputs. If they have labels, accuracy is measured against these.
        method: one of :data:`edgepose.graphs.calibration.METHODS`.
        calibration: file with ranges to use; None to collect ranges.
        search: bounds of the search; None for no search.

    Raises:
        UsageError: onnx is not installed, the graph is quantised already or cannot be run, or the calibration belongs
            to another graph.
        CheckError: a tensor or a result holds NaN or infinity.
    """
    try:
        import onnx
    except ImportError as error:
        raise missing_extra("onnx") from error
    model = onnx.load(bundle.graph)
    tensors = tensors_to_collect(model)
    count = len(crops.images) - round(len(crops.images) * JUDGED)
    scorer = make_scorer(bundle, crops, count)
    scorer.accuracy(scorer.fp32)  # fails early if a package is missing
    with bar("scanning") as progress:
        largest = scan(bundle.graph, crops.images[: min(count, SCANNED)], progress=progress)
    unsafe = tuple(unsafe_nodes(model, largest))
    if calibration is not None:
        found = read_calibration(calibration, bundle.graph)
    else:
        with bar("collecting ranges") as progress:
            found = collect(bundle.graph, tensors, crops.images[:count], method, progress=progress)
    with staging_folder(bundle.path) as folder:
        work = _Work(bundle, model, found, unsafe, scorer, folder)
        variants = work.variants()
        result = work.search(search) if search else None
        found.write(folder / CALIBRATION)
        bundle = replace_files(bundle, {file.name: file for file in folder.iterdir()})
    report = CalibrationReport(
        bundle=bundle,
        crops=str(crops),
        calibrated=len(found.crops),
        judged=len(crops.images) - count,
        method=found.method,
        unsafe=unsafe,
        variants=variants,
        search=result,
    )
    report.save(bundle.reports / "calibration.json")
    return report


@dataclass(frozen=True)
class _Work:
    """Makes a bundle's graphs in a folder and measures them."""

    bundle: Bundle
    model: onnx.ModelProto
    calibration: Calibration
    unsafe: tuple[Unsafe, ...]
    scorer: Scorer
    folder: Path

    def variants(self) -> tuple[Variant, ...]:
        """Write the graph of every precision and measure it; FP32's figures come first."""
        made = [self._judged("fp32", self.bundle.graph, self.model, 0)]
        with bar("making graphs") as progress:
            for done, precision in enumerate(VARIANTS, start=1):
                choice = choice_for(precision, self.model, self.unsafe)
                graph = make_graph(self.model, choice, self.calibration.ranges)
                # CPUs do not compute in FP16, so the graph that is measured rounds explicitly.
                judged = graph if choice.rest == "fp32" else with_rounding(graph)
                made.append(self._judged(precision, self._save(precision, graph), judged, len(choice.int8)))
                progress(done, len(VARIANTS))
        return tuple(made)

    def search(self, options: SearchOptions) -> SearchResult:
        """Search for the fastest mixed precision, and write its graph."""
        subject = {
            "graph": self.calibration.graph_sha256,
            "ranges": sha256(json.dumps(self.calibration.ranges, sort_keys=True).encode()).hexdigest(),
            "crops": sha256(self.scorer.crops.tobytes()).hexdigest(),
            "labels": str(self.scorer.labelled),
            "backend": options.backend,
        }
        memory = Memory(self.bundle.reports / FIGURES, subject)
        engines = options.backend in TARGETS
        opened = partial(open_engine, self.bundle) if engines else open_on_cpu
        base = Choice(rest="fp16", fp32=frozenset(found.node for found in self.unsafe)) if engines else Choice()
        scorer = replace(self.scorer, open_model=partial(opened, options.backend))
        search = Search(self.model, base, self.calibration.ranges, scorer, memory)
        with bar("searching") as progress:
            result = search.run(options.max_drop, options.minutes * 60, progress)
        self._save("mixed", search.graph(result.chosen.levels))
        return result

    def _judged(self, precision: str, path: Path, model: onnx.ModelProto, int8: int) -> Variant:
        scorer, found = self.scorer, self.scorer.find(model)
        accuracy = scorer.accuracy(found) if scorer.labelled else None
        return Variant(precision, round(path.stat().st_size / 1e6, 3), int8, scorer.agreement(found), accuracy)

    def _save(self, precision: str, model: onnx.ModelProto) -> Path:
        import onnx

        path = self.folder / self.bundle.manifest.graph_name(precision)
        with atomic_path(path) as temporary:
            onnx.save(model, temporary)
        return path
