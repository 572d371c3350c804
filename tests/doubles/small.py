"""A small network with every pattern that quantisation looks at, as an ONNX graph that keeps the graph contract."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnx")

import onnx
from numpy.typing import ArrayLike
from onnx import TensorProto, helper, numpy_helper

from edgepose.graphs.module_names import MODULE

HEIGHT, WIDTH, JOINTS = 32, 24, 14


def small_graph(seed: int = 0) -> onnx.ModelProto:
    """Stem, a residual block, two resolutions summed through a nearest Resize, a concatenation, a grouped convolution
    and a head; heat-maps of :data:`JOINTS` maps of a quarter of the picture, keypoints that are zeros."""
    return _Small(seed).build()


class _Small:
    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def build(self) -> onnx.ModelProto:
        self.node("Cast", ["images"], "floats", to=TensorProto.FLOAT)
        self.node("Transpose", ["floats"], "planes", perm=[0, 3, 1, 2])
        self.node("Mul", ["planes", self.constant("scale", np.float32(1 / 255))], "pixels")
        self.node("Relu", [self.conv("stem", "pixels", 3, 16, stride=4)], "x")
        self.node("Relu", [self.conv("block.conv1", "x", 16, 16)], "inside")
        self.node("Add", [self.conv("block.conv2", "inside", 16, 16), "x"], "sum")
        self.node("Relu", ["sum"], "high")
        self.node("Relu", [self.conv("down", "high", 16, 16, stride=2)], "low")
        self.conv("fuse.up", "low", 16, 16)
        sizes = self.constant("factors", np.array([1, 1, 2, 2], np.float32))
        self.node("Resize", ["fuse.up.out", "", sizes], "large", mode="nearest")
        self.node("Add", ["high", "large"], "fused")
        self.node("Relu", ["fused"], "both")
        self.node("Concat", ["both", "x"], "wide", axis=1)
        self.node("Relu", [self.conv("mix", "wide", 32, 16)], "mixed")
        self.node("Relu", [self.conv("depthwise", "mixed", 16, 16, groups=16)], "deep")
        self.node("GlobalAveragePool", ["deep"], "mean")
        self.node("Add", ["deep", "mean"], "gated")
        self.conv("head", "gated", 16, JOINTS, side=1)
        self.node("Identity", ["head.out"], "heatmaps")
        self.node("ReduceMax", ["heatmaps", self.constant("axes", np.array([2, 3]))], "peaks", keepdims=0)
        self.node("Unsqueeze", ["peaks", self.constant("last", np.array([2]))], "score")
        self.node("Concat", ["score", "score", "score"], "keypoints", axis=2)
        graph = helper.make_graph(
            self.nodes,
            "small",
            [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", HEIGHT, WIDTH, 3])],
            [
                helper.make_tensor_value_info("keypoints", TensorProto.FLOAT, ["N", JOINTS, 3]),
                helper.make_tensor_value_info("heatmaps", TensorProto.FLOAT, ["N", JOINTS, HEIGHT // 4, WIDTH // 4]),
            ],
            self.weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.checker.check_model(model, full_check=True)
        return model

    def conv(
        self, name: str, source: str, inputs: int, outputs: int, *, stride: int = 1, groups: int = 1, side: int = 3
    ):
        spread = np.sqrt(2 / (inputs // groups * side**2))
        kernel = self.random.normal(0, spread, (outputs, inputs // groups, side, side)).astype(np.float32)
        parts = [
            source,
            self.constant(f"{name}.weight", kernel),
            self.constant(f"{name}.bias", np.full(outputs, 0.1, np.float32)),
        ]
        attributes = {"strides": [stride] * 2, "pads": [side // 2] * 4, "group": groups, "kernel_shape": [side] * 2}
        return self.node("Conv", parts, f"{name}.out", name, **attributes)

    def constant(self, name: str, value: ArrayLike) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, kind: str, inputs: list[str], output: str, name: str = "", **attributes: object) -> str:
        node = helper.make_node(kind, inputs, [output], name or f"{kind}_{output}", **attributes)
        entry = node.metadata_props.add()
        entry.key, entry.value = MODULE, name
        self.nodes.append(node)
        return output


def run(model: onnx.ModelProto, images: np.ndarray, *outputs: str) -> list[np.ndarray]:
    """Outputs, or inner tensors, of a graph in ONNX Runtime without its optimisations."""
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


def pictures(count: int = 3, seed: int = 1) -> np.ndarray:
    """(N, H, W, 3) uint8 noise."""
    return np.random.default_rng(seed).integers(0, 256, (count, HEIGHT, WIDTH, 3), dtype=np.uint8)
