"""The pose network of the tests: three convolutions as an ONNX graph in any precision, its NumPy twin, and bundles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")

import onnx
from onnx import TensorProto, helper, numpy_helper, parser

from edgepose.bundle.bundle import Bundle, write_manifest
from edgepose.bundle.goldens import Goldens, read_goldens
from edgepose.bundle.manifest import GOLDENS, Manifest

HEIGHT, WIDTH, JOINTS, CHANNELS = 32, 24, 14, 16
CPU = ("onnxruntime", "openvino")
#: The body that is no convolution of ONNX.
DYNAMIC = "DynamicDepthwiseConv2d"

_FLOATS = {
    "fp32": TensorProto.FLOAT,
    "fp16": TensorProto.FLOAT16,
    "bf16": TensorProto.BFLOAT16,
    "int8": TensorProto.FLOAT,
    "int8+fp16": TensorProto.FLOAT16,
}
# In FP32 the casts around the network change nothing.
_GRAPH = """
<ir_version: 10, opset_import: ["": {opset}, "edgepose": 1]>
tiny (uint8[N, 32, 24, 3] images) => (float[N, 14, 3] keypoints, float[N, 14, 8, 6] heatmaps)
<int64[1] six = {{6}}, int64[1] last = {{2}}, int64[3] rows = {{0, 14, 48}}, float four = {{4}}, float zero = {{0}}>
{{
    pixels = Cast <to = 1> (images)
    planes = Transpose <perm = [0, 3, 1, 2]> (pixels)
    [enter] entering = Cast <to = {type}> (planes)
    [stem] features = Conv <strides = [4, 4]> (entering, w_stem)
    [relu] rectified = Relu (features)
    {body}
    [head] leaving = Conv (mixed, w_head)
    [leave] heatmaps = Cast <to = 1> (leaving)
    flat = Reshape (heatmaps, rows)
    score = ReduceMax <keepdims = 1> (flat, last)
    index = ArgMax <axis = 2> (flat)
    y = Div (index, six)
    row = Mul (y, six)
    x = Sub (index, row)
    whole = Concat <axis = 2> (x, y)
    point = Cast <to = 1> (whole)
    crop_point = Mul (point, four)
    positive = Greater (score, zero)
    kept = Where (positive, crop_point, zero)
    keypoints = Concat <axis = 2> (kept, score)
}}
"""
_CONVOLUTION = "[body] mixed = {op} <pads = [1, 1, 1, 1]> (rectified, w_body)"
_QUANTISED = """
    integers = QuantizeLinear (rectified, scale, zero_point)
    rounded = DequantizeLinear (integers, scale, zero_point)
    w_rounded = DequantizeLinear <axis = 0> (w_integers, w_scale, w_zero_point)
    [body] mixed = {op} <pads = [1, 1, 1, 1]> (rounded, w_rounded)
"""
_DYNAMIC = """
    kernels = GlobalAveragePool (rectified)
    [dynamic] mixed = edgepose.DynamicDepthwiseConv2d (rectified, kernels)
