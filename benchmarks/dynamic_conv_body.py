"""Which function body is the fastest for the dynamic depthwise convolution?

``edgepose.plugins.onnx_function`` cuts the map into 8x8 tiles and multiplies their patches with banded matrices. Here
it runs beside other tile sizes and four other forms of standard ops, in ONNX Runtime and OpenVINO, and is built for
TensorRT-RTX where that is installed. Every form is compared with the PyTorch op before it is timed. The forms take
turns in short blocks, so that other work on the machine slows all of them alike: trust the ratios more than the times.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from contextlib import closing
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import torch
from common import Outcome, run_benchmark
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto, helper, numpy_helper, parser

from edgepose.backends.plan import open_graph
from edgepose.backends.session import Arrays
from edgepose.build.listing import find_listing, read_layers
from edgepose.core.errors import CheckError, UsageError
from edgepose.core.tables import text_table
from edgepose.core.timing import Budget, summarise, time_calls
from edgepose.nvidia import tensorrt
from edgepose.nvidia.tensorrt import recording_logger
from edgepose.plugins.onnx_function import OPSET, function_body
from edgepose.plugins.spec import DOMAIN, OP_TYPE, VERSION
from edgepose.plugins.torch_op import dynamic_depthwise_conv2d

#: ``ditn_hrnet_w32`` for COCO at 256x192: two channels for each of 19 bones.
C, H, W, KH, KW = 38, 64, 48, 7, 5
PADS = [KH // 2, KW // 2, KH // 2, KW // 2]
TILES = ((8, 8), (4, 8), (8, 16), (16, 16))
OURS = "tiles 8x8 (ours)"
ENGINES = ("onnxruntime", "openvino")
BATCHES = (1, 8)
BLOCK = Budget(calls=10, seconds=0.1, warm_up=3)
#: Milliseconds of our body per sample, at batch 1 in ONNX Runtime on two cores.
LIMIT_MS = 1.0
#: Largest difference from the PyTorch op, relative to the largest output.
LIMIT_ERROR = 1e-5


class Graph:
    """Nodes that compute one output from x (N, C, H, W) and k (N, C, KH, KW); constants are arrays."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []

    def __call__(self, kind: str, *inputs: str | ArrayLike, **attributes: object) -> str:
        names = [value if isinstance(value, str) else self._constant(value) for value in inputs]
        self.nodes.append(helper.make_node(kind, names, [f"t{len(self.nodes)}"], **attributes))
        return self.nodes[-1].output[0]

    def _constant(self, value: ArrayLike) -> str:
        return self("Constant", value=numpy_helper.from_array(np.asarray(value)))

    def model(self) -> onnx.ModelProto:
        def value(name: str, *shape: int) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape])

        inputs, output = [value("x", C, H, W), value("k", C, KH, KW)], value(self.nodes[-1].output[0], C, H, W)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
        return helper.make_model(
            helper.make_graph(self.nodes, "body", inputs, [output]), opset_imports=opsets, ir_version=10
        )


def tiled(tile: tuple[int, int]) -> onnx.ModelProto:
    """Build the function that edgepose exports, with tiles of another size."""
    op = Graph()
    op(OP_TYPE, "x", "k", domain=DOMAIN)
    model = op.model()
    model.functions.append(function_body(C, H, W, KH, KW, tile=tile))
    return model


def banded() -> onnx.ModelProto:
    """Multiply whole rows at once: KH rows side by side (H, KH * PW) times a banded (Toeplitz) matrix (KH * PW, W)."""
    op, pw = Graph(), W + KW - 1
    spread = np.zeros((KW, pw, W), np.float32)
    for v, col in np.ndindex(KW, W):
        spread[v, col + v, col] = 1
    padded = op("Pad", "x", [0, 0, *PADS[:2], 0, 0, *PADS[2:]])
    rows = [op("Slice", padded, [u], [u + H], [2]) for u in range(KH)]
    matrix = op("Reshape", op("MatMul", "k", spread.reshape(KW, -1)), [0, C, KH * pw, W])
    op("MatMul", op("Concat", *rows, axis=3), matrix)
    return op.model()


