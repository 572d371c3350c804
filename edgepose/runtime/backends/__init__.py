"""The inference engines behind one protocol, :class:`edgepose.runtime.session.Session`. One file each."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from ...bundle import Bundle
from ...engines import TARGETS
from ...errors import UsageError, missing_extra
from ..session import Session

#: Every backend, with the module it needs and the extra that installs it. ``auto`` tries them in this order.
_NEEDS = {
    "tensorrt": ("tensorrt", "tensorrt"),
    "tensorrt-rtx": ("tensorrt_rtx", "rtx"),
    "onnxruntime": ("onnxruntime", "export"),
    "openvino": ("openvino", "openvino"),
    "torch": ("torch", "train"),
}
BACKENDS = tuple(_NEEDS)
#: The backends that run an engine file instead of a graph.
ENGINE_BACKENDS = TARGETS


def unavailable(backend: str) -> str | None:
    """Why a backend cannot run on this machine, in one sentence, or None if it can.

    Raises:
        UsageError: no backend has that name.
    """
    if backend not in _NEEDS:
        raise UsageError(f"unknown backend {backend!r}: expected one of {', '.join(BACKENDS)}")
    module, extra = _NEEDS[backend]
    if find_spec(module) is None:
        return str(missing_extra(module, extra))
    if backend in ENGINE_BACKENDS:
        from ..cuda import gpu_missing

        return gpu_missing()
    return None


def open_session(bundle: Bundle, backend: str = "auto") -> Session:
    """Open a bundle's network on one backend; never on another one silently.

    Args:
        bundle: an opened bundle.
        backend: one of :data:`BACKENDS`, or ``auto`` for the first that can run here and has a file in the bundle.

    Raises:
        UsageError: the backend is unknown, not installed, or cannot run here; or the bundle has no engine for it.
    """
    if backend == "auto":
        backend = next(name for name in BACKENDS if unavailable(name) is None and _has_file(bundle, name))
    reason = unavailable(backend)
    if reason:
        raise UsageError(f"backend {backend} cannot run here: {reason}")
    if backend in ENGINE_BACKENDS:
        from .tensorrt import TensorRtSession, find_engine

        return TensorRtSession(find_engine(bundle, backend), backend)
    if backend == "torch":
        from .torch import TorchSession

        return TorchSession(bundle)
    return open_graph(bundle.graph, backend)


def open_graph(graph: Path, backend: str = "onnxruntime") -> Session:
    """Open any ONNX file, such as a detector, on ``onnxruntime`` or ``openvino``.

    Raises:
        UsageError: another backend was asked for, it is not installed, or it cannot load the file.
    """
    if backend == "onnxruntime":
        from .onnxruntime import OnnxRuntimeSession

        return OnnxRuntimeSession(graph)
    if backend == "openvino":
        from .openvino import OpenVinoSession

        return OpenVinoSession(graph)
    raise UsageError(f"backend {backend!r} cannot open an ONNX file: expected onnxruntime or openvino")


def _has_file(bundle: Bundle, backend: str) -> bool:
    """Engines must have been built for this backend; every bundle holds what the other backends need."""
    if backend not in ENGINE_BACKENDS:
        return True
    return any(path.name.startswith(f"{backend}-") for path in bundle.engines())
