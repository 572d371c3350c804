"""Run a graph on crops to collect the ranges of its tensors for INT8, and to scan them for FP16."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from ..backends.plan import open_graph
from ..backends.session import Arrays, Session
from ..core.errors import UsageError
from ..core.files import sha256
from ..core.machine import versions
from ..core.progress import Progress
from ..graphs.calibration import Calibration
from ..graphs.probe import write_outputs
from .crops import crop_hashes
from .histogram import Histogram, check_method, threshold

#: Most bytes of tensors that one run returns; batches are made smaller to respect it. ONNX Runtime needs twice that.
_OUTPUT_BUDGET = 1 << 29


def collect(
    graph: Path,
    tensors: Sequence[str],
    crops: NDArray[np.uint8],
    method: str,
    *,
    batch: int = 8,
    progress: Progress | None = None,
) -> Calibration:
    """Run the FP32 graph in ONNX Runtime and choose a range for each tensor.

    Memory does not grow with the number of crops: the values of each batch are counted in histograms.

    Args:
        graph: ONNX file with one input, crops.
        tensors: names of floating-point tensors of the main graph, each computed by a node.
        crops: (N, h, w, 3) uint8 RGB.
        method: see :func:`edgepose.calib.histogram.threshold`.
        batch: most crops per run; fewer if the tensors would exceed half a gigabyte.
        progress: called after every batch with the number of crops done and of all crops.

    Raises:
        UsageError: the method is unknown, or the graph cannot be run on these crops or lacks a tensor.
        CheckError: a tensor holds NaN or infinity.
    """
    check_method(method)
    names = list(dict.fromkeys(tensors))
    if not names:
        raise UsageError(f"got no tensors of {graph} to calibrate, expected the inputs of its convolutions")
    histograms = {name: Histogram(name) for name in names}
    for arrays in _tensors(graph, names, crops, batch, progress):
        for name in names:
            histograms[name].add(arrays.pop(name))
    return Calibration(
        ranges={name: threshold(histogram, method) for name, histogram in histograms.items()},
        method=method,
        graph_sha256=sha256(graph),
        crops=crop_hashes(crops),
        made_with=versions("python", "edgepose", "numpy", "opencv-python-headless", "onnx", "onnxruntime"),
    )


def scan(
    graph: Path, crops: NDArray[np.uint8], *, batch: int = 8, progress: Progress | None = None
) -> dict[str, float]:
    """Return the largest magnitude of every floating-point tensor that the main graph computes, in the graph's order.

    It is infinite if a value is NaN or infinite. Weights and tensors inside functions and subgraphs are left out.
    Arguments and errors are those of :func:`collect`.
    """
    found: dict[str, float] = {}
    for arrays in _tensors(graph, None, crops, batch, progress):
        for name in list(arrays):
            values = arrays.pop(name)
            if np.issubdtype(values.dtype, np.floating):
                with np.errstate(invalid="ignore"):
                    largest = max(float(values.max(initial=0)), -float(values.min(initial=0)))
                found[name] = max(found.get(name, 0.0), largest if math.isfinite(largest) else math.inf)
    return found


def _tensors(
    graph: Path, names: Sequence[str] | None, crops: NDArray[np.uint8], batch: int, progress: Progress | None
) -> Iterator[Arrays]:
    """Yield the named tensors of the main graph (None: all), batch by batch; the caller may change the dictionaries."""
    if not len(crops):
        raise UsageError("got no images to run the graph on, expected at least one")
    if batch < 1:
        raise UsageError(f"batch is {batch}, expected at least 1 crop")
    with _probe(graph, names) as session:
        (images,) = session.inputs
        done, size = 0, 1  # the first run measures the bytes per crop
        while done < len(crops):
            arrays = session.run({images.name: crops[done : done + size]})
            done = min(done + size, len(crops))
            if size == 1:
                each = sum(array.nbytes for array in arrays.values())
                size = max(1, min(batch, _OUTPUT_BUDGET // max(each, 1)))
            yield arrays
            if progress:
                progress(done, len(crops))


@contextmanager
def _probe(graph: Path, names: Sequence[str] | None) -> Iterator[Session]:
    """Open a session on a copy of the graph that has only the named tensors as outputs."""
    with TemporaryDirectory() as folder:
        probe = Path(folder) / "probe.onnx"
        write_outputs(graph, names, probe)
        try:
            session = open_graph(probe)
        except UsageError as error:
            raise UsageError(f"{graph} with inner tensors as outputs cannot be run: {error}") from error
    try:
        if len(session.inputs) != 1:
            inputs = ", ".join(map(str, session.inputs))
            raise UsageError(
                f"{graph} takes {inputs}, expected one input, the images: export or import the model again"
            )
        others = [spec for spec in session.outputs if not np.issubdtype(spec.dtype, np.floating)]
        if names is not None and others:
            raise UsageError(f"tensor {others[0]} of {graph} cannot be calibrated: expected floating-point numbers")
        yield session
    finally:
        session.close()
