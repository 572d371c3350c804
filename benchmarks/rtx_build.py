"""What does building a TensorRT-RTX engine cost on a machine without a GPU?

Each network is exported untrained, and built by ``edgepose build`` in a process of its own from which GPUs are hidden:
the layers decide the cost, not the weights. The seconds are those of parsing and building, without the start of Python.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from common import Outcome, run_benchmark

from edgepose.bundle import open_bundle
from edgepose.engines import EngineRecord, read_record
from edgepose.errors import UsageError
from edgepose.export.bundle import export
from edgepose.tables import text_table

MODELS = (("ditn_hrnet_w32", "coco17"), ("hrnet_w32", "coco17"), ("ditn_lite", "lsp14"))
SIZE = (256, 192)
#: For ``ditn_hrnet_w32``: seconds, and gigabytes (10^9 bytes) resident in the building process.
LIMITS = {"seconds": 15.0, "gigabytes": 6.0}


def build(bundle: Path, batches: str) -> EngineRecord:
    command = [sys.executable, "-m", "edgepose", "build", str(bundle), "--target", "tensorrt-rtx", "--batch", batches]
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=hidden, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UsageError(f"the build failed with exit code {done.returncode}: {done.stderr.strip()}")
    return read_record(open_bundle(bundle).engines()[0])


def cost(model: str, skeleton: str, batches: str) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        bundle = export(model, Path(folder) / f"{model}.edgepose", skeleton=skeleton, input_size=SIZE)
        record = build(bundle.path, batches)
        engine = open_bundle(bundle.path).engines()[0].stat().st_size
    if record.peak_memory_mb is None:
        raise UsageError("this system does not tell the memory of a process: run on Linux")
    return {
        "model": model,
        "seconds": round(record.build_seconds, 2),
        "gigabytes": round(record.peak_memory_mb / 1e3, 2),
        "engine_megabytes": round(engine / 1e6, 1),
        "layers": record.layer_count,
        "batches": record.batches,
        "precision": record.precision,
    }


def measure(options: argparse.Namespace) -> Outcome:
    rows = [cost(model, skeleton, options.batch) for model, skeleton in MODELS]
    first = rows[0]
    excess = [
        f"{first['model']} takes {first[unit]} {unit}, the limit is {limit:g}"
        for unit, limit in LIMITS.items()
        if first[unit] > limit
    ]
    columns = ("model", "seconds", "gigabytes", "engine_megabytes", "layers")
    head = ("model, 256x192", "build s", "peak GB", "engine MB", "layers")
    text = text_table(head, [[str(row[column]) for column in columns] for row in rows])
    return Outcome(text, {"input_size": SIZE, "limits": LIMITS, "rows": rows}, excess)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", default="1,8,32", help="smallest, typical, largest (default %(default)s)")
    return run_benchmark(parser, measure)


if __name__ == "__main__":
    raise SystemExit(main())
