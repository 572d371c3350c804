"""verify in other precisions: the shipped network, whole and broken, and by value on small graphs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgepose.backends.plan import Runner, choose, plan
from edgepose.bundle.bundle import Bundle, open_bundle
from edgepose.bundle.goldens import read_goldens
from edgepose.bundle.limits import POSE_LIMITS
from edgepose.core.errors import CheckError, UsageError
from edgepose.graphs.module_names import label
from edgepose.graphs.probe import Node, write_probe
from edgepose.graphs.sixteen_bit import to_16_bit
from edgepose.nvidia.tensorrt import TARGETS
from edgepose.verify import verify
from edgepose.verify.probe import run_probe
from edgepose.verify.variants import first_beyond_fp16, first_departure, half_tensors, int8_ranges, variant_difference
from tests.doubles.pose_network import make_bundle, make_weights, pose_model, put_graph
from tests.doubles.variants import put_graphs

pytest.importorskip("openvino")
pytest.importorskip("ml_dtypes")


@pytest.fixture
def broken(shipped_variants: Path, tmp_path: Path) -> Bundle:
    """A bundle of one's own."""
    return open_bundle(shutil.copytree(shipped_variants, tmp_path / "broken.edgepose"))


def scale_weight(bundle: Bundle, precision: str, name: str, factor: float) -> Bundle:
    """Multiply one constant of a graph, and put the graph back, hashes and all."""
    model = onnx.load(bundle.graph_for(precision))
    weight = next(weight for weight in model.graph.initializer if weight.name == name)
    values = numpy_helper.to_array(weight)
    weight.CopyFrom(numpy_helper.from_array((values * factor).astype(values.dtype), name))
    return put_graphs(bundle, {precision: model})


def conv(bundle: Bundle, precision: str, index: int) -> onnx.NodeProto:
    model = onnx.load(bundle.graph_for(precision))
    return [node for node in model.graph.node if node.op_type == "Conv"][index]


def engine(bundle: Bundle, precision: str) -> Runner:
    """What would run an engine, which nobody opens here."""
    return Runner(bundle, TARGETS[0], precision, bundle.path / "engines" / f"{precision}.engine")


@pytest.mark.slow
def test_every_precision_of_the_shipped_network_passes(shipped_variants: Path, tmp_path: Path) -> None:
    bundle = open_bundle(shipped_variants)
    report = verify(bundle, ["openvino", "onnxruntime"])
    assert report.passed and not report.differences
    onnx_runtime = [runner.precision for runner in plan(bundle, ["onnxruntime"]).runners]
    want = [("openvino", p) for p in bundle.precisions] + [("onnxruntime", p) for p in onnx_runtime]
    assert [(c.runner.backend, c.runner.precision) for c in report.checks[::2]] == want
    worst = {c.runner.precision: c.figures.score_fraction for c in report.checks if c.figures}
    assert worst["fp32"] < worst["fp16"] < worst["bf16"] < worst["int8"]
    assert worst["int8"] < POSE_LIMITS["int8"].score / 2, "the limit leaves room, and not for everything"
    assert onnx_runtime[:2] == ["fp32", "fp16"] and "int8" in onnx_runtime
    assert list(report.skipped) == [f"onnxruntime {p}" for p in bundle.precisions if p not in onnx_runtime]
    assert "no proof of FP16 arithmetic" in report.notes["openvino int8+fp16"]
    assert "note: openvino computes the FP16 parts of the graph in FP32 here" in str(report)
    report.save(tmp_path / "verify.json")
    written = json.loads((tmp_path / "verify.json").read_text())
    assert written["notes"] == report.notes and set(written["limits"]) == set(bundle.precisions)
    assert {check["precision"] for check in written["checks"]} == set(bundle.precisions)


@pytest.mark.slow
def test_named_precisions_are_checked_alone(shipped_variants: Path) -> None:
    report = verify(open_bundle(shipped_variants), ["openvino"], ["fp16"])
    assert {(c.runner.backend, c.runner.precision) for c in report.checks} == {("openvino", "fp16")}
    with pytest.raises(UsageError, match="backend onnxruntime cannot run here in bf16: ONNX Runtime's CPU provider"):
        verify(open_bundle(shipped_variants), ["onnxruntime"], ["bf16"])


