"""The two dialects of TensorRT's layer listing, as the vendor's tools print them."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgepose.build.listing import (
    check_convolutions,
    check_graph,
    check_precision,
    chosen_convolutions,
    count_convolutions,
    count_datatypes,
    find_listing,
    read_layers,
)
from edgepose.bundle.engine_record import EngineLayer
from edgepose.core.errors import CheckError

#: TensorRT-RTX 1.7, from a build log.
SPLIT = """Layers:
Name: __mye512_0_myl0_0, LayerType: shape_call, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 0, Metadata: 
Name: __myl_CastSub_myl0_1, LayerType: kgen, Inputs: [ { Name: images, Dimensions: [-1,16,12,3], Strides: [576,36,3,1], StrideOrder: [3,2,1,0], Datatype: UInt8, Format: (Linear) Row major linear format }], Constants: [], Outputs: [ { Name: r.1_7_myl0, Dimensions: [-1,3,16,12], Strides: [576,1,36,3], StrideOrder: [3,0,2,1], Datatype: Half, Format: (NHWC) Channel major format }], TacticName: __myl_CastSub_0x1, StreamId: 0, Metadata: [ONNX Layer: cast]
Name: stem, relu, LayerType: correlation, Inputs: [ { Name: r.1_7_myl0, Dimensions: [-1,3,16,12], Strides: [576,1,36,3], StrideOrder: [3,0,2,1], Datatype: Half, Format: (NHWC) Channel major format }], Constants: [ { Name: c, Dimensions: [4,3,3,3], Strides: [27,1,9,3], StrideOrder: [3,0,2,1], Datatype: BFloat16, Format: (NHWC) Channel major format }], Outputs: [ { Name: y, Dimensions: [-1,4,8,6], Strides: [1,1,1,1], StrideOrder: [3,0,2,1], Datatype: Float, Format: (Linear) Row major linear format }, { Name: i, Dimensions: [-1], Strides: [1], StrideOrder: [0], Datatype: Int64, Format: (Linear) Row major linear format }], TacticName: __myelin_CASK_STUB, StreamId: 0, Metadata: [ONNX Layer: stem]

I/O Tensors:
 Name: images, IOMode: Input, DataType: UInt8, Dimensions: [-1,16,12,3], Location: Device
"""  # noqa: E501, W291

#: TensorRT 10, from the inspector.
JOINED = """Layers:
Name: Reformatting CopyNode for Input Tensor 0 to conv [0] + relu, LayerType: Reformat, Inputs: [ { Name: data, Location: Device, Dimensions: [1,3,224,224], Format/Datatype: Row major linear FP32 }], Outputs: [ { Name: Reformatted Input Tensor 0, Location: Device, Dimensions: [1,3,224,224], Format/Datatype: Thirty-two wide channel vectorized row major Int8 format }], ParameterType: Reformat, Origin: REFORMAT, TacticValue: 0x0, StreamId: 0, Metadata:
Name: {ForeignNode[a.../b]}, LayerType: Myelin, Inputs: [], Outputs: [ { Name: (Unnamed Layer* 689) [Shuffle]_output, Location: Device, Dimensions: [1], Format/Datatype: Channel major FP16 format where channel % 8 == 0 }], TacticName: x_Datatype: Int4, StreamId: 0, Metadata:

Bindings:
data
"""  # noqa: E501

#: TensorRT 10.3, from the inspector of an engine with a dynamic batch, without a context that knows its shapes.
DYNAMIC = """Layers:
Name: Reformatting CopyNode for Input Tensor 0 to stem, LayerType: Reformat, Inputs: [ { Name: images, Location: Device, Dimensions: [-1,16,12,3], Format/Datatype: N/A due to dynamic shapes }], Outputs: [ { Name: pixels, Location: Device, Dimensions: [-1,3,16,12], Format/Datatype: N/A due to dynamic shapes }], ParameterType: Reformat, Origin: CAST, TacticValue: 0x0, StreamId: 0, Metadata: [ONNX Layer: cast]
Name: stem + relu, LayerType: CaskConvolution, Inputs: [ { Name: pixels, Location: Device, Dimensions: [-1,3,16,12], Format/Datatype: N/A due to dynamic shapes }], Outputs: [ { Name: y, Location: Device, Dimensions: [-1,4,8,6], Format/Datatype: N/A due to dynamic shapes }], ParameterType: Convolution, Kernel: [3,3], TacticName: sm80_xmma, TacticValue: 0x1, StreamId: 0, Metadata: [ONNX Layer: stem]

