"""Read the inner tensors of a graph: a copy of it has them all as outputs.

That keeps engines from fusing across nodes, so a fault that only exists in a fused graph cannot be seen through it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..core.errors import missing_extra
from .module_names import label

#: The graph contract's input, and the output where the network ends and the decoding begins.
IMAGES, HEATMAPS = "images", "heatmaps"
#: Ends the name of a 16-bit tensor that is read out as FP32: NumPy has no BF16.
READ = "/as_fp32"


@dataclass(frozen=True)
class Node:
    """A node of the graph: how to call it, and the names of its tensors."""

    label: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def write_probe(graph: Path, path: Path) -> list[Node]:
    """Write a copy of a graph with its functions inlined and every float tensor as an output.

    Returns:
        the nodes in the order of the file, which ONNX requires to be an order of computation.

    Raises:
        UsageError: the ``onnx`` package is not installed.
    """
    try:
        import onnx
        from onnx import TensorProto, helper, inliner, shape_inference
    except ImportError as error:
        raise missing_extra("onnx") from error
    model = shape_inference.infer_shapes(inliner.inline_local_functions(onnx.load(graph)))
    nodes = [Node(label(node), tuple(node.input), tuple(node.output)) for node in model.graph.node]
    known = {value.name for value in model.graph.output}
    for value in model.graph.value_info:
        kind = value.type.tensor_type.elem_type
        if value.name in known:
            continue
        if kind == TensorProto.FLOAT:
            model.graph.output.append(value)
        elif kind in (TensorProto.FLOAT16, TensorProto.BFLOAT16):
            read = helper.make_empty_tensor_value_info(value.name + READ)
            read.type.tensor_type.elem_type = TensorProto.FLOAT
            model.graph.node.append(helper.make_node("Cast", [value.name], [read.name], to=TensorProto.FLOAT))
            model.graph.output.append(read)
    onnx.save(model, path)
    return nodes
