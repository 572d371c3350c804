"""Our INT8 beside Model Optimizer's: what is counted, compared and refused, without Model Optimizer."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import venv
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser

from edgepose.backends.session import Arrays
from edgepose.core.errors import UsageError
from tests.doubles.pose_network import make_bundle

PEERS = Path(__file__).resolve().parents[2] / "benchmarks" / "peers"
QUANTISED = """
<ir_version: 9, opset_import: ["": 18]>
tiny (float[1, 2, 4, 4] x) => (float[1, 2, 4, 4] y) <float s = {0.1}>
{
    xq = QuantizeLinear (x, s)
    xd = DequantizeLinear (xq, s)
    w1d = DequantizeLinear (w1, s)
    [both] a = Conv (xd, w1d)
    w2q = QuantizeLinear (w2, s)
    w2d = DequantizeLinear (w2q, s)
    [weights_only] b = Conv (a, w2d)
    [input_only] c = Conv (xd, w2)
    bq = QuantizeLinear (b, s)
    bd = DequantizeLinear (bq, s)
    d = Add (bd, c)
    [both_too] e = Conv (bd, w2d)
    y = Add (d, e)
}
"""


@pytest.fixture
def modelopt(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The benchmark; it is not the package whose name it has."""
    monkeypatch.syspath_prepend(str(PEERS.parent))
    monkeypatch.syspath_prepend(str(PEERS))
    return importlib.import_module("modelopt")


@pytest.fixture
def bare_python(tmp_path: Path) -> Path:
    """An interpreter without any package."""
    venv.create(tmp_path / "bare", with_pip=False)
    return tmp_path / "bare" / ("Scripts" if sys.platform == "win32" else "bin") / "python"


# --- refusing --------------------------------------------------------------------------------------------------------


