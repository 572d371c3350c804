"""The backend OpenVINO on the CPU, x86 or Arm."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from ..bundle.contract import TensorSpec
from ..core.errors import UsageError, last_line, missing_extra
from .backend import GraphBackend
from .session import Arrays, empty_results, running


def import_openvino() -> Any:
    """Import OpenVINO without its telemetry, which would identify the user; raise UsageError if it is missing."""
    hidden = "openvino" not in sys.modules and "openvino_telemetry" not in sys.modules
    if hidden:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # its import fails; OpenVINO has a stub
    try:
        import openvino
    except ImportError as error:
        raise missing_extra("openvino") from error
    finally:
        if hidden:
            del sys.modules["openvino_telemetry"]
    return openvino


class OpenVinoSession:
    """An ONNX file on OpenVINO's CPU device, in the precision of the graph where the CPU supports it.

    The precision hint decides: OpenVINO would otherwise compute FP32 graphs in BF16 on CPUs that have it. A graph with
    BF16 gets the BF16 hint if the CPU has it, because OpenVINO would convert back and forth under the other. FP16 is
    computed in FP32, with weights rounded to FP16: the FP16 hint would include nodes that the graph keeps in FP32
    because FP16 cannot hold their values.

    Raises:
        UsageError: OpenVINO is not installed, or the file is missing or cannot be loaded.
    """

    backend = "openvino"

    def __init__(self, graph: Path) -> None:
        try:
            import onnx.inliner
            from google.protobuf.message import DecodeError
        except ImportError as error:
            raise missing_extra(error.name or "openvino") from error
        openvino = import_openvino()
        if not graph.is_file():
            raise UsageError(f"ONNX file {graph} does not exist")
        try:
            # OpenVINO's importer does not support local functions, so they are inlined first.
            model = onnx.inliner.inline_local_functions(onnx.load(graph))
            _quantise_unsigned(model)
            core = openvino.Core()
            kind = "bf16" if _holds_bf16(model) and has_bf16() else "f32"
            hints = {"INFERENCE_PRECISION_HINT": kind, "PERFORMANCE_HINT": "LATENCY"}
            self._model: Any = core.compile_model(core.read_model(model.SerializeToString()), "CPU", hints)
        except (DecodeError, RuntimeError) as error:
            raise UsageError(f"{graph} is not an ONNX graph that OpenVINO can load: {last_line(error)}") from error
        self._request: Any = self._model.create_infer_request()
        # A port has many names, one for every tensor folded into it, so use the graph's names; the order is the same.
        weights = {tensor.name for tensor in model.graph.initializer}
        inputs = [value.name for value in model.graph.input if value.name not in weights]
        outputs = [value.name for value in model.graph.output]
        self.inputs = tuple(map(_spec, inputs, self._model.inputs))
        self.outputs = tuple(map(_spec, outputs, self._model.outputs))

    def run(self, feeds: Arrays) -> Arrays:
        with running(self, self._request, feeds, last_line):
            if empty := empty_results(self, feeds):
                return empty
            results = self._request.infer([feeds[spec.name] for spec in self.inputs], share_inputs=True)
            return {spec.name: np.array(result) for spec, result in zip(self.outputs, results.values(), strict=True)}

    def close(self) -> None:
        self._request = self._model = None


def has_bf16() -> bool:
    """Return whether OpenVINO computes BF16 natively on this CPU."""
    return "BF16" in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _holds_bf16(model: Any) -> bool:
    from onnx import TensorProto

    kinds = {weight.data_type for weight in model.graph.initializer}
    casts = (node for node in model.graph.node if node.op_type == "Cast")
    kinds |= {attribute.i for node in casts for attribute in node.attribute if attribute.name == "to"}
    return TensorProto.BFLOAT16 in kinds


def _quantise_unsigned(model: Any) -> None:
    """Change Q/DQ pairs beside a Concat from int8 around 0 to uint8 around 128, in place: the values stay the same.

    OpenVINO (seen in 2026.4.1) loses the scale of signed pairs there and rounds the activations to integers, so that
    YOLOX-nano finds no person. Unsigned pairs are right.
    """
    from onnx import TensorProto, numpy_helper

    zeros = _zeros_beside_concat(model.graph)
    for weight in model.graph.initializer:
        if weight.name in zeros and weight.data_type == TensorProto.INT8:
            zero = numpy_helper.to_array(weight)
            if not zero.any():
                weight.CopyFrom(numpy_helper.from_array(np.full_like(zero, 128, dtype=np.uint8), weight.name))
    del model.graph.value_info[:]  # it may still list int8


def _zeros_beside_concat(graph: Any) -> set[str]:
    """Return the names of zero points used only by Q/DQ pairs before and after a Concat, which share their integers
    with no other node."""
    readers: dict[str, list[Any]] = {value.name: [value] for value in graph.output}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    concats = [node for node in graph.node if node.op_type == "Concat"]
    joined = {name for node in concats for name in (*node.input, *node.output)}
    beside, open_pairs = set[str](), set[str]()
    pairs = {node.output[0]: node for node in graph.node if node.op_type == "QuantizeLinear" and len(node.input) == 3}
    for integers, node in pairs.items():
        ends = readers.get(integers, [])
        closed = all(getattr(end, "op_type", "an output") == "DequantizeLinear" for end in ends)
        if not closed or any(end.input[2:] != node.input[2:] for end in ends):
            open_pairs.add(node.input[2])
        elif joined.intersection([node.input[0], *(end.output[0] for end in ends)]):
            beside.add(node.input[2])
    alone = (node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] not in pairs)
    return beside - open_pairs - {name for node in alone for name in node.input[2:]}


def _spec(name: str, port: Any) -> TensorSpec:
    shape = tuple(side.get_length() if side.is_static else None for side in port.get_partial_shape())
    return TensorSpec(name, shape, np.dtype(port.get_element_type().to_dtype()))


class _OpenVino(GraphBackend):
    def computes(self, kind: str) -> bool:
        return kind == "BF16" and has_bf16()

    def open_graph(self, graph: Path) -> OpenVinoSession:
        return OpenVinoSession(graph)


OPENVINO = _OpenVino("openvino", "openvino")
