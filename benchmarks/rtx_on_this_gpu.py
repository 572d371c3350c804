"""Does TensorRT-RTX run an engine on this GPU, even if its list of SMs lacks this one?

Two attempts for each network: an engine that was built without a GPU, for the SMs that TensorRT-RTX targets by default,
and one that is built here, for this GPU alone, into the bundle. The ordinary backend refuses the first by its record
where the SM is 8.7 or 9.0; here TensorRT-RTX itself tries it. Each attempt runs in a new process, and any error that
stops it, even a crash, is its result. An engine that runs is compared with the bundle's goldens and timed; a call's
milliseconds include the copies to and from the GPU. Without ``--bundles`` a copy of the shipped bundle is tried; its
engine for the default SMs is built here, with the GPU hidden. ``--bundles`` is a folder of bundles that any machine can
make, such as::

    edgepose export hrnet_w32 -o bundles/hrnet_w32.edgepose
    CUDA_VISIBLE_DEVICES= edgepose build bundles/hrnet_w32.edgepose --target tensorrt-rtx

and likewise ``ditn_hrnet_w32``. The GPU's machine needs the version of TensorRT-RTX that built them, and a driver
for CUDA 13. If it has no network, carry the wheels there from a machine with the same Python and system. They are made
with ``pip wheel``: ``pip download`` brings ``tensorrt-rtx-cu13`` as a source archive, which does not install offline::

    pip wheel --wheel-dir wheels tensorrt-rtx-cu13 cuda-bindings numpy onnx opencv-python-headless
    pip install --no-index --find-links wheels tensorrt-rtx-cu13 cuda-bindings numpy onnx opencv-python-headless
    PYTHONPATH=. python benchmarks/rtx_on_this_gpu.py --bundles bundles

Among them are ``tensorrt_rtx_cu13_bindings`` and ``tensorrt_rtx_cu13_libs`` (95 MB), which hold all of TensorRT-RTX;
PyTorch and the CUDA toolkit are not needed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from common import Outcome, run_benchmark

from edgepose.backends.tensorrt import Executor
from edgepose.build.engine import build_engine
from edgepose.bundle.bundle import Bundle, open_bundle
from edgepose.bundle.engine_record import ANY_SM, read_record
from edgepose.bundle.goldens import read_goldens, verdict
from edgepose.bundle.manifest import ENGINES
from edgepose.core.errors import UsageError
from edgepose.core.tables import text_table
from edgepose.core.timing import Budget, summarise, time_calls
from edgepose.nvidia import device, tensorrt
from edgepose.nvidia.stream import open_stream

TARGET = "tensorrt-rtx"
SHIPPED = Path(__file__).resolve().parents[1] / "edgepose" / "assets" / "ditn_lite.edgepose"
BATCHES = (1, 8, 32)
#: Calls of a new batch size before those that count: TensorRT-RTX compiles kernels for it in the background meanwhile.
SETTLE = Budget(calls=1_000_000, seconds=10.0)


def find_prebuilt(bundle: Bundle, precision: str) -> Path:
    """Return the engine of a bundle that was built without a GPU."""
    for engine in bundle.engines():
        record = read_record(engine)
        if (record.target, record.sm, record.precision) == (TARGET, ANY_SM, precision):
            return engine
    raise UsageError(
        f"bundle {bundle.path} has no {TARGET} engine in {precision} for the default SMs: CUDA_VISIBLE_DEVICES= "
        f"edgepose build {bundle.path} --target {TARGET} --precision {precision}"
    )


def copy_shipped(folder: Path, precision: str) -> Path:
    """Put a copy of the shipped bundle into ``folder``, with an engine that is built as if there were no GPU."""
    bundle = Path(shutil.copytree(SHIPPED, folder / SHIPPED.name))
    command = [sys.executable, "-m", "edgepose", "build", str(bundle), "--target", TARGET, "--precision", precision]
    done = subprocess.run(
        command, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UsageError(f"the shipped bundle's engine cannot be built with the GPU hidden: {done.stderr.strip()}")
    return folder


def find_bundles(folder: Path) -> dict[str, Bundle]:
    """Return the bundles of a folder by name, at least one."""
    bundles = {path.stem: open_bundle(path) for path in sorted(folder.glob("*.edgepose"))}
    if not bundles:
        raise UsageError(f"--bundles {folder} holds no folder named NAME.edgepose: see --help for how to make some")
    return bundles


def run_engine(folder: Path, engine: Path, precision: str, settle: Budget | None = None) -> dict[str, Any]:
    """Load an engine of the bundle in ``folder``, compare it with the goldens and time it; any error is raised.

    ``settle`` replaces :data:`SETTLE`.
    """
    goldens = read_goldens(open_bundle(folder))
    start = time.perf_counter()
    with closing(Executor(tensorrt.load_target(TARGET), open_stream(), engine.read_bytes())) as executor:
        load_ms = round((time.perf_counter() - start) * 1e3, 1)
        figures, wrong = verdict(goldens, executor.run({"images": goldens.images}), precision)
        ms = {}
        for batch in BATCHES:
            call = partial(executor.run, {"images": np.resize(goldens.images, (batch, *goldens.images.shape[1:]))})
            time_calls(call, settle or SETTLE)
            ms[batch] = summarise(time_calls(call, Budget())).p50
    fraction = figures.score_fraction if figures else None  # None where outputs are not finite
    return {"wrong": wrong, "score_fraction": fraction, "load_ms": load_ms, "ms": ms}


def build_and_run(folder: Path, precision: str, settle: Budget | None = None) -> dict[str, Any]:
    """Build an engine here, into the bundle, and run it with :func:`run_engine`."""
    record = build_engine(open_bundle(folder), TARGET, precision)
    engine = folder / ENGINES / record.file_name
    return {"build_seconds": record.build_seconds, **run_engine(folder, engine, precision, settle)}


def attempt(work: Callable[..., dict[str, Any]], *arguments: object) -> dict[str, Any]:
    """Run ``work`` in a new process.

    Returns:
        its result, and ``stopped``: the message of the error that stopped it, or None.
    """
    # "spawn" starts a new interpreter; a forked one could not use CUDA.
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        try:
            return {"stopped": None, **pool.submit(work, *arguments).result()}
        except BrokenProcessPool:
            return {"stopped": "the process died"}
        except Exception as error:  # TensorRT-RTX and CUDA may raise anything; it is the result
            return {"stopped": f"{type(error).__name__}: {' '.join(str(error).split())}"}


def table(rows: list[dict[str, Any]]) -> str:
    head = ("model", "engine", *(f"ms at {batch}" for batch in BATCHES), "load ms", "result")
    cells = []
    for row in rows:
        times = [f"{ms:.2f}" for ms in row["ms"].values()] if "ms" in row else ["-"] * len(BATCHES)
        load = f"{row['load_ms']:.0f}" if "load_ms" in row else "-"
        result = row["stopped"] or row["wrong"] or f"runs, heat-map error {row['score_fraction']:.0e} of the range"
        cells.append([row["model"], row["engine"], *times, load, result])
    return text_table(head, cells)


def measure(options: argparse.Namespace) -> Outcome:
    missing = device.gpu_missing()
    if missing:
        raise UsageError(f"this benchmark needs an NVIDIA GPU: {missing}")
    trt, gpu, precision = tensorrt.load_target(TARGET), device.device_info(), options.precision
    settle = replace(SETTLE, seconds=options.settle)
    rows = []
    with TemporaryDirectory() as scratch:
        bundles = find_bundles(options.bundles or copy_shipped(Path(scratch), precision))
        prebuilt = {model: find_prebuilt(bundle, precision) for model, bundle in bundles.items()}
        for model, bundle in bundles.items():
            elsewhere = attempt(run_engine, bundle.path, prebuilt[model], precision, settle)
            here = attempt(build_and_run, bundle.path, precision, settle)
            rows += [{"model": model, "engine": f"for {ANY_SM} SM", **elsewhere}]
            rows += [{"model": model, "engine": f"for {gpu.sm}", **here}]
    text = f"{trt.__name__} {trt.__version__} on {gpu.name}, {gpu.sm}, {precision}\n{table(rows)}"
    excess = [f"{row['model']}, engine {row['engine']}: {row['wrong']}" for row in rows if row.get("wrong")]
    figures = {"gpu": gpu.name, "sm": gpu.sm, "tensorrt_rtx": trt.__version__, "precision": precision, "rows": rows}
    return Outcome(text, figures, excess)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundles", type=Path, help="folder of bundles (default: the shipped one)")
    parser.add_argument(
        "--settle", type=float, default=SETTLE.seconds, help="seconds of each new batch size that do not count"
    )
    parser.add_argument("--precision", default="fp32", help="of the engines (default %(default)s)")
    return run_benchmark(parser, measure)


if __name__ == "__main__":
    raise SystemExit(main())
