"""The backend ONNX Runtime on the CPU, which runs everywhere."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import numpy as np

from ..bundle.contract import TensorSpec
from ..core.errors import UsageError, first_line, missing_extra
from ..core.machine import version_numbers
from .backend import GraphBackend
from .session import Arrays, empty_results, running

_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
#: NumPy's type names by ONNX Runtime's.
_DTYPES = {"float": "float32", "double": "float64"} | {name: name for name in ("float16", "bool", *_INTEGERS)}

#: The first ONNX Runtime whose CPU provider rounds FP16 to the nearest INT8: microsoft/onnxruntime, pull request 32452.
_ROUNDS_FP16 = (1, 30)


def import_onnxruntime() -> Any:
    """Import ONNX Runtime without its telemetry, which would identify the user; raise UsageError if it is missing."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise missing_extra("onnxruntime") from error
    return onnxruntime


class OnnxRuntimeSession:
    """An ONNX file on ONNX Runtime's CPU provider.

    Raises:
        UsageError: ONNX Runtime is not installed, the file is missing or cannot be loaded, or NumPy lacks the type of
            an input or output.
    """

    backend = "onnxruntime"

    def __init__(self, graph: Path) -> None:
        onnxruntime = import_onnxruntime()
        if not graph.is_file():
            raise UsageError(f"ONNX file {graph} does not exist")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # only fatal errors: others are raised, and its warnings do not concern users
        # Idle threads would spin while they wait for work and take the cores from a second network, such as a detector:
        # without spinning, a frame through both took 27 ms instead of 36.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            self._session: Any = _open(onnxruntime, graph, options)
        except Exception as error:  # onnxruntime's own exception types share no public base
            raise UsageError(f"{graph} is not an ONNX graph that ONNX Runtime can load: {first_line(error)}") from error
        self.inputs = tuple(_spec(node) for node in self._session.get_inputs())
        self.outputs = tuple(_spec(node) for node in self._session.get_outputs())

    def run(self, feeds: Arrays) -> Arrays:
        names = [spec.name for spec in self.outputs]
        with running(self, self._session, feeds):
            return empty_results(self, feeds) or dict(zip(names, self._session.run(names, feeds), strict=True))

    def close(self) -> None:
        self._session = None


def _open(onnxruntime: Any, graph: Path, options: Any) -> Any:
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        if "QLinearConcat" not in str(error):
            raise
    # ONNX Runtime fuses a Concat between Q/DQ pairs into QLinearConcat, which does not support FP16 scales.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _spec(node: Any) -> TensorSpec:
    kind = _DTYPES.get(node.type.removeprefix("tensor(").removesuffix(")"))
    if kind is None:
        raise UsageError(f"{node.name} in the ONNX graph is {node.type}, expected a tensor of {', '.join(_DTYPES)}")
    shape = tuple(side if isinstance(side, int) else None for side in node.shape)
    return TensorSpec(node.name, shape, np.dtype(kind))


class _OnnxRuntime(GraphBackend):
    def refuses(self, precision: str) -> str | None:
        if precision == "bf16":
            return "ONNX Runtime's CPU provider has no bf16 convolution: run it on openvino, or build an engine"
        if precision == "int8+fp16":
            version = str(import_onnxruntime().__version__)
            if version_numbers(version, 2) < _ROUNDS_FP16:
                return (
                    f"ONNX Runtime {version} rounds FP16 towards zero when it quantises: run it on openvino, build an "
                    f"engine, or install onnxruntime {'.'.join(map(str, _ROUNDS_FP16))} or later"
                )
        return None

    def computes(self, kind: str) -> bool:  # noqa: ARG002 (it refuses BF16)
        return platform.machine() not in ("x86_64", "AMD64")

    def open_graph(self, graph: Path) -> OnnxRuntimeSession:
        return OnnxRuntimeSession(graph)


ONNXRUNTIME = _OnnxRuntime("onnxruntime", "onnxruntime")
