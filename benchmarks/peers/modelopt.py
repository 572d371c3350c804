"""Is our INT8 as good as that of NVIDIA Model Optimizer, on the same crops?

Both quantise the FP32 graph of a bundle on the same crops of the training split. All graphs then find the persons of
the test split in ONNX Runtime: accuracy by the labels, keypoints beside those of FP32. Latency is of one crop in
OpenVINO, all graphs in turn in one run, beside the processor time of all threads: other programs hardly change that, so
the limit is on it. Further networks, untrained, are only timed. Model Optimizer would quantise the decoding of the
keypoints, too: it is told to leave that alone, and the last row shows what comes of it otherwise.

Model Optimizer takes 2 GB and lives in an environment of its own, with PyTorch for the CPU::

    python -m venv modelopt-venv
    modelopt-venv/bin/pip install torch==2.13.0 'nvidia-modelopt[onnx]==0.47.0' \\
        --extra-index-url https://download.pytorch.org/whl/cpu
    python benchmarks/peers/modelopt.py --python modelopt-venv/bin/python --data lsp:ROOT
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import Outcome, run_benchmark
from precision import Recorder

from edgepose.accuracy.agreement import agreement
from edgepose.accuracy.scoring import score
from edgepose.backends.plan import open_graph
from edgepose.bundle.bundle import Bundle, open_bundle
from edgepose.calib.crops import MIN_CROPS, crops_from_data
from edgepose.calib.ranges import collect
from edgepose.core.errors import UsageError
from edgepose.core.tables import text_table
from edgepose.data import load_data
from edgepose.demo import SHIPPED
from edgepose.graphs.calibration import METHODS
from edgepose.graphs.quantise import place, quantisable
from edgepose.graphs.sixteen_bit import network_nodes
from edgepose.graphs.variants import Choice, make_graph

QUANTISE = Path(__file__).with_name("modelopt_quantise.py")
INSTALL = "make an environment for it as this script's --help says"
#: Fails with a sentence of Python's own where the package is missing.
PROBE = (
    "import json; from importlib.metadata import version; from platform import python_version;"
    "names = 'nvidia-modelopt', 'onnx', 'onnxruntime-gpu', 'torch', 'numpy';"
    "print(json.dumps({'python': python_version(), **{name: version(name) for name in names}}))"
)
THEIRS = ("max", "entropy")
#: Points of accuracy that ours may be below the best of theirs, and its processor time as a share of their least.
DROP, SLOWER = 0.5, 1.05
#: Calls of a latency: rounds over all sessions, calls a round.
ROUNDS, CALLS = 30, 3
FP32, STEM = "FP32", ", the stem too"
#: Milliseconds by clock: ``latency``, and ``processor`` for the time of all threads.
Times = dict[str, float]


@dataclass(frozen=True)
class Candidate:
    """A graph to judge.

    Attributes:
        name: what made it, and how.
        graph: ONNX file.
        seconds: that making it took, with the collecting of ranges.
    """

    name: str
    graph: Path
    seconds: float = 0.0


def peer_versions(python: Path) -> dict[str, str]:
    """Return the versions of Model Optimizer and what it stands on, in the environment of an interpreter.

    Raises:
        UsageError: it is no interpreter, or the environment lacks Model Optimizer.
    """
    try:
        done = subprocess.run([python, "-I", "-c", PROBE], capture_output=True, text=True, check=False)
    except OSError as error:
        raise UsageError(f"--python {python} cannot be run ({error.strerror}): {INSTALL}") from error
    if done.returncode:
        raise UsageError(f"--python {python} lacks nvidia-modelopt[onnx] ({last_line(done.stderr)}): {INSTALL}")
    versions: dict[str, str] = json.loads(done.stdout)
    return versions


def last_line(text: str) -> str:
    """Return the last line that a failed command printed.

    >>> last_line("Traceback ...\\n  File ...\\nValueError: no\\n")
    'ValueError: no'
    """
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else "it said nothing"


def quantise_there(python: Path, graph: Path, crops: Path, output: Path, method: str, excluded: list[str]) -> Candidate:
    """Let Model Optimizer make a graph.

    Raises:
        UsageError: it failed.
    """
    command = [*map(str, (python, "-I", QUANTISE, graph, crops, output)), "--method", method, "--exclude", *excluded]
    start = perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not output.is_file():
        raise UsageError(f"Model Optimizer made no graph with {method}: {last_line(done.stderr)}")
    return Candidate(f"Model Optimizer, {method}", output, perf_counter() - start)


def quantise_here(graph: Path, crops: NDArray[np.uint8], output: Path, method: str, *, stem: bool) -> Candidate:
    """Make our own graph of precision ``int8``, or with the stem, too, what a search may choose."""
    start, model = perf_counter(), onnx.load(graph)
    choice = Choice(frozenset(node.name for node in quantisable(model, stem=stem)))
    ranges = collect(graph, place(model, choice.int8).tensors, crops, method).ranges
    onnx.save(make_graph(model, choice, ranges), output)
    return Candidate(f"ours, {method}{STEM if stem else ''}", output, perf_counter() - start)


def outside(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes that are no part of the network: the normalisation, and the decoding of the keypoints."""
    inside = {node.name for node in network_nodes(model)}
    return [node.name for node in model.graph.node if node.name not in inside]


