"""A graph of a dozen nodes that keeps the graph contract, and a bundle around it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")

import onnx
from onnx import TensorProto, helper, numpy_helper

from edgepose.bundle.bundle import Bundle, write_manifest
from edgepose.bundle.goldens import Goldens
from edgepose.bundle.manifest import GOLDENS, Manifest
from edgepose.bundle.tasks import POSE

HEIGHT, WIDTH, JOINTS = 16, 12, 14


def small_model(*, half: bool = False) -> onnx.ModelProto:
    """uint8 crops to heat-maps by one convolution and one dynamic convolution, and their maxima as keypoints.

    ``half`` puts the convolution between casts to float16 and back.
    """
    kind = np.float16 if half else np.float32
    weights = np.random.default_rng(0).normal(size=(JOINTS, 3, 3, 3)).astype(kind)
    columns = WIDTH // 4
    constants = {
        "weights": weights,
        "mean": np.array([127.5], np.float32),
        "flat": np.array([0, 0, -1]),
        "columns": np.array(columns),
    }
    node = helper.make_node
    around = (node("Cast", ["crops"], ["x"], to=10), node("Cast", ["y"], ["z"], to=1)) if half else ()
    nodes = [
        node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        node("Sub", ["pixels", "mean"], ["centred"]),
        node("Transpose", ["centred"], ["crops"], perm=[0, 3, 1, 2]),
        *around[:1],
        node("Conv", ["x" if half else "crops", "weights"], ["y"], name="stem", strides=[4, 4], pads=[1, 1, 1, 1]),
        *around[1:],
        node("GlobalAveragePool", ["z" if half else "y"], ["kernels"]),
        node("DynamicDepthwiseConv2d", ["z" if half else "y", "kernels"], ["heatmaps"], "dynamic", domain="edgepose"),
        node("Reshape", ["heatmaps", "flat"], ["rows"]),
        node("ArgMax", ["rows"], ["index"], axis=2, keepdims=1),
        node("GatherElements", ["rows", "index"], ["score"], axis=2),
        node("Div", ["index", "columns"], ["row"]),
        node("Mod", ["index", "columns"], ["column"]),
        node("Cast", ["column"], ["x_out"], to=TensorProto.FLOAT),
        node("Cast", ["row"], ["y_out"], to=TensorProto.FLOAT),
        node("Concat", ["x_out", "y_out", "score"], ["keypoints"], axis=2),
    ]
    # With kernels of one pixel the dynamic convolution is a product.
    body = [node("Mul", ["x", "kernels"], ["y"])]
    opsets = [helper.make_opsetid("", 18)]
    function = helper.make_function("edgepose", "DynamicDepthwiseConv2d", ["x", "kernels"], ["y"], body, opsets)
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "small",
        [tensor("images", TensorProto.UINT8, ["N", HEIGHT, WIDTH, 3])],
        [
            tensor("keypoints", TensorProto.FLOAT, ["N", JOINTS, 3]),
            tensor("heatmaps", TensorProto.FLOAT, ["N", JOINTS, HEIGHT // 4, columns]),
        ],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [*opsets, helper.make_opsetid("edgepose", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=10)


def small_bundle(folder: Path, model: onnx.ModelProto | bytes) -> Bundle:
    """A bundle of skeleton ``lsp14`` and 16x12 crops: a graph, and what ONNX Runtime gives for two crops of noise.

    Of a graph that does not run, such as one that a test has spoilt, the goldens are :func:`small_model`'s.
    """
    folder.mkdir()
    graph = folder / POSE.graph
    graph.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    manifest = Manifest("small", "none", "lsp14", (HEIGHT, WIDTH))
    _goldens(graph.read_bytes()).save(folder / GOLDENS)
    return write_manifest(folder, manifest).with_files(graph, folder / GOLDENS)


def _goldens(graph: bytes) -> Goldens:
    import onnxruntime

    names = ["keypoints", "heatmaps"]
    images = np.random.default_rng(0).integers(0, 256, (2, HEIGHT, WIDTH, 3), dtype=np.uint8)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        outputs = session.run(names, {"images": images})
    except Exception:  # ONNX Runtime's own exceptions share no public base
        session = onnxruntime.InferenceSession(small_model().SerializeToString(), options)
        outputs = session.run(names, {"images": images})
    return Goldens(images, dict(zip(names, outputs, strict=True)))
