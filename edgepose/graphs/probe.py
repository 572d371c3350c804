"""Write copies of a graph that return its inner tensors as outputs.

Engines cannot fuse nodes across such an output, so a copy does not show a fault that exists only in a fused graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ..core.errors import UsageError, missing_extra
from .module_names import label

if TYPE_CHECKING:
    import onnx

#: Suffix of the FP32 copy of a 16-bit tensor: NumPy has no BF16.
READ = "/as_fp32"


@dataclass(frozen=True)
class Node:
    """A node of a graph: its label for messages, and the names of its tensors, in attributes named as ONNX's are."""

    label: str
    input: tuple[str, ...]
    output: tuple[str, ...]


_NodeT = TypeVar("_NodeT", Node, "onnx.NodeProto")


def leading_to(nodes: Sequence[_NodeT], tensors: Iterable[str]) -> list[_NodeT]:
    """Return the nodes that compute ``tensors``, directly or through others, in the order of ``nodes``."""
    wanted, found = set(tensors), []
    for node in reversed(nodes):
        if not wanted.isdisjoint(node.output):
            wanted.update(node.input)
            found.append(node)
    return found[::-1]


def write_probe(graph: Path, path: Path) -> list[Node]:
    """Write a copy of a graph with its functions inlined and every float tensor as an output, and return its nodes.

    ONNX requires that each node follows the nodes it reads from. Raises UsageError if onnx is not installed.
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
            read = helper.make_tensor_value_info(value.name + READ, TensorProto.FLOAT, None)
            model.graph.node.append(helper.make_node("Cast", [value.name], [read.name], to=TensorProto.FLOAT))
            model.graph.output.append(read)
    onnx.save(model, path)
    return nodes


def write_outputs(graph: Path, names: Sequence[str] | None, path: Path) -> None:
    """Write a copy of a graph with only the named tensors of its main graph as outputs, all with ``names`` None.

    Raises:
        UsageError: ``onnx`` is not installed, the file is not a graph, or no node of it computes a named tensor.
    """
    try:
        import onnx
    except ImportError as error:
        raise missing_extra("onnx") from error
    try:
        model = onnx.load(graph)
    except OSError as error:
        raise UsageError(f"cannot read graph {graph}: {error.strerror}") from error
    except Exception as error:  # protobuf's DecodeError is not the only type that damaged bytes cause
        raise UsageError(f"{graph} is not an ONNX graph: export or import the model again") from error
    computed = [name for node in model.graph.node for name in node.output if name]
    unknown = sorted(set(names or ()) - set(computed))
    if unknown:
        expected = "outside of its functions: expected an output of a node"
        raise UsageError(f"{graph} computes no tensor {unknown[0]!r} {expected}")
    del model.graph.output[:]
    # No type is given: ONNX Runtime infers it, also for outputs of the file's functions.
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in (computed if names is None else names))
    onnx.save(model, path)
