"""Where Q/DQ pairs stand, and that the quantised graph computes what its integers say."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import numpy_helper

from edgepose.core.errors import UsageError
from edgepose.graphs.quantise import (
    LEVELS,
    place,
    quantisable,
    quantise,
    round_scales,
    tensors_to_collect,
    weight_scales,
)
from edgepose.graphs.sixteen_bit import to_16_bit
from tests.doubles.pose_network import pictures
from tests.doubles.quantisable import quantisable_model, run

ALL = ("block.conv1", "block.conv2", "down", "fuse.up", "mix")


def ranges_of(model, tensors, images):
    return {name: float(np.abs(run(model, images, name)[0]).max()) for name in tensors}


@pytest.fixture(scope="module")
def model():
    return quantisable_model()


@pytest.fixture(scope="module")
def quantised(model):
    placement = place(model, ALL)
    return quantise(model, placement, ranges_of(model, placement.tensors, pictures()))


def pairs(model):
    """By tensor, the names of the nodes that read it through a Q/DQ pair."""
    sources = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    dequantised = {
        node.output[0]: sources[node.input[0]]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in sources
    }
    found = {}
    for node in model.graph.node:
        for name in node.input:
            if name in dequantised:
                found.setdefault(dequantised[name], set()).add(node.name)
    return found


def scales(model):
    return {weight.name: numpy_helper.to_array(weight) for weight in model.graph.initializer if "scale" in weight.name}


def test_stem_head_and_grouped_convolutions_are_left_alone(model):
    assert tuple(node.name for node in quantisable(model)) == ALL


def test_a_search_may_take_the_stem(model):
    assert tuple(node.name for node in quantisable(model, stem=True)) == ("stem", *ALL)
    ranges = dict.fromkeys(tensors_to_collect(model), 1.0)
    graph = to_16_bit(quantise(model, place(model, ["stem"]), ranges), "fp16")
    types = {weight.name: numpy_helper.to_array(weight).dtype for weight in graph.graph.initializer}
    assert types["pixels_scale"] == np.float32 and types["pixels_scale_16"] == np.float16  # Q reads FP32, DQ gives FP16
    images = pictures()
    (want,), (got,) = run(model, images, "heatmaps"), run(graph, images, "heatmaps")
    assert 0 < np.abs(got - want).max() / np.ptp(want) < 0.05


def test_pairs_stand_where_the_rules_say(quantised):
    assert pairs(quantised) == {
        "x": {"block.conv1", "Add_sum", "Concat_wide"},  # a convolution, the residual of its block, a branch
        "inside": {"block.conv2"},
        "high": {"down", "Add_fused"},
        "low": {"fuse.up"},
        "fuse.up.out": {"Resize_large"},  # before the copy, not behind it
        "both": {"Concat_wide"},
        "wide": {"mix"},
    }


def test_branches_of_a_concatenation_and_terms_of_a_sum_share_a_scale(quantised):
    by_tensor = scales(quantised)
    assert by_tensor["x_scale"] == by_tensor["both_scale"] == by_tensor["wide_scale"]
    assert by_tensor["high_scale"] == by_tensor["fuse.up.out_scale"]
    assert by_tensor["inside_scale"] != by_tensor["x_scale"]


def test_weights_are_int8_with_a_scale_for_each_output_channel_and_biases_stay(model, quantised):
    before = {weight.name: numpy_helper.to_array(weight) for weight in model.graph.initializer}
    after = {weight.name: numpy_helper.to_array(weight) for weight in quantised.graph.initializer}
    for name in ALL:
        kernel, integers, scale = before[f"{name}.weight"], after[f"{name}.weight_int8"], after[f"{name}.weight_scale"]
        assert integers.dtype == np.int8 and scale.shape == (len(kernel),) and f"{name}.weight" not in after
        np.testing.assert_allclose(integers * scale[:, None, None, None], kernel, atol=scale.max() * 0.51)
        assert np.abs(integers).max() == LEVELS
        assert after[f"{name}.bias"].dtype == np.float32
    for name in ("stem", "depthwise", "head"):
        np.testing.assert_array_equal(after[f"{name}.weight"], before[f"{name}.weight"])


def test_a_convolution_computes_on_the_integers(quantised):
    images = pictures()
    source, result = run(quantised, images, "inside", "block.conv2.out")
    weights = {weight.name: numpy_helper.to_array(weight) for weight in quantised.graph.initializer}
    step = weights["inside_scale"]
    integers = np.rint(source / step).clip(-128, LEVELS)
    kernel, factors = weights["block.conv2.weight_int8"].astype(np.float64), weights["block.conv2.weight_scale"]
    padded = np.pad(integers.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    sums = np.einsum("nchwuv,ocuv->nohw", windows, kernel)  # exact: integers below 2^53
    want = sums * step * factors[None, :, None, None] + weights["block.conv2.bias"][None, :, None, None]
    np.testing.assert_allclose(result, want, atol=1e-5)


def test_the_quantised_graph_is_near_the_fp32_one(model, quantised):
    images = pictures()
    (want,), (got,) = run(model, images, "heatmaps"), run(quantised, images, "heatmaps")
    error = np.abs(got - want).max() / np.ptp(want)
    assert 0 < error < 0.05


def test_ranges_are_collected_for_every_choice_of_convolutions(model):
    """Of the sum of two convolutions, the residual is the one that is not in INT8."""
    both = onnx.ModelProto()
    both.CopyFrom(model)
    add = next(node for node in both.graph.node if node.name == "Add_sum")
    add.input[1] = "shortcut.out"
    shortcut = onnx.helper.make_node("Conv", ["x", "block.conv1.weight"], ["shortcut.out"], "shortcut", pads=[1] * 4)
    both.graph.node.insert(list(both.graph.node).index(add), shortcut)
    collected = set(tensors_to_collect(both))
    names = [*ALL, "stem", "shortcut"]
    for size in (1, 2, 3, len(names)):
        for chosen in combinations(names, size):
            assert set(place(both, chosen).tensors) <= collected, chosen
    assert place(both, ["shortcut"]).readers["block.conv2.out"] == {"Add_sum"}
    assert place(both, ["shortcut", "block.conv2"]).readers["shortcut.out"] == {"Add_sum"}


def test_only_what_is_chosen_is_quantised(model):
    placement = place(model, ["block.conv1"])
    assert placement.readers == {"x": {"block.conv1", "Add_sum"}}
    graph = quantise(model, placement, {"x": 1.0})
    quantised_nodes = [node for node in graph.graph.node if node.op_type == "DequantizeLinear"]
    assert len(quantised_nodes) == 2


def test_nothing_is_modified(model):
    before = model.SerializeToString()
    placement = place(model, ALL)
    quantise(model, placement, dict.fromkeys(placement.tensors, 1.0))
    assert model.SerializeToString() == before


def test_a_quantised_graph_is_refused(quantised):
    with pytest.raises(UsageError, match=r"quantised already \(.*\): give the FP32 graph"):
        quantisable(quantised)


def test_an_old_opset_is_refused(model):
    old = onnx.ModelProto()
    old.CopyFrom(model)
    old.opset_import[0].version = 11
    for refusing in (quantisable, lambda graph: to_16_bit(graph, "fp16")):
        with pytest.raises(UsageError, match="opset 11, expected 18 or later: export the bundle again"):
            refusing(old)


def test_a_graph_with_nothing_to_quantise_is_refused(model):
    few = onnx.ModelProto()
    few.CopyFrom(model)
    for node in few.graph.node:
        if node.name in ALL:
            node.attribute.extend([onnx.helper.make_attribute("group", 2)])
            del node.attribute[:-1]
    with pytest.raises(UsageError, match="it has nothing to quantise"):
        quantisable(few)


def test_a_missing_range_is_refused(model):
    placement = place(model, ALL)
    with pytest.raises(UsageError, match="no range for x: calibrate again"):
        quantise(model, placement, {name: 1.0 for name in placement.tensors if name != "x"})


def test_scales_are_what_fp16_holds_and_never_zero():
    scales = round_scales(np.array([0.0, 1e-9, 0.1, 3.0]))
    np.testing.assert_array_equal(scales, scales.astype(np.float16).astype(np.float32))
    assert scales[0] == scales[1] == 1 and scales[2] == pytest.approx(0.1, rel=1e-3)
    kernel = np.zeros((2, 1, 3, 3), np.float32)
    kernel[1, 0, 1, 1] = -127.0
    np.testing.assert_array_equal(weight_scales(kernel), [1.0, 1.0])