Bindings:
images
"""  # noqa: E501


def test_read_layers_of_a_build_log() -> None:
    assert read_layers(SPLIT) == (
        EngineLayer("__mye512_0_myl0_0", "shape_call", (), ()),
        EngineLayer("__myl_CastSub_myl0_1", "kgen", ("uint8",), ("float16",), ("cast",)),
        EngineLayer("stem, relu", "correlation", ("bfloat16", "float16"), ("float32", "int64"), ("stem",)),
    )


def test_read_layers_of_tensorrt_10() -> None:
    assert read_layers(JOINED) == (
        EngineLayer("Reformatting CopyNode for Input Tensor 0 to conv [0] + relu", "Reformat", ("float32",), ("int8",)),
        EngineLayer("{ForeignNode[a.../b]}", "Myelin", (), ("float16",)),
    )


def test_datatypes_that_tensorrt_does_not_tell_are_unknown_and_fail_nothing() -> None:
    layers = read_layers(DYNAMIC)
    assert layers == (
        EngineLayer(
            "Reformatting CopyNode for Input Tensor 0 to stem", "Reformat", ("unknown",), ("unknown",), ("cast",)
        ),
        EngineLayer("stem + relu", "CaskConvolution", ("unknown",), ("unknown",), ("stem",)),
    )
    assert count_datatypes(layers) == {"unknown": 2}
    check_precision(layers, "fp32")
    with pytest.raises(CheckError, match="none of the 0 listed layers"):
        check_precision(read_layers("no listing"), "fp32")
    half = EngineLayer("head", "CaskConvolution", ("unknown",), ("float16",))
    with pytest.raises(CheckError, match=r"expected fp32, layer head \(CaskConvolution\) is in float16"):
        check_precision((*layers, half), "fp32")


def test_an_unknown_word_is_kept_and_passes_no_check() -> None:
    layers = read_layers("Name: a, LayerType: b, Inputs: [], Outputs: [ { Name: c, Datatype: Posit16, Format: d }]")
    assert layers == (EngineLayer("a", "b", (), ("Posit16",)),)
    with pytest.raises(CheckError, match=r"expected fp32, layer a \(b\) is in Posit16"):
        check_precision(layers, "fp32")


def test_find_listing_takes_the_last() -> None:
    assert (
        find_listing(["Name: a, LayerType: b", "Layers: 5", "Name: c, LayerType: d", "done"]) == "Name: c, LayerType: d"
    )
    assert find_listing(["no layers"]) == ""


def test_count_datatypes_counts_each_layer_once() -> None:
    layers = [EngineLayer("a", "", ("uint8",), ("float32",)), EngineLayer("b", "", ("float32",), ("float32", "int64"))]
    counts = count_datatypes(layers)
    assert list(counts.items()) == [("float32", 2), ("int64", 1), ("uint8", 1)]


@pytest.mark.parametrize("other", ["float16", "bfloat16", "int8", "float8"])
@pytest.mark.parametrize("side", ["reads", "writes"])
def test_check_precision_looks_at_both_sides(other: str, side: str) -> None:
    types = {"reads": ("float32",), "writes": ("float32",), side: ("float32", other)}
    layers = [EngineLayer("good", "k", ("uint8", "bool"), ("float32", "int32")), EngineLayer("bad", "k", **types)]
    check_precision(layers[:1], "fp32")
    with pytest.raises(CheckError, match=rf"layer bad \(k\) is in {other}"):
        check_precision(layers, "fp32")


@pytest.mark.parametrize("layers", [(), (EngineLayer("a", "k", ("float32",), ("int64",)),)])
def test_an_engine_without_the_asked_precision_fails(layers: tuple[EngineLayer, ...]) -> None:
    with pytest.raises(CheckError, match=f"none of the {len(layers)} listed layers computes in float32"):
        check_precision(layers, "fp32")


def _convolution(kind: str, reads: tuple[str, ...], *nodes: str) -> EngineLayer:
    return EngineLayer("+".join(nodes), kind, reads, ("float16",), nodes)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([_convolution("correlation", ("float16", "float32"), "conv")], "float16"),  # scales are wider
        ([_convolution("CaskConvolution", ("float32", "int8"), "wdq", "conv", "relu")], "int8"),
        # What quantises a convolution's data carries its name, too.
        ([_convolution("kgen", ("int8",), "conv"), _convolution("correlation", ("float32",), "conv")], "float32"),
        ([_convolution("kgen", ("float16", "int32"), "conv")], "float16"),
        ([_convolution("runtime_fusion", ("float16", "float32", "int64"), "add", "conv")], "float16"),
        ([_convolution("Myelin", ("float32",), "conv")], "unknown"),
        ([_convolution("CaskConvolution", ("unknown",), "conv")], "unknown"),
        ([_convolution("correlation", ("float32",), "another")], "unknown"),
        ([], "unknown"),
    ],
)
def test_what_a_convolution_computes_in(layers: list[EngineLayer], expected: str) -> None:
    assert chosen_convolutions(layers, ["conv"]) == {"conv": expected}


def test_one_layer_may_be_several_convolutions() -> None:
    layers = [_convolution("CaskConvolution", ("int8",), "a", "b"), _convolution("correlation", ("float32",), "c")]
    chosen = chosen_convolutions(layers, ["a", "b", "c", "d"])
    assert chosen == {"a": "int8", "b": "int8", "c": "float32", "d": "unknown"}
    assert list(count_convolutions(chosen).items()) == [("int8", 2), ("float32", 1), ("unknown", 1)]


def test_nodes_of_a_layer_are_apart_by_a_record_separator() -> None:
    text = (
        "Name: a, LayerType: CaskConvolution, Inputs: [], Outputs: [], Metadata: [ONNX Layer: a[0]]\x1e[ONNX Layer: b]"
    )
    (layer,) = read_layers(text)
    assert layer.nodes == ("a[0]", "b")


def test_convolutions_may_be_narrower_than_the_graph_not_wider() -> None:
    asked = {"a": "int8", "b": "float16", "c": "float16", "d": "float32", "e": "int8"}
    fine = {"a": "int8", "b": "bfloat16", "c": "int8", "d": "float32", "e": "unknown"}
    check_convolutions(asked, fine, "mixed")
    with pytest.raises(CheckError) as caught:
        check_convolutions(asked, {**fine, "a": "float16", "b": "float32"}, "mixed")
    assert str(caught.value) == (
        "expected mixed, TensorRT built 2 of 5 convolutions wider than in the graph: a is in float16, "
        "expected int8: keep it in float16 in the graph"
    )


def test_the_graph_itself_is_in_the_precision() -> None:
    graph = Path("pose.x.onnx")
    check_graph({"a": "int8", "b": "float16"}, "int8+fp16", graph)
    check_graph({"a": "float16"}, "fp32", graph)  # every layer is looked at instead
    check_graph({"a": "float32"}, "mixed", graph)
    check_graph({}, "int8", graph)
    with pytest.raises(CheckError) as caught:
        check_graph({"a": "int8", "b": "float32", "c": "float32"}, "int8+fp16", graph)
    assert str(caught.value) == (
        "expected int8+fp16, no convolution of pose.x.onnx is in float16 (2 in float32, 1 in int8): make it again"
    )


@pytest.mark.parametrize(
    ("precision", "foreign"),
    [("fp16", "bfloat16"), ("fp16", "int8"), ("bf16", "float16"), ("int8", "float16"), ("mixed", "float8")],
)
def test_no_precision_holds_another_ones_types(precision: str, foreign: str) -> None:
    own = {"fp16": "float16", "bf16": "bfloat16", "int8": "int8", "mixed": "float16"}[precision]
    layers = [EngineLayer("good", "k", ("uint8", "float32"), (own,))]
    check_precision(layers, precision)
    with pytest.raises(CheckError, match=rf"expected {precision}, layer bad \(k\) is in {foreign}"):
        check_precision([*layers, EngineLayer("bad", "k", (own,), (foreign,))], precision)
    if precision != "mixed":
        with pytest.raises(CheckError, match=f"none of the 1 listed layers computes in {own}"):
            check_precision([EngineLayer("a", "k", ("float32",), ("float32",))], precision)
