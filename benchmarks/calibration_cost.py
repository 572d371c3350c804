"""How long does calibration take, and how much memory?

It collects the ranges of ``hrnet_w32`` (untrained: only the size matters) from real crops as ``edgepose calibrate``
does: a scan of every tensor, then histograms of the tensors of INT8.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import onnx
from common import Outcome, run_benchmark

from edgepose.calib import SCANNED
from edgepose.calib.crops import crops_from_data
from edgepose.calib.ranges import collect, scan
from edgepose.core.errors import UsageError
from edgepose.core.machine import peak_memory_mb
from edgepose.core.tables import text_table
from edgepose.export.from_checkpoint import export
from edgepose.graphs.calibration import METHODS
from edgepose.graphs.quantise import tensors_to_collect

SIZE = (256, 192)
#: For all crops, on two cores.
LIMITS = {"seconds": 240.0, "gigabytes": 6.0}


def measure(options: argparse.Namespace) -> Outcome:
    crops = crops_from_data(options.data, SIZE, limit=options.crops).images
    with TemporaryDirectory() as folder:
        graph = export(options.model, Path(folder) / "b.edgepose", input_size=SIZE).graph
        tensors = tensors_to_collect(onnx.load(graph))
        start = perf_counter()
        scan(graph, crops[:SCANNED])
        scanned = perf_counter()
        collect(graph, tensors, crops, options.method)
        end = perf_counter()
    memory = peak_memory_mb()
    if memory is None:
        raise UsageError("this system does not report the memory of a process: run on Linux")
    total = {"seconds": end - start, "gigabytes": memory / 1e3}
    excess = [f"{total[unit]:.1f} {unit}, limit {limit:g}" for unit, limit in LIMITS.items() if total[unit] > limit]
    rows = [
        ("scan of every tensor", f"{min(len(crops), SCANNED)}", f"{scanned - start:.1f}"),
        (f"histograms of {len(tensors)} tensors, {options.method}", f"{len(crops)}", f"{end - scanned:.1f}"),
    ]
    text = text_table((f"{options.model}, 256x192", "crops", "s"), rows) + f"\npeak memory {memory / 1e3:.2f} GB"
    figures = {"model": options.model, "crops": len(crops), "tensors": len(tensors), **total, "limits": LIMITS}
    return Outcome(text, {**figures, "scan_seconds": scanned - start, "collect_seconds": end - scanned}, excess)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="KIND:ROOT of the crops")
    parser.add_argument("--model", default="hrnet_w32", help="default: %(default)s")
    parser.add_argument("--crops", type=int, default=512, help="default: %(default)s")
    parser.add_argument("--method", choices=METHODS, default=METHODS[0], help="default: %(default)s")
    raise SystemExit(run_benchmark(parser, measure))
