"""The inference engines behind one protocol, :class:`edgepose.runtime.session.Session`. One file each."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from ...bundle import CHECKPOINT, Bundle
from ...engines import TARGETS
from ...errors import UsageError, missing_extra
from ..session import Session, first_line

#: Every backend, with the module it needs and the extra that installs it. ``auto`` takes the first of this order that
#: can run here: engines built for this GPU first, the reference last. The order is fixed; nothing is measured.
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
    module, extra = _needs(backend)
    if find_spec(module) is None:
        return str(missing_extra(module, extra))
    if backend in ENGINE_BACKENDS:
        from ..cuda import gpu_missing

        return gpu_missing()
    return None


def choose_backends(bundle: Bundle, asked: Sequence[str] | None) -> tuple[tuple[str, ...], dict[str, str]]:
    """Backends that can run a bundle here, and the reasons why the others cannot.

    Args:
        bundle: an opened bundle.
        asked: backend names; None or ``["all"]`` for every one that can run.

    Raises:
        UsageError: a backend that was named is unknown or cannot run; never replaced by another one.
    """
    everything = asked is None or list(asked) == ["all"]
    names = BACKENDS if everything else tuple(dict.fromkeys(asked or ()))
    if not names:
        raise UsageError(f"no backend was named: expected all, or some of {', '.join(BACKENDS)}")
    reasons = {name: cannot_run(bundle, name) for name in names}
    skipped = {name: reason for name, reason in reasons.items() if reason}
    if skipped and not everything:
        name, reason = next(iter(skipped.items()))
        raise UsageError(f"backend {name} cannot run here: {reason}")
    return tuple(name for name in names if name not in skipped), skipped


def cannot_run(bundle: Bundle, backend: str) -> str | None:
    """Why a bundle cannot run on a backend here, in one sentence, or None if it can.

    Raises:
        UsageError: no backend has that name.
    """
    _needs(backend)  # an unknown name is the caller's mistake, not a reason
    try:
        return unavailable(backend) or _missing_file(bundle, backend)
    except UsageError as error:
        return str(error)
    except Exception as error:  # a broken installation raises what it likes, and the other backends still can run
        return f"{backend} is installed, but asking it fails with {type(error).__name__}: {first_line(error)}"


def _needs(backend: str) -> tuple[str, str]:
    if backend not in _NEEDS:
        raise UsageError(f"unknown backend {backend!r}: expected one of {', '.join(BACKENDS)}")
    return _NEEDS[backend]


def _missing_file(bundle: Bundle, backend: str) -> str | None:
    """What a bundle lacks for a backend, in one sentence, or None.

    Raises:
        UsageError: as a reason, too: no engine of the bundle fits, or the target's module cannot be imported.
    """
    if backend == "torch" and not (bundle.path / CHECKPOINT).is_file():
        return f"the bundle has no {CHECKPOINT}"
    if backend in ENGINE_BACKENDS:
        from .tensorrt import find_engine

        find_engine(bundle, backend)
    return None


def open_session(bundle: Bundle, backend: str = "auto") -> Session:
    """Open a bundle's network on one backend; never on another one silently.

    Args:
        bundle: an opened bundle.
        backend: one of :data:`BACKENDS`, or ``auto`` for the first of tensorrt, tensorrt-rtx, onnxruntime, openvino,
            torch that can run here and has a file in the bundle.

    Raises:
        UsageError: the backend is unknown, not installed, or cannot run here; or the bundle has no engine for it.
    """
    if backend == "auto":
        runnable, reasons = choose_backends(bundle, None)
        if not runnable:
            raise UsageError(f"no backend can run {bundle.path} here: {'; '.join(reasons.values())}")
        backend = runnable[0]
    reason = cannot_run(bundle, backend)
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