@pytest.mark.slow
def test_a_clipped_activation_is_named(broken: Bundle) -> None:
    bundle = scale_weight(broken, "int8", "relu_18_scale", 1 / 8)
    report = verify(bundle, ["openvino"], ["fp32", "int8"])
    assert [c.runner.precision for c in report.checks if c.problem] == ["int8", "int8"]
    assert list(report.differences) == ["openvino int8"]
    said = report.differences["openvino int8"]
    (maker,) = [node for node in onnx.load(bundle.graph_for("int8")).graph.node if node.output[0] == "relu_18"]
    assert said.startswith(f"INT8 first differs from FP32 after {label(maker)}: its output is off by 0.8")
    assert "so calibrate again with images like the goldens" in said
    with pytest.raises(CheckError, match=r"^verify: 2 of 4 checks failed; openvino int8, batch 1: the heat-map error"):
        report.require_passed()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "backend", "factor"),
    [("fp16", "onnxruntime", 1.5), ("bf16", "openvino", 2.0), ("int8", "openvino", 3)],
)
def test_a_wrong_weight_is_named(broken: Bundle, precision: str, backend: str, factor: float) -> None:
    node = conv(broken, precision, 20)
    name = node.input[1].replace("_dequantised", "_scale")
    report = verify(scale_weight(broken, precision, name, factor), [backend], [precision])
    said = report.differences[f"{backend} {precision}"]
    assert said.startswith(f"it first differs from FP32 at {label(node)}, off by ")
    assert said.endswith(f"of its range, the limit is {POSE_LIMITS[precision].score:g}")


@pytest.mark.slow
def test_an_engines_graph_is_searched_on_the_cpu(broken: Bundle) -> None:
    node = conv(broken, "fp16", 20)
    images = {"images": read_goldens(broken).images[:1]}
    assert variant_difference(engine(broken, "fp16"), images) == (
        "the engine's inner tensors cannot be read; its fp16 graph on onnxruntime: no tensor exceeds the limit, so "
        "the engine is wrong"
    )
    bundle = scale_weight(broken, "fp16", node.input[1], 1.5)
    assert f"its fp16 graph on onnxruntime: it first differs from FP32 at {label(node)}, off by" in variant_difference(
        engine(bundle, "fp16"), images
    )
    with pytest.raises(UsageError, match="has no mixed graph"):
        variant_difference(engine(bundle, "mixed"), images)


@pytest.mark.slow
def test_the_module_is_named_where_the_graph_knows(exported: Path, tmp_path: Path) -> None:
    """A bundle that was exported with the modules' names, in FP16."""
    bundle = open_bundle(shutil.copytree(exported, tmp_path / "copy.edgepose"))
    bundle = put_graphs(bundle, {"fp16": to_16_bit(onnx.load(bundle.graph), "fp16")})
    node = conv(bundle, "fp16", 5)
    bundle = scale_weight(bundle, "fp16", node.input[1], 4.0)
    said = verify(bundle, ["onnxruntime"], ["fp16"]).differences["onnxruntime fp16"]
    module = node.input[1].removeprefix("network.").removesuffix(".weight_16")
    assert said.startswith(f"it first differs from FP32 at Conv {node.name} (module {module}), off by ")


def test_a_value_that_fp16_cannot_hold_is_named(tmp_path: Path) -> None:
    weights = make_weights()
    weights["w_stem"] *= 255 * 500
    weights["w_head"] /= 255 * 500
    model = pose_model(weights)
    bundle = put_graph(make_bundle(tmp_path / "tiny.edgepose"), model)
    bundle = put_graphs(bundle, {"fp16": to_16_bit(model, "fp16")})
    images = {"images": read_goldens(bundle).images}
    said = variant_difference(choose(bundle, "onnxruntime", "fp16"), images)
    assert said.startswith("Conv stem reaches ") and said.endswith(", above FP16's 65504: keep it in FP32")
    kept = put_graphs(bundle, {"fp16": to_16_bit(model, "fp16", keep=["stem", "relu", "body", "head"])})
    assert "no tensor of the fp16 graph is off by more than 0.05 of its range" in variant_difference(
        choose(kept, "onnxruntime", "fp16"), images
    )


