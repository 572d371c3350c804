"""Ranges of tensors: beside a NumPy twin of a small graph, on the shipped network, and the file that keeps them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import edgepose
from edgepose.calib import ranges as ranges_module
from edgepose.calib.crops import crop_hashes
from edgepose.calib.histogram import RANGE_OF_ZEROS, Histogram, threshold
from edgepose.calib.ranges import collect, scan
from edgepose.core.errors import CheckError, UsageError
from edgepose.core.files import sha256
from edgepose.graphs.calibration import METHODS, Calibration, read_calibration

onnx = pytest.importorskip("onnx")

from tests.doubles.pose_network import CHANNELS, HEIGHT, JOINTS, WIDTH, pose_model, twin

SHIPPED = Path(edgepose.__file__).parent / "assets" / "ditn_lite.edgepose"
#: Floating-point tensors of the graph that its twin knows.
TENSORS = ["features", "rectified", "mixed", "heatmaps"]


def make_weights() -> dict[str, np.ndarray]:
    """Multiples of 1/16, 1/4 and 1/4, so that every sum is exact and the order of its terms does not matter."""
    rng = np.random.default_rng(7)
    w_stem = rng.integers(-1, 2, (CHANNELS, 3, 4, 4)).astype(np.float32) / 16
    w_body = rng.integers(-1, 2, (CHANNELS, CHANNELS, 3, 3)).astype(np.float32) / 4
    w_head = rng.integers(-1, 2, (JOINTS, CHANNELS, 1, 1)).astype(np.float32) / 4
    return {"w_stem": w_stem, "w_body": w_body, "w_head": w_head}


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "tiny.onnx"
    onnx.save(pose_model(make_weights()), path)
    return path


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (21, HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.fixture
def calibration(graph, crops) -> Calibration:
    return collect(graph, TENSORS, crops, "minmax")


def write_text_graph(path: Path, body: str, inputs: str = "uint8[N, 2, 2, 3] images") -> Path:
    """A graph of opset 18 with the float output ``y``."""
    text = f'<ir_version: 9, opset_import: ["": 18]> g ({inputs}) => (float[N, 2, 2, 3] y) {{ {body} }}'
    onnx.save(onnx.parser.parse_model(text), path)
    return path


def sentence(call: Callable[..., object], *arguments: object, **options: object) -> str:
    with pytest.raises(UsageError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- collect ---


@pytest.mark.parametrize("method", METHODS)
def test_ranges_are_those_of_the_twin(graph, crops, method):
    found = collect(graph, TENSORS, crops, method)
    computed = twin(crops, make_weights())
    assert list(found.ranges) == TENSORS
    for name in TENSORS:
        histogram = Histogram(name)
        histogram.add(computed[name])
        assert found.ranges[name] == threshold(histogram, method)
    assert (found.method, found.graph_sha256, found.crops) == (method, sha256(graph), crop_hashes(crops))
    assert "onnxruntime" in found.made_with


def test_batches_and_memory_do_not_matter(graph, crops, monkeypatch):
    steps: list[tuple[int, int]] = []
    whole = collect(graph, TENSORS, crops, "mse", progress=lambda *step: steps.append(step))
    assert steps == [(1, 21), (9, 21), (17, 21), (21, 21)]
    steps.clear()
    assert collect(graph, TENSORS, crops, "mse", batch=5).ranges == whole.ranges
    monkeypatch.setattr(ranges_module, "_OUTPUT_BUDGET", 1)
    single = collect(graph, TENSORS, crops, "mse", progress=lambda *step: steps.append(step))
    assert steps == [(done, 21) for done in range(1, 22)]
    assert single.ranges == whole.ranges


def test_neither_graph_nor_crops_are_changed_and_names_may_repeat(graph, crops):
    before, kept = graph.read_bytes(), crops.copy()
    found = collect(graph, ["heatmaps", "features", "heatmaps"], crops, "minmax")
    assert list(found.ranges) == ["heatmaps", "features"]
    assert graph.read_bytes() == before
    np.testing.assert_array_equal(crops, kept)
    assert [file.name for file in graph.parent.iterdir()] == ["tiny.onnx"]


def test_a_tensor_of_zeros_has_a_range(tmp_path):
    graph = write_text_graph(tmp_path / "g.onnx", "x = Cast <to = 1> (images) y = Sub (x, x)")
    images = np.full((4, 2, 2, 3), 7, np.uint8)
    assert collect(graph, ["x", "y"], images, "mse").ranges["y"] == RANGE_OF_ZEROS
    assert collect(graph, ["x", "y"], images, "minmax").ranges == {"x": 7.0, "y": RANGE_OF_ZEROS}


def test_infinity_is_refused_with_the_name_of_its_tensor(tmp_path):
    graph = write_text_graph(tmp_path / "g.onnx", "x = Cast <to = 1> (images) big = Exp (x) y = Sub (big, big)")
    images = np.full((2, 2, 2, 3), 200, np.uint8)
    with pytest.raises(CheckError, match="24 of 24 values of tensor 'big' are NaN or infinite"):
        collect(graph, ["x", "big"], images, "percentile")


def test_what_cannot_be_collected(graph, crops, tmp_path):
    two = write_text_graph(tmp_path / "two.onnx", "y = Add (a, b)", "float[N, 2, 2, 3] a, float[N, 2, 2, 3] b")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no graph")
    cases = {
        "computes no tensor 'relu_9'": (graph, ["features", "relu_9"], crops, "mse"),
        "computes no tensor 'images'": (graph, ["images"], crops, "mse"),
        "computes no tensor 'w_stem'": (graph, ["w_stem"], crops, "mse"),
        "index int64 (N, 14, 1) of": (graph, ["index"], crops, "mse"),
        "got no tensors of": (graph, [], crops, "mse"),
        "got no images": (graph, TENSORS, crops[:0], "mse"),
        "input images is uint8 (1, 24, 32, 3)": (graph, TENSORS, crops.swapaxes(1, 2), "mse"),
        "method 'kl' is unknown": (graph, TENSORS, crops, "kl"),
        "cannot read graph": (tmp_path / "missing.onnx", TENSORS, crops, "mse"),
        "is not an ONNX graph": (broken, TENSORS, crops, "mse"),
        "expected one input": (two, ["y"], crops, "mse"),
    }
    for part, arguments in cases.items():
        assert part in sentence(collect, *arguments)
    assert "batch is 0" in sentence(collect, graph, TENSORS, crops, "mse", batch=0)


# --- scan ---


def test_largest_magnitudes_are_those_of_the_twin(graph, crops):
    found = scan(graph, crops, batch=4)
    computed = twin(crops, make_weights())
    for name in (*TENSORS, "keypoints"):
        assert found[name] == np.abs(computed[name]).max()
    assert found["planes"] == crops.max()
    # Every tensor of floating-point numbers, none of whole numbers or truths, and no weights.
    network = {"entering", *TENSORS, "leaving"}
    floats = {"pixels", "planes", *network, "flat", "score", "point", "crop_point", "kept", "keypoints"}
    assert set(found) == floats


def test_a_scan_tells_what_is_not_finite(tmp_path):
    graph = write_text_graph(tmp_path / "g.onnx", "x = Cast <to = 1> (images) big = Exp (x) y = Sub (big, big)")
    images = np.zeros((3, 2, 2, 3), np.uint8)
    assert scan(graph, images, batch=1) == {"x": 0, "big": 1, "y": 0}
    images[1:2] = 200  # exp(200) is infinite in float32, and infinity minus infinity is NaN
    for some in (images, images[1:], images[1:2]):
        assert scan(graph, some, batch=1) == {"x": 200, "big": np.inf, "y": np.inf}


def test_the_largest_magnitude_may_be_a_negative_value(tmp_path):
    graph = write_text_graph(tmp_path / "g.onnx", "x = Cast <to = 1> (images) y = Neg (x)")
    images = np.full((2, 2, 2, 3), 7, np.uint8)
    images[0, 0, 0, 0] = 9
    assert scan(graph, images) == {"x": 9, "y": 9}


@pytest.mark.slow
def test_the_shipped_network_behind_its_function(tmp_path):
    """Its dynamic convolution is a function of the file: its output is scanned, what is inside is not."""
    graph = SHIPPED / "pose.onnx"
    model = onnx.load(graph)
    with np.load(SHIPPED / "golden.npz") as goldens:
        crops, heatmaps = goldens["images"][:3], goldens["heatmaps"][:3]
    found = scan(graph, crops)
    assert found["heatmaps"] == pytest.approx(np.abs(heatmaps).max(), rel=1e-4)
    (dynamic,) = [node for node in model.graph.node if node.domain == "edgepose"]
    assert dynamic.output[0] in found
    assert set(found) <= {name for node in model.graph.node for name in node.output}
    inputs = {node.input[0] for node in model.graph.node if node.op_type == "Conv"}
    collected = collect(graph, sorted(inputs), crops, "minmax").ranges
    peaks = {name: found[name] for name in inputs}
    assert collected == pytest.approx(peaks, rel=1e-5)  # ONNX Runtime fuses other nodes when other tensors are outputs
    calibration = collect(graph, [dynamic.output[0]], crops, "percentile")
    calibration.write(tmp_path / "calibration.json")
    assert read_calibration(tmp_path / "calibration.json", graph) == calibration


# --- the file ---


def test_a_calibration_comes_back_as_it_was_written(calibration, graph, tmp_path):
    path = tmp_path / "reports" / "calibration.json"
    calibration.write(path)
    assert read_calibration(path, graph) == calibration
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert "cannot write" in sentence(calibration.write, tmp_path)


def test_a_calibration_of_another_graph(calibration, graph, tmp_path):
    path = tmp_path / "calibration.json"
    replace(calibration, graph_sha256="0" * 64).write(path)
    said = sentence(read_calibration, path, graph)
    assert "was made for another graph" in said
    assert said.endswith("run edgepose calibrate again")
    calibration.write(path)
    assert "cannot read graph" in sentence(read_calibration, path, tmp_path / "missing.onnx")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[1, 2]", b"3", b"{}", b'{"schema": "1"}', b'{"schema": true}', b"[" * 100_000]
)
def test_files_that_are_no_calibration(content, graph, tmp_path):
    path = tmp_path / "calibration.json"
    path.write_bytes(content)
    assert str(path) in sentence(read_calibration, path, graph)


def test_a_calibration_that_is_not_there(graph, tmp_path):
    for path in (tmp_path / "missing.json", tmp_path):
        assert f"cannot read calibration {path}" in sentence(read_calibration, path, graph)


@pytest.mark.parametrize(
    ("field", "value", "part"),
    [
        ("schema", 2, "has schema 2, this edgepose reads 1"),
        ("schema", 0, "is not a calibration"),
        ("ranges", {}, "ranges must be"),
        ("ranges", [1.0], "ranges must be"),
        ("ranges", {"features": "3"}, "ranges must be"),
        ("ranges", {"features": True}, "ranges must be"),
        ("ranges", {"features": None}, "ranges must be"),
        ("method", "kl", "method must be"),
        ("method", ["mse"], "method must be"),
        ("graph_sha256", 5, "graph_sha256 must be"),
        ("crops", "abc", "crops must be"),
        ("crops", [1], "crops must be"),
        ("made_with", None, "made_with must be"),
        ("more", 1, "its fields are"),
    ],
)
def test_fields_that_are_wrong(calibration, graph, tmp_path, field, value, part):
    path = tmp_path / "calibration.json"
    calibration.write(path)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, field: value}))
    assert part in sentence(read_calibration, path, graph)


@pytest.mark.parametrize("field", ["ranges", "method", "graph_sha256", "crops", "made_with"])
def test_fields_that_are_missing(calibration, graph, tmp_path, field):
    path = tmp_path / "calibration.json"
    calibration.write(path)
    content = json.loads(path.read_text())
    del content[field]
    path.write_text(json.dumps(content))
    assert "its fields are" in sentence(read_calibration, path, graph)


@pytest.mark.parametrize("value", [0, 0.0, -1.5, float("nan"), float("inf"), 1e-60, 1e39, 10**400])
def test_ranges_that_int8_cannot_use(calibration, graph, tmp_path, value):
    path = tmp_path / "calibration.json"
    calibration.write(path)
    content = json.loads(path.read_text())
    content["ranges"]["rectified"] = value
    path.write_text(json.dumps(content))
    assert "the range of tensor 'rectified' is" in sentence(read_calibration, path, graph)