def shifted() -> onnx.ModelProto:
    """Slice, multiply and add for each of the KH * KW weights."""
    op = Graph()
    padded, total = op("Pad", "x", [0, 0, *PADS[:2], 0, 0, *PADS[2:]]), None
    for u, v in np.ndindex(KH, KW):
        weight = op("Slice", "k", [u, v], [u + 1, v + 1], [2, 3])
        term = op("Mul", op("Slice", padded, [u, v], [u + H, v + W], [2, 3]), weight)
        total = term if total is None else op("Add", total, term)
    return op.model()


def one_hot() -> onnx.ModelProto:
    """Make the KH * KW shifted maps by a depthwise convolution with one-hot kernels (unfold); multiply, sum."""
    op, taps = Graph(), KH * KW
    kernels = np.tile(np.eye(taps, dtype=np.float32).reshape(taps, 1, KH, KW), (C, 1, 1, 1))
    unfolded = op("Reshape", op("Conv", "x", kernels, group=C, pads=PADS), [0, C, taps, H, W])
    op("ReduceSum", op("Mul", unfolded, op("Reshape", "k", [0, C, taps, 1, 1])), [2], keepdims=0)
    return op.model()


def scan() -> onnx.ModelProto:
    """Loop over the batch around a Conv with a tensor as kernel."""
    op = Graph()
    body = parser.parse_graph(f"""
        one_sample (float[{C}, {H}, {W}] x1, float[{C}, {KH}, {KW}] k1) => (float[{C}, {H}, {W}] y1)
        <int64[1] first = {{0}}, int64[1] second = {{1}}> {{
            x4 = Unsqueeze(x1, first)
            k4 = Unsqueeze(k1, second)
            y4 = Conv <group = {C}, kernel_shape = [{KH}, {KW}], pads = {PADS}> (x4, k4)
            y1 = Squeeze(y4, first)
        }}""")
    op("Scan", "x", "k", body=body, num_scan_inputs=2)
    return op.model()


def forms() -> dict[str, onnx.ModelProto]:
    sizes = {OURS if tile == (8, 8) else f"tiles {tile[0]}x{tile[1]}": tiled(tile) for tile in TILES}
    others = {"banded, no tiles": banded, "shifted slices": shifted, "one-hot conv": one_hot, "Scan over Conv": scan}
    return {**sizes, **{name: make() for name, make in others.items()}}


def example(batch: int) -> tuple[Arrays, NDArray[np.float32]]:
    """Return inputs, and the output of the PyTorch op for them."""
    rng = np.random.default_rng(batch)
    feeds = {
        name: rng.standard_normal((batch, C, *size)).astype(np.float32)
        for name, size in (("x", (H, W)), ("k", (KH, KW)))
    }
    want = dynamic_depthwise_conv2d(torch.from_numpy(feeds["x"]), torch.from_numpy(feeds["k"]))
    return feeds, want.numpy()


def errors_of(files: dict[str, Path], engine: str) -> dict[str, float]:
    """Return for each form the largest difference from the PyTorch op, relative to the largest output.

    Raises:
        CheckError: one is above ``LIMIT_ERROR``.
    """
    errors: dict[str, float] = {}
    for name, file in files.items():
        with closing(open_graph(file, engine)) as session:
            for batch in BATCHES:
                feeds, want = example(batch)
                (got,) = session.run(feeds).values()
                error = float(np.abs(got - want).max() / np.abs(want).max())
                errors[name] = max(error, errors.get(name, 0.0))
        if not errors[name] <= LIMIT_ERROR:
            raise CheckError(f"{name} differs from PyTorch in {engine} by {errors[name]:.1e} (limit {LIMIT_ERROR:g})")
    return errors