NODES = (Node("A", ("images",), ("a",)), Node("B", ("a",), ("b_16",)), Node("C", ("b_16",), ("c_dequantised",)))
EXPECTED = {name: np.float32([0, 1, 2]) for name in "abc"}


def test_first_departure_takes_the_order_of_the_graph() -> None:
    got = {"a": np.float32([0, 1, 2.1]), "b_16": np.float32([0, 1.5, 2]), "c_dequantised": np.float32([0, 0, 0])}
    assert first_departure(NODES, EXPECTED, got, 0.3, {}) == (
        "it first differs from FP32 at C, off by 1 of its range, the limit is 0.3"
    )
    assert first_departure(NODES, EXPECTED, got, 0.2, {}) == (
        "it first differs from FP32 at B, off by 0.25 of its range, the limit is 0.2"
    )
    assert first_departure(NODES, EXPECTED, got, 0.3, {"c_dequantised": 1.5}) == (
        "INT8 first differs from FP32 after c: its output is off by 1 of its range, the limit is 0.3; it reaches 2 and "
        "int8 holds 1.5, so calibrate again with images like the goldens"
    )
    assert first_departure(NODES, EXPECTED, got, 1.0, {}) is None
    nan = {"a": np.float32([np.nan, 1, 2])}
    assert (first_departure(NODES, EXPECTED, nan, 1.0, {}) or "").startswith(
        "it first differs from FP32 at A, off by nan"
    )


def test_only_what_is_fp16_must_fit_into_it() -> None:
    expected = {"a": np.float32([1e5]), "b": np.float32([-7e4]), "c": np.float32([1])}
    assert first_beyond_fp16(NODES, expected, frozenset({"b_16"})) == (
        "B reaches 7e+04, above FP16's 65504: keep it in FP32"
    )
    assert first_beyond_fp16(NODES, expected, frozenset()) is None
    assert "A reaches nan" in (first_beyond_fp16(NODES, {"a": np.float32([np.nan])}, frozenset("a")) or "")


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_probe_reads_16_bit_tensors(tmp_path: Path, precision: str) -> None:
    """The rectified features, which are exact in FP32, to within a rounding."""
    bundle = make_bundle(tmp_path / "tiny.edgepose")
    bundle = put_graphs(bundle, {precision: to_16_bit(onnx.load(bundle.graph), precision)})
    images = {"images": read_goldens(bundle).images}
    write_probe(bundle.graph, tmp_path / "fp32.onnx")
    write_probe(bundle.graph_for(precision), tmp_path / "half.onnx")
    want = run_probe(tmp_path / "fp32.onnx", "onnxruntime", images)["rectified"]
    got = run_probe(tmp_path / "half.onnx", "openvino", images)["rectified"]
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=0, atol=np.abs(want).max() * (2**-7 if precision == "bf16" else 2**-10))
    assert half_tensors(tmp_path / "half.onnx") >= ({"rectified"} if precision == "fp16" else set())


def test_ranges_are_those_of_the_activations(shipped_variants: Path) -> None:
    bundle = open_bundle(shipped_variants)
    model = onnx.load(bundle.graph_for("int8"))
    scales = {w.name: float(numpy_helper.to_array(w)) for w in model.graph.initializer if w.name == "relu_18_scale"}
    ranges = int8_ranges(bundle.graph_for("int8"))
    assert ranges["relu_18_dequantised"] == pytest.approx(127 * scales["relu_18_scale"])
    assert not any("weight" in name for name in ranges)
    half = int8_ranges(bundle.graph_for("int8+fp16"))
    assert half["relu_18_dequantised"] == pytest.approx(ranges["relu_18_dequantised"], rel=1e-3)