def test_an_environment_without_model_optimizer_is_one_sentence(bare_python: Path, tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    done = subprocess.run(
        [sys.executable, PEERS / "modelopt.py", "--python", bare_python, "--data", "lsp:nowhere", "--json", result],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert re.fullmatch(
        rf"modelopt: --python {re.escape(str(bare_python))} lacks nvidia-modelopt\[onnx\] \([^\n]*nvidia-modelopt\): "
        r"make an environment for it as this script's --help says\n",
        done.stderr,
    )
    assert done.stdout == ""
    assert not result.exists()


def test_what_is_no_interpreter_is_refused(modelopt: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere cannot be run \(No such file or directory\): make an environment"):
        modelopt.peer_versions(tmp_path / "nowhere")


def test_a_quantisation_that_fails_says_why(modelopt: ModuleType, tmp_path: Path) -> None:
    missing, output = tmp_path / "missing.onnx", tmp_path / "made.onnx"
    with pytest.raises(UsageError, match=r"Model Optimizer made no graph with max: FileNotFoundError: .*missing\.onnx"):
        modelopt.quantise_there(Path(sys.executable), missing, tmp_path / "crops.npy", output, "max", [])


def test_the_last_line_of_nothing(modelopt: ModuleType) -> None:
    assert modelopt.last_line("Traceback\n  File\nValueError: no\n\n") == "ValueError: no"
    assert modelopt.last_line("\n") == "it said nothing"


# --- what Model Optimizer is told ------------------------------------------------------------------------------------


def test_it_gets_no_functions_and_exact_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    def quantize(path: str, **options: Any) -> None:
        seen.update(options, model=onnx.load(path))

    monkeypatch.setitem(sys.modules, "modelopt.onnx.quantization", SimpleNamespace(quantize=quantize))
    monkeypatch.syspath_prepend(str(PEERS))
    script = importlib.import_module("modelopt_quantise")
    text = '<ir_version: 9, opset_import: ["": 18, "own": 1]> g (float[2] x) => (float[2] y) {y = own.Twice (x)}'
    model = parser.parse_model(text)
    opsets = [helper.make_opsetid("", 18)]
    twice = helper.make_function("own", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], opsets)
    model.functions.append(twice)
    onnx.save(model, tmp_path / "pose.onnx")
    np.save(tmp_path / "crops.npy", np.arange(6))

    script.quantise(tmp_path / "pose.onnx", tmp_path / "crops.npy", tmp_path / "made.onnx", "max", ["add.1"])

    assert [node.op_type for node in seen["model"].graph.node] == ["Add"]
    assert seen["calibration_data"].tolist() == list(range(6))
    assert (seen["calibration_method"], seen["high_precision_dtype"]) == ("max", "fp32")
    (pattern,) = seen["nodes_to_exclude"]
    assert [bool(re.match(pattern, name)) for name in ("add.1", "add.10", "add11")] == [True, False, False]


def test_only_the_network_is_quantised(modelopt: ModuleType, tmp_path: Path) -> None:
    model = onnx.load(make_bundle(tmp_path / "tiny.edgepose").graph)
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    kept = set(modelopt.outside(model))
    network = {"stem", "relu", "body", "head", "leave"}
    assert kept.isdisjoint(network)
    assert len(kept) == len(model.graph.node) - len(network)


# --- what is counted -------------------------------------------------------------------------------------------------


def test_a_convolution_is_int8_with_both_its_pairs(modelopt: ModuleType) -> None:
    model, kernel = parser.parse_model(QUANTISED), np.ones((2, 2, 1, 1))
    for name, kind in (("w1", np.int8), ("w2", np.float32)):
        model.graph.initializer.append(numpy_helper.from_array(kernel.astype(kind), name))
    assert modelopt.structure(model) == {
        "convolutions": ["both", "both_too"],
        "activations": 2,  # x and b
        "readers": {"Add": 1, "Conv": 3},
    }


def test_graphs_take_turns(modelopt: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    class Recording:
        def __init__(self, graph: Path, backend: str) -> None:
            assert backend == "openvino"
            self.name = graph.name

        def run(self, feeds: Arrays) -> Arrays:
            assert feeds["images"].shape == (1, 4, 4, 3)
            order.append(self.name)
            return {}

        def close(self) -> None:
            order.append("closed")

    monkeypatch.setattr(modelopt, "open_graph", Recording)
    monkeypatch.setattr(modelopt, "ROUNDS", 2)
    monkeypatch.setattr(modelopt, "CALLS", 1)
    candidates = [modelopt.Candidate(name, Path(name)) for name in "ab"]
    times = modelopt.take_turns(candidates, np.zeros((1, 4, 4, 3), np.uint8))
    assert order == ["a", "a", "b", "b"] * 2 + ["closed"] * 2  # the first call of a turn warms up
    assert [list(found) for found in times.values()] == [["latency", "processor"]] * 2
    assert list(times) == ["a", "b"]


# --- what is said ----------------------------------------------------------------------------------------------------


def row(name: str, accuracy: float) -> dict[str, Any]:
    shares = {"accuracy": accuracy, "identical": 90.0, "moved": 0.5}
    return {"name": name, "convolutions": ["c"], "activations": 7, "seconds": 3.2, "metric": "PCK", **shares}


STEM = "ours, mse, the stem too"
ROWS = [row("FP32", 60.0), row("ours, mse", 50.0), row(STEM, 59.5), row("Model Optimizer, max", 59.75)]


@pytest.mark.parametrize(
    ("accuracy", "ms", "sentences"),
    [
        (59.75, 10.0, []),
        (60.0, 10.5, []),  # at both limits
        (60.25, 10.0, [f"{STEM}: 59.50 %, Model Optimizer, max: 60.25 %"]),
        (59.75, 11.0, ["net: ours takes 11.00 ms of the processor, Model Optimizer's graph 10.00 ms"]),
    ],
)
def test_the_limits(modelopt: ModuleType, accuracy: float, ms: float, sentences: list[str]) -> None:
    rows = [*ROWS[:-1], row("Model Optimizer, max", accuracy)]
    times = {"FP32": 20.0, "ours, mse": 1.0, STEM: ms, "Model Optimizer, max": 10.0}
    clocks = {name: {"latency": 99.0, "processor": value} for name, value in times.items()}
    assert modelopt.excess(rows, {"net": clocks}) == sentences


def test_the_tables(modelopt: ModuleType) -> None:
    times = {"FP32": {"latency": 30.0, "processor": 20.0}, "ours, mse": {"latency": 25.0, "processor": 10.0}}
    text = modelopt.table(ROWS[:2], {"net": times})
    assert [re.split(r"  +", line) for line in text.split("\n")] == [
        ["INT8 by", "INT8 convolutions", "tensors", "PCK", "identical", "moved > 4 px", "s to make"],
        ["FP32", "1", "7", "60.00 %", "90.00 %", "0.50 %", "3"],
        ["ours, mse", "1", "7", "50.00 %", "90.00 %", "0.50 %", "3"],
        [""],
        ["OpenVINO", "INT8 by", "latency, ms", "processor, ms", "x FP32"],
        ["net", "FP32", "30.00", "20.00", "1.00"],
        ["net", "ours, mse", "25.00", "10.00", "2.00"],
    ]
