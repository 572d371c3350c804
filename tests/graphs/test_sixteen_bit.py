"""16-bit graphs and their roundings, and which nodes stay FP32."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, numpy_helper, shape_inference

from edgepose.core.errors import UsageError
from edgepose.graphs.quantise import place, quantisable
from edgepose.graphs.sixteen_bit import network_nodes, to_16_bit, unsafe_nodes, with_rounding
from edgepose.graphs.variants import Choice, choice_for, make_graph
from tests.doubles.pose_network import pictures
from tests.doubles.quantisable import quantisable_model, run


@pytest.fixture(scope="module")
def model():
    return quantisable_model()


def types(model):
    graph = shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    return {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}


def by_name(model):
    return {node.name: node for node in model.graph.node}


def test_the_network_is_what_lies_between_the_first_convolution_and_the_heatmaps(model):
    names = [node.name for node in network_nodes(model)]
    assert names[0] == "stem" and names[-1] == "Identity_heatmaps"
    assert not {"Cast_floats", "Mul_pixels", "ReduceMax_peaks", "Concat_keypoints"} & set(names)


@pytest.mark.parametrize(("precision", "kind"), [("fp16", TensorProto.FLOAT16), ("bf16", TensorProto.BFLOAT16)])
def test_the_network_is_16_bit_and_what_surrounds_it_is_not(model, precision, kind):
    typed = types(to_16_bit(model, precision))
    for name in ("stem.out", "x", "fused", "wide", "gated"):
        assert typed[name] == kind, name
    for name in ("pixels", "mean", "head.out", "heatmaps", "keypoints", "peaks"):
        assert typed[name] == TensorProto.FLOAT, name


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_an_output_inside_the_network_is_read_in_16_bit_and_given_in_fp32(model, precision):
    """As DITN's bone maps are: an output that later convolutions read."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    inner = next(value for value in shape_inference.infer_shapes(model).graph.value_info if value.name == "wide")
    changed.graph.output.append(inner)
    graph = to_16_bit(changed, precision)
    assert types(graph)["wide"] == TensorProto.FLOAT
    readers = [node for node in graph.graph.node if "wide_16" in node.input]
    assert [node.name for node in readers if node.op_type == "Cast"] == ["cast_wide"]
    assert {node.name for node in readers if node.op_type != "Cast"} == {
        node.name for node in model.graph.node if "wide" in node.input
    }
    if precision == "fp16":
        (wanted, _), (got, maps) = (run(graph, pictures(), "wide", "heatmaps") for graph in (model, graph))
        assert 0 < np.abs(got - wanted).max() <= 5e-3 * np.ptp(wanted)
        np.testing.assert_array_equal(maps, run(to_16_bit(model, precision), pictures(), "heatmaps")[0])


def test_names_that_casts_would_take_may_be_taken(model):
    """PyTorch numbers tensors of one kind: HSR-MSNet has a ``mean`` and, of its 17th SE block, a ``mean_16``."""
    taken, images = onnx.ModelProto.FromString(model.SerializeToString()), pictures(2)
    for old, new in (("gated", "mean_16"), ("fused", "mix.weight_16"), ("wide", "fused_32")):
        for node in taken.graph.node:
            for names in (node.input, node.output):
                names[:] = [new if name == old else name for name in names]
    half = to_16_bit(taken, "fp16")
    (got,), (want,) = (run(graph, images, "heatmaps") for graph in (half, to_16_bit(model, "fp16")))
    np.testing.assert_array_equal(got, want)
    made = [name for node in half.graph.node for name in node.output] + [w.name for w in half.graph.initializer]
    assert len(made) == len(set(made))


def test_opsets_are_those_that_the_types_need(model):
    placement = place(model, [node.name for node in quantisable(model)])
    ranges = dict.fromkeys(placement.tensors, 1.0)
    choices = {"fp16": 18, "bf16": 22, "int8": 18, "int8+fp16": 19}
    for precision, opset in choices.items():
        graph = make_graph(model, choice_for(precision, model, ()), ranges)
        assert graph.opset_import[0].version == opset, precision


def test_weights_are_rounded_once_and_kept_once(model):
    half = to_16_bit(model, "fp16")
    weights = {weight.name: numpy_helper.to_array(weight) for weight in half.graph.initializer}
    original = {weight.name: numpy_helper.to_array(weight) for weight in model.graph.initializer}
    np.testing.assert_array_equal(weights["mix.weight_16"], original["mix.weight"].astype(np.float16))
    assert "mix.weight" not in weights
    assert weights["factors"].dtype == np.float32  # Resize takes scales as float32 alone


