"""Graphs of three convolutions that keep the graph contract, in every precision that engines are built in."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnx")

import onnx
from onnx import TensorProto, helper, numpy_helper, parser

from edgepose.bundle.bundle import Bundle

_TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
_GRAPH = """
<ir_version: 10, opset_import: ["": 22]>
typed (uint8[N, 16, 12, 3] images) => (float[N, 14, 3] keypoints, float[N, 14, 4, 3] heatmaps)
<int64[3] flat_shape = {{0, 14, -1}}, int64[1] last = {{2}}>
{{
    pixels = Cast <to = 1> (images)
    planes = Transpose <perm = [0, 3, 1, 2]> (pixels)
    crops = Cast <to = {type}> (planes)
    [stem] s = Conv <strides = [4, 4], pads = [1, 1, 1, 1]> (crops, w_stem)
    [relu] a = Relu (s)
    {quantised}
    [body] b = {op} <pads = [1, 1, 1, 1]> ({inputs})
    [head] h = Conv (b, w_head)
    heatmaps = Cast <to = 1> (h)
    flat = Reshape (heatmaps, flat_shape)
    score = ReduceMax <keepdims = 1> (flat, last)
    index = ArgMax <axis = 2> (flat)
    place = Cast <to = 1> (index)
    keypoints = Concat <axis = 2> (place, place, score)
}}
"""
_QUANTISED = """
    aq = QuantizeLinear (a, a_scale, zero)
    ad = DequantizeLinear (aq, a_scale, zero)
    wd = DequantizeLinear <axis = 0> (w_quantised, w_scale, zeros)
"""


def typed_model(datatype: str, *, int8: bool = False, op: str = "Conv") -> onnx.ModelProto:
    """Convolutions ``stem``, ``body`` and ``head``, all in one float datatype.

    ``int8`` puts the body between Q/DQ pairs; ``op`` may make it a ``ConvTranspose``.
    """
    rng = np.random.default_rng(0)
    floats = {"w_stem": rng.normal(size=(16, 3, 3, 3)), "w_head": rng.normal(size=(14, 16, 1, 1))}
    weights = rng.normal(size=(16, 16, 3, 3))
    integers = {}
    if int8:
        channels = () if op == "ConvTranspose" else (16,)
        floats |= {"a_scale": np.array(0.05), "w_scale": np.full(channels, 0.03)}
        quantised = np.clip(np.round(weights / 0.03), -127, 127).astype(np.int8)
        integers = {"w_quantised": quantised, "zero": np.array(0, np.int8), "zeros": np.zeros(channels, np.int8)}
    else:
        floats["w"] = weights
    text = _GRAPH.format(
        type=_TYPES[datatype], op=op, quantised=_QUANTISED if int8 else "", inputs="ad, wd" if int8 else "a, w"
    )
    model = parser.parse_model(text)
    for name, values in floats.items():
        tensor = helper.make_tensor(name, _TYPES[datatype], values.shape, values.ravel().tolist())
        model.graph.initializer.append(tensor)
    model.graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in integers.items())
    onnx.checker.check_model(model, full_check=True)
    return model


def model_in(precision: str) -> onnx.ModelProto:
    """A graph of a precision."""
    if precision.startswith("int8"):
        return typed_model("float16" if precision.endswith("fp16") else "float32", int8=True)
    return typed_model({"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}[precision])


def add_graph(bundle: Bundle, precision: str, model: onnx.ModelProto | None = None) -> Bundle:
    """The bundle with a graph of a precision, by default :func:`model_in`."""
    path = bundle.path / bundle.manifest.graph_name(precision)
    onnx.save(model or model_in(precision), path)
    return bundle.with_files(path)
