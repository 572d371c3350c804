"""A network with every pattern that quantisation looks at, as an ONNX graph that keeps the graph contract."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnx")

import onnx
from onnx import numpy_helper, parser

from edgepose.graphs.module_names import MODULE

# Stem, a residual block, two resolutions summed through a nearest Resize, a concatenation, a grouped convolution and a
# head. The keypoints are the heights of the heat-maps' peaks, three times. Weights and biases are appended by name.
_GRAPH = """
<ir_version: 10, opset_import: ["": 18]>
quantisable (uint8[N, 32, 24, 3] images) => (float[N, 14, 3] keypoints, float[N, 14, 8, 6] heatmaps)
<float scale = {0.003921569}, float[4] factors = {1, 1, 2, 2}, int64[2] axes = {2, 3}, int64[1] last = {2}>
{
    floats = Cast <to = 1> (images)
    planes = Transpose <perm = [0, 3, 1, 2]> (floats)
    pixels = Mul (planes, scale)
    [stem] "stem.out" = Conv <strides = [4, 4], pads = [1, 1, 1, 1]> (pixels)
    x = Relu ("stem.out")
    ["block.conv1"] "block.conv1.out" = Conv <pads = [1, 1, 1, 1]> (x)
    inside = Relu ("block.conv1.out")
    ["block.conv2"] "block.conv2.out" = Conv <pads = [1, 1, 1, 1]> (inside)
    sum = Add ("block.conv2.out", x)
    high = Relu (sum)
    [down] "down.out" = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (high)
    low = Relu ("down.out")
    ["fuse.up"] "fuse.up.out" = Conv <pads = [1, 1, 1, 1]> (low)
    large = Resize <mode = "nearest"> ("fuse.up.out", , factors)
    fused = Add (high, large)
    both = Relu (fused)
    wide = Concat <axis = 1> (both, x)
    [mix] "mix.out" = Conv <pads = [1, 1, 1, 1]> (wide)
    mixed = Relu ("mix.out")
    [depthwise] "depthwise.out" = Conv <pads = [1, 1, 1, 1], group = 16> (mixed)
    deep = Relu ("depthwise.out")
    mean = GlobalAveragePool (deep)
    gated = Add (deep, mean)
    [head] "head.out" = Conv (gated)
    heatmaps = Identity ("head.out")
    peaks = ReduceMax <keepdims = 0> (heatmaps, axes)
    score = Unsqueeze (peaks, last)
    keypoints = Concat <axis = 2> (score, score, score)
}
"""
_KERNELS = {
    "stem": (16, 3, 3, 3),
    "block.conv1": (16, 16, 3, 3),
    "block.conv2": (16, 16, 3, 3),
    "down": (16, 16, 3, 3),
    "fuse.up": (16, 16, 3, 3),
    "mix": (16, 32, 3, 3),
    "depthwise": (16, 1, 3, 3),
    "head": (14, 16, 1, 1),
}


def quantisable_model() -> onnx.ModelProto:
    """Return the graph. Its nodes are named, and a convolution's name is also its module's."""
    model = parser.parse_model(_GRAPH)
    for node in model.graph.node:
        node.metadata_props.add(key=MODULE, value=node.name)
        node.name = node.name or f"{node.op_type}_{node.output[0]}"
    rng = np.random.default_rng(0)
    for name, shape in _KERNELS.items():
        kernel = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape).astype(np.float32)
        weights = {f"{name}.weight": kernel, f"{name}.bias": np.full(shape[0], 0.1, np.float32)}
        next(node for node in model.graph.node if node.name == name).input.extend(weights)
        model.graph.initializer.extend(numpy_helper.from_array(value, key) for key, value in weights.items())
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model: onnx.ModelProto, images: np.ndarray, *outputs: str) -> list[np.ndarray]:
    """Return outputs, or inner tensors, of a graph in ONNX Runtime without its optimisations."""
    import onnxruntime

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = {value.name for value in copy.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs if name not in known)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(list(outputs), {"images": images})