def make_candidates(
    graph: Path, crops: NDArray[np.uint8], folder: Path, python: Path, ours: list[str], theirs: tuple[str, ...]
) -> list[Candidate]:
    """FP32, ours, and theirs on the same crops."""
    saved = folder / "crops.npy"
    np.save(saved, crops)
    found = [Candidate(FP32, graph)]
    found += [quantise_here(graph, crops, folder / f"ours-{method}.onnx", method, stem=False) for method in ours]
    found.append(quantise_here(graph, crops, folder / "ours-stem.onnx", ours[0], stem=True))
    kept = outside(onnx.load(graph))
    for method in theirs:
        found.append(quantise_there(python, graph, saved, folder / f"theirs-{method}.onnx", method, kept))
    return found


def structure(model: onnx.ModelProto) -> dict[str, Any]:
    """Count what is quantised in a graph with Q/DQ pairs.

    Returns:
        ``convolutions``: the names of those whose input and weights are; ``activations``: how many tensors are that no
        weight is; ``readers``: how many of their readings are by an operator.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    weights = {weight.name for weight in model.graph.initializer}

    def pair(name: str) -> onnx.NodeProto | None:
        maker = makers.get(name)
        return maker if maker is not None and maker.op_type == "DequantizeLinear" else None

    convolutions, tensors, readers = [], set(), Counter[str]()
    for node in model.graph.node:
        pairs = [found for found in map(pair, node.input) if found]
        if node.op_type == "Conv" and len(pairs) >= 2:
            convolutions.append(node.name)
        for found in pairs:
            quantiser = makers.get(found.input[0])
            if quantiser is not None and quantiser.input[0] not in weights:
                tensors.add(quantiser.input[0])
                readers[node.op_type] += 1
    return {"convolutions": convolutions, "activations": len(tensors), "readers": dict(sorted(readers.items()))}


def judge(bundle: Bundle, candidates: list[Candidate], data: str) -> list[dict[str, Any]]:
    """Return a row for each graph, the first FP32: accuracy on the test split, and agreement with FP32."""
    split, manifest = load_data(data, "val"), bundle.manifest
    rows: list[dict[str, Any]] = []
    fp32: NDArray[np.float32] | None = None
    for candidate in candidates:
        with closing(open_graph(candidate.graph)) as session:
            recorder = Recorder(session)
            scores = score(recorder, split, bundle.skeleton, manifest.input_size, padding=manifest.crop_padding)
        keypoints = recorder.keypoints
        fp32 = keypoints if fp32 is None else fp32
        beside = agreement(fp32, keypoints, bundle.skeleton, manifest.input_size, manifest.crop_padding)
        known = {"name": candidate.name, "seconds": round(candidate.seconds, 1)}
        known |= structure(onnx.load(candidate.graph))
        rows.append({**known, "metric": scores.name, "accuracy": scores.value, **asdict(beside)})
    return rows


def take_turns(candidates: list[Candidate], crop: NDArray[np.uint8]) -> dict[str, Times]:
    """Median times of one crop (1, h, w, 3) in OpenVINO, by the candidate's name."""
    samples: dict[str, list[tuple[float, float]]] = {candidate.name: [] for candidate in candidates}
    with ExitStack() as stack:
        sessions = {c.name: stack.enter_context(closing(open_graph(c.graph, "openvino"))) for c in candidates}
        for _ in range(ROUNDS):
            for name, session in sessions.items():
                session.run({"images": crop})  # the one before had the caches
                for _ in range(CALLS):
                    start = perf_counter(), process_time()
                    session.run({"images": crop})
                    samples[name].append((perf_counter() - start[0], process_time() - start[1]))
    medians = {name: (median(clocks) * 1e3 for clocks in zip(*found, strict=True)) for name, found in samples.items()}
    return {name: dict(zip(("latency", "processor"), found, strict=True)) for name, found in medians.items()}


