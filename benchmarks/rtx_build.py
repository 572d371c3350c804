"""How much time and memory does building a TensorRT-RTX engine take on a machine without a GPU?

Each pose network is exported untrained, each detector imported; they are calibrated on a few crops, and built in every
precision by ``edgepose build``, each in a new process without visible GPUs: the cost depends on the layers, not on the
weights. Seconds are for parsing and building, without the start of Python. The convolutions are those in the engine.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from common import Outcome, run_benchmark

from edgepose.bundle.bundle import Bundle, open_bundle
from edgepose.bundle.engine_record import EngineRecord, read_record
from edgepose.bundle.goldens import read_goldens
from edgepose.bundle.manifest import ENGINES
from edgepose.calib import calibrate
from edgepose.calib.crops import CropSet
from edgepose.core.errors import UsageError
from edgepose.core.tables import text_table
from edgepose.export.from_checkpoint import export
from edgepose.export.from_onnx import import_detector

MODELS = (
    *((name, "coco17") for name in ("ditn_hrnet_w32", "ditn_resnet50", "sg_hrnet_w32", "hrnet_w32", "hsr_msnet_59")),
    ("ditn_lite", "lsp14"),
)
SIZE = (256, 192)
#: For ``ditn_hrnet_w32``: seconds, and gigabytes (10^9 bytes) resident in the building process.
LIMITS = {"seconds": 15.0, "gigabytes": 6.0}


def bundle_of(model: str, skeleton: str | None, folder: Path) -> Bundle:
    """Return a bundle with a graph of every precision; without a skeleton, of a detector's file or YOLOv3's weights."""
    path = folder / f"{Path(model).stem}.edgepose"
    if skeleton:
        bundle = export(model, path, skeleton=skeleton, input_size=SIZE)
    elif model.endswith(".weights"):
        bundle = export("yolov3", path, weights=Path(model))
    else:
        bundle = import_detector(model, path)
    crops = read_goldens(bundle).images
    both = np.concatenate([crops, crops[:, :, ::-1]])
    return calibrate(bundle, CropSet(both, tuple(map(str, range(len(both))))), "minmax").bundle


def build(bundle: Path, precision: str, batches: str) -> EngineRecord:
    target = ["--target", "tensorrt-rtx", "--precision", precision, "--batch", batches]
    command = [sys.executable, "-m", "edgepose", "build", str(bundle), *target]
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=hidden, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UsageError(f"the build failed with exit code {done.returncode}: {done.stderr.strip()}")
    return next(r for r in map(read_record, open_bundle(bundle).engines()) if r.precision == precision)


def costs(model: str, skeleton: str | None, batches: str) -> list[dict[str, Any]]:
    with TemporaryDirectory() as folder:
        bundle = bundle_of(model, skeleton, Path(folder))
        return [cost(bundle, precision, batches) for precision in bundle.precisions]


def cost(bundle: Bundle, precision: str, batches: str) -> dict[str, Any]:
    record = build(bundle.path, precision, batches)
    if record.peak_memory_mb is None:
        raise UsageError("this system does not report the memory of a process: run on Linux")
    return {
        "model": bundle.manifest.name,
        "input_size": bundle.manifest.input_size,
        "precision": precision,
        "seconds": round(record.build_seconds, 2),
        "gigabytes": round(record.peak_memory_mb / 1e3, 2),
        "engine_megabytes": round((bundle.path / ENGINES / record.file_name).stat().st_size / 1e6, 1),
        "layers": record.layer_count,
        "convolutions": record.chosen,
        "batches": record.batches,
    }


def counted(convolutions: dict[str, int]) -> str:
    return ", ".join(f"{count} {datatype}" for datatype, count in convolutions.items())


def measure(options: argparse.Namespace) -> Outcome:
    networks = [*(MODELS if not options.only_detectors else ()), *((name, None) for name in options.detectors)]
    rows = [row for model, skeleton in networks for row in costs(model, skeleton, options.batch)]
    first = rows[0]
    excess = [
        f"{first['model']} takes {first[unit]} {unit}, the limit is {limit:g}"
        for unit, limit in LIMITS.items()
        if not options.only_detectors and first[unit] > limit
    ]
    columns = ("model", "precision", "seconds", "gigabytes", "engine_megabytes", "layers")
    head = ("model", "precision", "build s", "peak GB", "engine MB", "layers", "convolutions")
    text = text_table(head, [[*(str(row[column]) for column in columns), counted(row["convolutions"])] for row in rows])
    return Outcome(text, {"limits": LIMITS, "rows": rows}, excess)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", default="1,8,32", help="smallest, typical, largest (default %(default)s)")
    files = "ONNX files, or YOLOv3's .weights (default: person_lite)"
    parser.add_argument("--detectors", nargs="*", default=["person_lite"], help=files)
    parser.add_argument("--only-detectors", action="store_true", help="leave the pose networks and the limits out")
    return run_benchmark(parser, measure)


if __name__ == "__main__":
    raise SystemExit(main())
