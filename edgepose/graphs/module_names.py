"""Store in each ONNX node's metadata the path of the PyTorch module that it came from, and read it back."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

#: Metadata key; its value is the module's path in the network, such as ``backbone.layer1.0.conv1``, or empty for nodes
#: outside of the network (normalisation and decoding).
MODULE = "edgepose.module"
#: PyTorch's own key: a Python list of the names of all modules around an operation, outermost first, and its own name.
_SCOPES = "pkg.torch.onnx.name_scopes"
#: Attribute of :class:`edgepose.models.pose_graph.PoseGraph` that holds the network.
_NETWORK = "network"


def name_modules(model: onnx.ModelProto, exported: onnx.ModelProto) -> None:
    """Store module paths in the nodes of ``model``, a simplified copy of ``exported``; nodes are matched by name."""
    scopes = {node.name: _metadata(node, _SCOPES) for node in exported.graph.node}
    for node in model.graph.node:
        entry = node.metadata_props.add()
        entry.key, entry.value = MODULE, _path(node, scopes.get(node.name, ""))


def module_of(node: onnx.NodeProto) -> str:
    """Return the path of a node's module, or an empty string if the node has none."""
    return _metadata(node, MODULE)


def label(node: onnx.NodeProto) -> str:
    """Return a node's type, ONNX name and module, for messages."""
    module = module_of(node)
    return f"{node.op_type} {node.name or node.output[0]}{f' (module {module})' if module else ''}"


def _path(node: onnx.NodeProto, scopes: str) -> str:
    # The exporter names a convolution after the batch norm folded into it; its weight keeps the convolution's path.
    weight = node.input[1] if node.op_type == "Conv" else ""
    modules = ast.literal_eval(scopes)[:-1] if scopes else [""]
    path = weight.removesuffix(".weight") if weight.endswith(".weight") else modules[-1]
    return path.removeprefix(_NETWORK).removeprefix(".")


def _metadata(node: onnx.NodeProto, key: str) -> str:
    return next((entry.value for entry in node.metadata_props if entry.key == key), "")
