"""Which PyTorch module a node of a graph came from, kept in the node's metadata so that any tool can tell."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

#: Key of a node's metadata: path of its module in the network, such as ``backbone.layer1.0.conv1``; empty for what
#: surrounds the network (normalisation and decoding).
MODULE = "edgepose.module"
#: The exporter's own key: names of all modules around an operation, and of the operation, outermost first.
_SCOPES = "pkg.torch.onnx.name_scopes"
#: The network inside :class:`edgepose.models.pose_graph.PoseGraph`.
_NETWORK = "network"


def name_modules(model: onnx.ModelProto, exported: onnx.ModelProto) -> None:
    """Give the nodes of a simplified graph the modules of the exported one's nodes of the same name, in place."""
    scopes = {node.name: _metadata(node, _SCOPES) for node in exported.graph.node}
    for node in model.graph.node:
        entry = node.metadata_props.add()
        entry.key, entry.value = MODULE, _path(node, scopes.get(node.name, ""))


def module_of(node: onnx.NodeProto) -> str:
    """Path of a node's module, or an empty string."""
    return _metadata(node, MODULE)


def label(node: onnx.NodeProto) -> str:
    """How to name a node in a sentence: its type, its ONNX name, and its module."""
    module = module_of(node)
    return f"{node.op_type} {node.name or node.output[0]}{f' (module {module})' if module else ''}"


def _path(node: onnx.NodeProto, scopes: str) -> str:
    # The exporter folds batch norms into convolutions, and names the result after the batch norm: the weight knows.
    weight = node.input[1] if node.op_type == "Conv" else ""
    modules = ast.literal_eval(scopes)[:-1] if scopes else [""]
    path = weight.removesuffix(".weight") if weight.endswith(".weight") else modules[-1]
    return path.removeprefix(_NETWORK).removeprefix(".")


def _metadata(node: onnx.NodeProto, key: str) -> str:
    return next((entry.value for entry in node.metadata_props if entry.key == key), "")