def time_in_turns(files: dict[str, Path], engine: str, rounds: int) -> dict[str, dict[str, Any]]:
    """Return by form and batch the milliseconds per sample, and the median ratio of its time to ours.

    Each turn opens and closes a session: the threads of an idle one would still spin during the next.
    """
    blocks: defaultdict[tuple[str, int], list[list[float]]] = defaultdict(list)
    for _ in range(rounds):
        for name, file in files.items():
            with closing(open_graph(file, engine)) as session:
                for batch in BATCHES:
                    call = partial(session.run, example(batch)[0])
                    blocks[name, batch].append([ms / batch for ms in time_calls(call, BLOCK)])
    medians = {key: np.array([np.median(block) for block in turns]) for key, turns in blocks.items()}
    found: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    for (name, batch), turns in blocks.items():
        to_ours = float(np.median(medians[name, batch] / medians[OURS, batch]))
        found[name][f"batch_{batch}"] = {**asdict(summarise(list(chain(*turns)))), "to_ours": round(to_ours, 3)}
    return found


def rtx_layers(graph: Path) -> int | str:
    """Return the layers of TensorRT-RTX's engine for batches 1 to 32 (no GPU needed), or why there is none."""
    try:
        trt = tensorrt.load_target("tensorrt-rtx")
    except UsageError:
        return "not installed"
    log = recording_logger(trt, "VERBOSE")
    builder = trt.Builder(log)
    network = builder.create_network(0)
    onnx_parser = trt.OnnxParser(network, log)
    if not onnx_parser.parse_from_file(str(graph)):
        return "refused by the parser"
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    for tensor in (network.get_input(i) for i in range(network.num_inputs)):
        profile.set_shape(tensor.name, *[(batch, *tuple(tensor.shape)[1:]) for batch in (1, 8, 32)])
    config.add_optimization_profile(profile)
    if builder.build_serialized_network(network, config) is None:
        return "refused by the builder"
    return len(read_layers(find_listing(text for _, text in log.messages)))


def measure(options: argparse.Namespace) -> Outcome:
    figures: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    with TemporaryDirectory() as folder:
        files = {name: Path(folder) / f"{i}.onnx" for i, name in enumerate(forms())}
        for name, model in forms().items():
            onnx.save(model, files[name])
            figures[name]["rtx_layers"] = rtx_layers(files[name])
        for engine in ENGINES:
            errors, times = errors_of(files, engine), time_in_turns(files, engine, options.rounds)
            for name in files:
                figures[name][engine] = {"error": errors[name], **times[name]}
    ours = figures[OURS]["onnxruntime"]["batch_1"]["p50"]
    excess = (
        [f"ours takes {ours:.2f} ms at batch 1 in ONNX Runtime, the limit is {LIMIT_MS} ms"] if ours > LIMIT_MS else []
    )
    shape = {"channels": C, "map": [H, W], "kernel": [KH, KW]}
    return Outcome(table(figures), {**shape, "limit_ms": LIMIT_MS, "forms": figures}, excess)


def table(figures: dict[str, dict[str, Any]]) -> str:
    head = [
        "ms per sample (multiple of ours)",
        *(f"{e}, batch {b}" for e in ENGINES for b in BATCHES),
        "error",
        "RTX layers",
    ]
    rows = []
    for name, found in figures.items():
        cells = [found[engine][f"batch_{batch}"] for engine in ENGINES for batch in BATCHES]
        worst = max(found[engine]["error"] for engine in ENGINES)
        times = [f"{cell['p50']:.2f} ({cell['to_ours']:.2f})" for cell in cells]
        rows.append([name, *times, f"{worst:.0e}", str(found["rtx_layers"])])
    return text_table(head, rows)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=8, help="turns of each form (default %(default)s)")
    return run_benchmark(arguments, measure)


if __name__ == "__main__":
    raise SystemExit(main())