def untrained_latencies(model: str, bundle: Bundle, crops: NDArray[np.uint8], python: Path) -> dict[str, Times]:
    """Of a network with the bundle's skeleton and input; only where the pairs stand matters, not their ranges."""
    from edgepose.export.from_checkpoint import export

    manifest = bundle.manifest
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"{model}.edgepose"
        graph = export(model, path, skeleton=manifest.skeleton, input_size=manifest.input_size).graph
        made = make_candidates(graph, crops[:MIN_CROPS], Path(folder), python, ["minmax"], ("max",))
        return take_turns(made, crops[:1])


def excess(rows: list[dict[str, Any]], times: dict[str, dict[str, Times]]) -> list[str]:
    """Return a sentence for each exceeded limit; compares our graph with an INT8 stem, as theirs have one, too."""
    own = next(row for row in rows if row["name"].endswith(STEM))
    best = max((row for row in rows if row["name"].startswith("Model Optimizer")), key=lambda row: row["accuracy"])
    missed = []
    if own["accuracy"] < best["accuracy"] - DROP:
        missed.append(f"{own['name']}: {own['accuracy']:.2f} %, {best['name']}: {best['accuracy']:.2f} %")
    for model, by_name in times.items():
        ms = next(found["processor"] for name, found in by_name.items() if name.endswith(STEM))
        least = min(found["processor"] for name, found in by_name.items() if name.startswith("Model Optimizer"))
        if ms > SLOWER * least:
            missed.append(f"{model}: ours takes {ms:.2f} ms of the processor, Model Optimizer's graph {least:.2f} ms")
    return missed


def table(rows: list[dict[str, Any]], times: dict[str, dict[str, Times]]) -> str:
    """All rows, then the times of every network."""
    head = ("INT8 by", "INT8 convolutions", "tensors", rows[0]["metric"], "identical", "moved > 4 px", "s to make")
    cells = [
        (
            *(row["name"], str(len(row["convolutions"])), str(row["activations"])),
            *(f"{row[key]:.2f} %" for key in ("accuracy", "identical", "moved")),
            f"{row['seconds']:.0f}",
        )
        for row in rows
    ]
    clocks = ("OpenVINO", "INT8 by", "latency, ms", "processor, ms", "x FP32")
    lines = [
        (
            *(model, name, f"{found['latency']:.2f}", f"{found['processor']:.2f}"),
            f"{by_name[FP32]['processor'] / found['processor']:.2f}",
        )
        for model, by_name in times.items()
        for name, found in by_name.items()
    ]
    return f"{text_table(head, cells)}\n\n{text_table(clocks, lines)}"


def measure(options: argparse.Namespace) -> Outcome:
    versions = peer_versions(options.python)
    bundle = open_bundle(options.bundle)
    manifest, model = bundle.manifest, bundle.manifest.model
    crops = crops_from_data(options.data, manifest.input_size, limit=options.crops).images
    with TemporaryDirectory() as name:
        folder = Path(name)
        made = make_candidates(bundle.graph, crops, folder, options.python, options.methods, THEIRS)
        everything = quantise_there(options.python, bundle.graph, folder / "crops.npy", folder / "all.onnx", "max", [])
        made.append(Candidate("Model Optimizer, max, decoding too", everything.graph, everything.seconds))
        rows = judge(bundle, made, options.data)
        times = {model: take_turns(made, crops[:1])}
    times |= {other: untrained_latencies(other, bundle, crops, options.python) for other in options.untrained}
    figures = {
        "model": model,
        "calibration_crops": len(crops),
        "limits": {"points": DROP, "times": SLOWER},
        "rows": rows,
        "openvino_ms": times,
        "peer_versions": versions,
    }
    return Outcome(table(rows, times), figures, excess(rows, times))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, required=True, help="interpreter that has nvidia-modelopt[onnx]")
    parser.add_argument("--bundle", type=Path, default=SHIPPED, help="default: the shipped ditn_lite")
    parser.add_argument(
        "--data", required=True, help="KIND:ROOT; ranges from its training split, accuracy from the test split"
    )
    parser.add_argument("--crops", type=int, default=256, help="for the ranges, theirs and ours (default: %(default)s)")
    methods = "ours; the first also with the stem in INT8"
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help=methods)
    parser.add_argument("--untrained", nargs="*", default=["hrnet_w32"], metavar="MODEL", help="only timed")
    return run_benchmark(parser, measure)


if __name__ == "__main__":
    raise SystemExit(main())
