"""ONNX Runtime on the CPU: the default backend, runs everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UsageError, missing_extra
from ..session import Arrays, TensorSpec, check_feeds

_DTYPES = {"float": "float32", "double": "float64"}


class OnnxRuntimeSession:
    """An ONNX file on ONNX Runtime's CPU provider.

    Raises:
        UsageError: ONNX Runtime is not installed, or the file is missing or not a graph it can load.
    """

    backend = "onnxruntime"

    def __init__(self, graph: Path) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise missing_extra("onnxruntime", "export") from error
        if not graph.is_file():
            raise UsageError(f"ONNX file {graph} does not exist")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors; its warnings about unused initialisers help nobody here
        try:
            self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own exception types share no public base
            raise UsageError(f"{graph} is not an ONNX graph ONNX Runtime can load: {_first_line(error)}") from error
        self.inputs = tuple(_spec(node) for node in self._session.get_inputs())
        self.outputs = tuple(_spec(node) for node in self._session.get_outputs())

    def run(self, feeds: Arrays) -> Arrays:
        check_feeds(self, feeds)
        names = [spec.name for spec in self.outputs]
        return dict(zip(names, self._session.run(names, feeds), strict=True))

    def close(self) -> None:
        del self._session


def _spec(node: Any) -> TensorSpec:
    kind = node.type.removeprefix("tensor(").removesuffix(")")
    shape = tuple(side if isinstance(side, int) else None for side in node.shape)
    return TensorSpec(node.name, shape, np.dtype(_DTYPES.get(kind, kind)))


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
