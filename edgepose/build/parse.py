"""Parse a graph file as a TensorRT network, and check the graph contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..bundle.bundle import Bundle
from ..bundle.contract import TensorSpec
from ..core.errors import UsageError, missing_extra
from ..plugins.onnx_function import hand_to_plugin

#: NumPy's names by TensorRT's names, for the datatypes of inputs and outputs.
_DTYPES = {"FLOAT": "float32", "HALF": "float16", "UINT8": "uint8", "INT8": "int8", "INT32": "int32", "INT64": "int64"}


def parse_network(trt: Any, log: Any, builder: Any, bundle: Bundle, graph: Path, *, plugin: bool) -> Any:
    """Return a strongly typed TensorRT network of a bundle's graph, an ONNX file.

    With ``plugin`` dynamic convolutions use the registered plugin instead of their function bodies.

    Raises:
        UsageError: TensorRT cannot parse the graph, or it differs from the contract.
    """
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, log)
    if not _parse(parser, graph, plugin=plugin):
        raise _refused(f"{trt.__name__} {trt.__version__}", log, parser, graph)
    inputs = [_spec(network.get_input(i), graph) for i in range(network.num_inputs)]
    outputs = [_spec(network.get_output(i), graph) for i in range(network.num_outputs)]
    try:
        bundle.contract.refuse(inputs, outputs, remedy=bundle.manifest.remake, exact=True)
    except UsageError as error:
        raise UsageError(f"{graph} does not keep the graph contract: {error}") from None
    return network


def _network_flags(trt: Any) -> int:
    """Return the flags for strong typing: its bit differs between versions, and 11 has no flag for it."""
    flag = trt.NetworkDefinitionCreationFlag.__members__.get("STRONGLY_TYPED")
    return 0 if flag is None else 1 << int(flag)


def _parse(parser: Any, graph: Path, *, plugin: bool) -> bool:
    if not plugin:
        return bool(parser.parse_from_file(str(graph)))
    try:
        import onnx
    except ImportError as error:
        raise missing_extra("onnx") from error
    return bool(parser.parse(hand_to_plugin(onnx.load(graph)).SerializeToString()))


def _refused(parser_name: str, log: Any, parser: Any, graph: Path) -> UsageError:
    if not parser.num_errors:
        return UsageError(f"{parser_name} cannot parse {graph}: {log.reason()}")
    error = parser.get_error(0)
    reason = " ".join(error.desc().split())
    if "Plugin not found" in reason:
        reason = "the parser does not support this op, and the graph has no function body for it"
    where = ", ".join([f"op {error.node_operator()}", *(f"in {frame}" for frame in error.local_function_stack())])
    node = f"node {error.node_name() or error.node()} ({where}) of " if error.node_operator() else ""
    return UsageError(
        f"{parser_name} cannot parse {node}{graph}: {reason} (export the bundle again, or change the network)"
    )


def _spec(tensor: Any, graph: Path) -> TensorSpec:
    """Return the spec of an input or output; the parser gives -1 for unknown sides."""
    if tensor.dtype.name not in _DTYPES:
        raise UsageError(f"{graph}: {tensor.name} is {tensor.dtype.name}, expected one of {', '.join(_DTYPES)}")
    sides = tuple(None if side == -1 else side for side in tensor.shape)
    return TensorSpec(tensor.name, sides, np.dtype(_DTYPES[tensor.dtype.name]))