def test_a_tensor_is_cast_once_for_all_who_read_it(model):
    half = to_16_bit(model, "fp16", keep={"down", "Add_sum"})
    casts = Counter((node.input[0], node.attribute[0].i) for node in half.graph.node if node.op_type == "Cast")
    assert max(casts.values()) == 1
    typed = types(half)
    assert typed["down.out"] == typed["sum"] == TensorProto.FLOAT and typed["high"] == TensorProto.FLOAT16


def test_rounding_is_that_of_every_tensor(model):
    """With its roundings put in, a graph gives what NumPy's float16 gives node by node."""
    images = pictures()
    half = to_16_bit(model, "fp16")
    x, sums, inside = run(with_rounding(half), images, "x", "sum", "block.conv2.out")
    for tensor in (x, sums, inside):
        np.testing.assert_array_equal(tensor, tensor.astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(sums, (inside.astype(np.float16) + x.astype(np.float16)).astype(np.float32))


@pytest.mark.parametrize(("precision", "limit"), [("fp16", 4e-3), ("bf16", 3e-2)])
def test_the_numbers_stay_near_and_are_not_the_same(model, precision, limit):
    images = pictures()
    (want,) = run(model, images, "heatmaps")
    (got,) = run(with_rounding(to_16_bit(model, precision)), images, "heatmaps")
    error = np.abs(got - want).max() / np.ptp(want)
    assert limit / 100 < error < limit


def test_nodes_with_large_values_are_found_and_kept(model):
    largest = {"sum": 20_000.0, "high": 20_000.0, "x": 3.0, "low": float("inf")}
    found = unsafe_nodes(model, largest)
    assert {unsafe.node for unsafe in found} == {"Add_sum", "Relu_high", "down", "Add_fused", "Relu_low", "fuse.up"}
    assert str(next(u for u in found if u.node == "down")) == "down (module down) stays FP32: high reaches 2e+04"
    half = to_16_bit(model, "fp16", keep={unsafe.node for unsafe in found})
    typed = types(half)
    assert typed["sum"] == typed["high"] == typed["low"] == typed["fuse.up.out"] == TensorProto.FLOAT
    assert typed["x"] == typed["large"] == TensorProto.FLOAT16


def test_a_weight_that_fp16_cannot_hold_keeps_its_node(model):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    weight = next(weight for weight in copy.graph.initializer if weight.name == "mix.weight")
    values = numpy_helper.to_array(weight).copy()
    values[0, 0, 0, 0] = 7e4
    weight.CopyFrom(numpy_helper.from_array(values, "mix.weight"))
    assert [unsafe.node for unsafe in unsafe_nodes(copy, {})] == ["mix"]


def test_int8_beside_fp16_quantises_the_same_integers(model):
    placement = place(model, [node.name for node in quantisable(model)])
    ranges = dict.fromkeys(placement.tensors, 2.0)
    graphs = [make_graph(model, choice_for(name, model, ()), ranges) for name in ("int8", "int8+fp16")]
    weights = [{w.name: numpy_helper.to_array(w) for w in graph.graph.initializer} for graph in graphs]
    integers = [name for name in weights[0] if name.endswith("weight_int8")]
    assert len(integers) == 5
    for name in integers:
        np.testing.assert_array_equal(weights[0][name], weights[1][name])
        scale = name.replace("_int8", "_scale")
        np.testing.assert_array_equal(weights[0][scale], weights[1][f"{scale}_16"].astype(np.float32))
    typed = types(graphs[1])
    assert typed["x_dequantised"] == typed["mix.weight_dequantised"] == TensorProto.FLOAT16


def test_a_convolution_in_int8_that_stays_fp32_is_not_torn_from_its_pairs(model):
    placement = place(model, ["mix"])
    choice = Choice(frozenset({"mix"}), "fp16", frozenset({"mix"}))
    graph = make_graph(model, choice, dict.fromkeys(placement.tensors, 1.0))
    makers = {name: node.op_type for node in graph.graph.node for name in node.output}
    assert [makers[name] for name in by_name(graph)["mix"].input[:2]] == ["DequantizeLinear"] * 2


def test_what_is_16_bit_already_is_refused(model):
    with pytest.raises(UsageError, match="in 16 bit already: give the FP32 graph"):
        to_16_bit(to_16_bit(model, "fp16"), "bf16")


def test_a_graph_without_heatmaps_is_refused(model):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.node[-5].output[0] = "other"
    with pytest.raises(UsageError, match="no convolution of the graph leads to an output"):
        to_16_bit(copy, "fp16")


def test_nothing_is_modified(model):
    before = model.SerializeToString()
    with_rounding(to_16_bit(model, "fp16"))
    assert model.SerializeToString() == before