"""
# With kernels of one pixel the dynamic convolution is a product.
_FUNCTION = """
<domain: "edgepose", opset_import: ["": 18]>
DynamicDepthwiseConv2d (x, kernels) => (y) { y = Mul (x, kernels) }
"""


def make_weights() -> dict[str, np.ndarray]:
    """Return the weights by name, of a spread that keeps the features of crops of noise below 10."""
    rng = np.random.default_rng(7)
    shapes = {"w_stem": (CHANNELS, 3, 4, 4), "w_body": (CHANNELS, CHANNELS, 3, 3), "w_head": (JOINTS, CHANNELS, 1, 1)}
    spreads = {"w_stem": 1 / 255, "w_body": 1 / 12, "w_head": 1 / 4}
    return {name: rng.normal(0, spreads[name], shape).astype(np.float32) for name, shape in shapes.items()}


def twin(images: np.ndarray, weights: Mapping[str, np.ndarray], body: str = "Conv") -> dict[str, np.ndarray]:
    """Compute the FP32 graph in NumPy and return its tensors by name; ``body`` may also be :data:`DYNAMIC`.

    The stem's windows do not overlap, so that it is a product of blocks.
    """
    blocks = images.astype(np.float32).reshape(-1, 8, 4, 6, 4, 3)
    features = np.einsum("nyixjc,ocij->noyx", blocks, weights["w_stem"])
    rectified = np.maximum(features, 0)
    if body == DYNAMIC:
        mixed = rectified * rectified.mean(axis=(2, 3), keepdims=True)
    else:
        padded = np.pad(rectified, ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
        mixed = np.einsum("ncyxij,ocij->noyx", windows, weights["w_body"])
    heatmaps = np.einsum("ncyx,jc->njyx", mixed, weights["w_head"][:, :, 0, 0])
    best = heatmaps.reshape(-1, JOINTS, 48).argmax(axis=2)
    score = heatmaps.max(axis=(2, 3))
    points = np.stack([best % 6, best // 6], axis=-1) * 4 * (score > 0)[..., None]
    keypoints = np.concatenate([points, score[..., None]], axis=-1).astype(np.float32)
    return {
        "features": features,
        "rectified": rectified,
        "mixed": mixed,
        "heatmaps": heatmaps,
        "keypoints": keypoints,
    }


def pose_model(
    weights: Mapping[str, np.ndarray] | None = None, *, precision: str = "fp32", body: str = "Conv"
) -> onnx.ModelProto:
    """Return the graph: convolutions ``stem``, ``body`` and ``head``, and keypoints at the maxima of the heat-maps.

    Args:
        weights: by default :func:`make_weights`.
        precision: ``fp32``, ``fp16``, ``bf16``, ``int8`` or ``int8+fp16``; the latter two put the body between Q/DQ
            pairs.
        body: ``Conv``, ``ConvTranspose``, or :data:`DYNAMIC` for a function node ``dynamic``, never in INT8.
    """
    values = dict(weights or make_weights())
    lines = _DYNAMIC if body == DYNAMIC else _CONVOLUTION
    if body == DYNAMIC:
        del values["w_body"]
    elif precision.startswith("int8"):
        lines = _QUANTISED
        values |= _quantised(values.pop("w_body"), per_channel=body == "Conv")
    kind = helper.tensor_dtype_to_np_dtype(_FLOATS[precision])
    values = {name: value if value.dtype == np.int8 else value.astype(kind) for name, value in values.items()}
    opset = 18 if precision == "fp32" else 22
    text = _GRAPH.format(opset=opset, type=_FLOATS[precision], body=lines.format(op=body))
    model = parse_graph(text + (_FUNCTION if body == DYNAMIC else ""), values)
    onnx.checker.check_model(model, full_check=True)
    return model


def _quantised(weights: np.ndarray, *, per_channel: bool) -> dict[str, np.ndarray]:
    channels = (CHANNELS,) if per_channel else ()
    step = np.abs(weights).max() / 127
    return {
        "w_integers": np.round(weights / step).astype(np.int8),
        "w_scale": np.full(channels, step),
        "w_zero_point": np.zeros(channels, np.int8),
        "scale": np.array(10 / 127),
        "zero_point": np.array(0, np.int8),
    }


def parse_graph(text: str, weights: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """Parse a graph from ONNX's text form and add its weights."""
    model = parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    return model


def pictures(count: int = 3, seed: int = 1) -> np.ndarray:
    """Return crops of noise, (N, H, W, 3) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (count, HEIGHT, WIDTH, 3), dtype=np.uint8)


def make_bundle(path: Path, *others: str, body: str = "Conv", crops: int = 3) -> Bundle:
    """Make a bundle of the FP32 graph, its twin's goldens, and a graph in each of the other precisions."""
    path.mkdir()
    images, weights = pictures(crops), make_weights()
    outputs = twin(images, weights, body)
    Goldens(images, {name: outputs[name] for name in ("keypoints", "heatmaps")}).save(path / GOLDENS)
    bundle = write_manifest(path, Manifest("tiny", "hrnet_w32", "lsp14", (HEIGHT, WIDTH)))
    for precision in ("fp32", *others):
        bundle = put_graph(bundle, pose_model(precision=precision, body=body), precision)
    return bundle.with_files(path / GOLDENS)


def put_graph(bundle: Bundle, model: onnx.ModelProto, precision: str = "fp32") -> Bundle:
    """Return the bundle with a graph of a precision, new or in place of another."""
    path = bundle.path / bundle.manifest.graph_name(precision)
    onnx.save(model, path)
    return bundle.with_files(path)


def change_goldens(bundle: Bundle, **arrays: np.ndarray) -> None:
    """Replace ``images``, or outputs by name."""
    goldens = read_goldens(bundle)
    images = arrays.pop("images", goldens.images)
    Goldens(images, {**goldens.outputs, **arrays}).save(bundle.path / GOLDENS)
