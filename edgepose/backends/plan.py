"""The inference engines behind one protocol, :class:`edgepose.backends.session.Session`. One file each."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from ..bundle.bundle import Bundle
from ..bundle.engine_record import read_record
from ..bundle.manifest import CHECKPOINT, PRECISIONS
from ..core.errors import UsageError, missing_extra
from ..nvidia.tensorrt import TARGETS
from .session import Session, first_line

#: Every backend, with the module it needs. ``auto`` takes the first of this order that
#: can run here: engines built for this GPU first, the reference last. The order is fixed; nothing is measured.
_NEEDS = {
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt_rtx",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "torch": "torch",
}
BACKENDS = tuple(_NEEDS)
#: The backends that run an engine file instead of a graph.
ENGINE_BACKENDS = TARGETS

#: The first ONNX Runtime whose CPU provider rounds FP16 to the nearest INT8: microsoft/onnxruntime, pull request 32452.
_ROUNDS_FP16 = (1, 30)

#: What ``auto`` takes: what a search chose within a budget of accuracy, else the most exact there is.
_PREFERRED = ("mixed", *(name for name in PRECISIONS if name != "mixed"))


def unavailable(backend: str) -> str | None:
    """Why a backend cannot run on this machine, in one sentence, or None if it can.

    Raises:
        UsageError: no backend has that name.
    """
    module = _needs(backend)
    if find_spec(module) is None:
        return str(missing_extra(module))
    if backend in ENGINE_BACKENDS:
        from ..nvidia import device

        return device.gpu_missing()
    return None


def choose_backends(
    bundle: Bundle, asked: Sequence[str] | None, precision: str = "auto"
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Backends that can run a bundle here, and the reasons why the others cannot.

    Args:
        bundle: an opened bundle.
        asked: backend names; None or ``["all"]`` for every one that can run.
        precision: as in :func:`open_session`.

    Raises:
        UsageError: a backend that was named is unknown or cannot run; never replaced by another one.
    """
    everything = asked is None or list(asked) == ["all"]
    names = BACKENDS if everything else tuple(dict.fromkeys(asked or ()))
    if not names:
        raise UsageError(f"no backend was named: expected all, or some of {', '.join(BACKENDS)}")
    reasons = {name: cannot_run(bundle, name, precision) for name in names}
    skipped = {name: reason for name, reason in reasons.items() if reason}
    if skipped and not everything:
        name, reason = next(iter(skipped.items()))
        raise UsageError(f"backend {name} cannot run here: {reason}")
    return tuple(name for name in names if name not in skipped), skipped


def choose_pairs(
    bundle: Bundle, backends: Sequence[str] | None, precisions: Sequence[str] | None
) -> tuple[tuple[tuple[str, str], ...], dict[str, str]]:
    """Backends and precisions that can run a bundle here, and the reasons why the others cannot.

    Args:
        bundle: an opened bundle.
        backends: as in :func:`choose_backends`.
        precisions: names of :data:`edgepose.bundle.manifest.PRECISIONS`; None or ``["all"]`` for every one that a
            backend can run: of an engine backend those with an engine that fits, of torch, the reference, ``fp32``.

    Returns:
        pairs of a backend and a precision; and by backend, or by both as ``"onnxruntime bf16"``, a sentence.

    Raises:
        UsageError: a backend that was named cannot run here, or not in a precision that was named, or no backend can.
    """
    runnable, skipped = choose_backends(bundle, backends)
    named_backends = backends is not None and list(backends) != ["all"]
    named = None if precisions is None or list(precisions) == ["all"] else tuple(dict.fromkeys(precisions))
    if named == ():
        raise UsageError(f"no precision was named: expected all, or some of {', '.join(PRECISIONS)}")
    pairs = []
    for backend in runnable:
        for precision in named or _precisions_of(bundle, backend):
            reason = cannot_run(bundle, backend, precision)
            if reason and named and named_backends:
                raise UsageError(f"backend {backend} cannot run here in {precision}: {reason}")
            if reason:
                skipped[f"{backend} {precision}"] = reason
            else:
                pairs.append((backend, precision))
    for precision in named or ():
        if runnable and precision not in {name for _, name in pairs}:
            _refuse_everywhere(bundle, precision, [skipped[f"{backend} {precision}"] for backend in runnable])
    return tuple(pairs), skipped


def _precisions_of(bundle: Bundle, backend: str) -> tuple[str, ...]:
    if backend in ENGINE_BACKENDS:
        return tuple(name for name in PRECISIONS if cannot_run(bundle, backend, name) is None)
    return ("fp32",) if backend == "torch" else bundle.precisions


def _refuse_everywhere(bundle: Bundle, precision: str, reasons: Sequence[str]) -> NoReturn:
    if precision != "auto":
        bundle.graph_for(precision)  # one sentence instead of every backend's, where the bundle has no such graph
    raise UsageError(f"no backend can run {bundle.path} here{_in(precision)}: {'; '.join(reasons)}")


def _in(precision: str) -> str:
    return "" if precision == "auto" else f" in {precision}"


def cannot_run(bundle: Bundle, backend: str, precision: str = "auto") -> str | None:
    """Why a bundle cannot run on a backend here, in one sentence, or None if it can.

    Raises:
        UsageError: no backend or precision has that name.
    """
    _needs(backend)  # an unknown name is the caller's mistake, not a reason
    if precision not in (*PRECISIONS, "auto"):
        raise UsageError(f"unknown precision {precision!r}: expected auto or one of {', '.join(PRECISIONS)}")
    try:
        return unavailable(backend) or _missing_file(bundle, backend, precision)
    except UsageError as error:
        return str(error)
    except Exception as error:  # a broken installation raises what it likes, and the other backends still can run
        return f"{backend} is installed, but asking it fails with {type(error).__name__}: {first_line(error)}"


def module_of_backend(backend: str) -> str:
    """Name of the module that a backend needs."""
    return _needs(backend)


def _needs(backend: str) -> str:
    if backend not in _NEEDS:
        raise UsageError(f"unknown backend {backend!r}: expected one of {', '.join(BACKENDS)}")
    return _NEEDS[backend]


def _missing_file(bundle: Bundle, backend: str, precision: str) -> str | None:
    """What a bundle lacks for a backend, in one sentence, or None.

    Raises:
        UsageError: as a reason, too: no graph or engine of the bundle fits, or the target's module cannot be imported.
    """
    if backend == "torch" and not (bundle.path / CHECKPOINT).is_file():
        return f"the bundle has no {CHECKPOINT}"
    choose_precision(bundle, backend, precision)
    return None


def choose_precision(bundle: Bundle, backend: str, asked: str = "auto") -> str:
    """What a backend would compute a bundle's network in.

    Args:
        bundle: an opened bundle.
        backend: one of :data:`BACKENDS`, installed.
        asked: one of :data:`edgepose.bundle.manifest.PRECISIONS`, or ``auto`` for ``mixed``, which a search chose
            within a budget of accuracy, or else the most exact that the bundle has for this backend.

    Raises:
        UsageError: the bundle has no graph or no fitting engine of it, or the backend cannot compute in it.
    """
    if backend in ENGINE_BACKENDS:
        from .tensorrt import find_engine

        return read_record(find_engine(bundle, backend, asked)).precision
    if asked == "auto":
        there = (name for name in _PREFERRED if name in bundle.precisions)
        return next(name for name in there if not _not_computed(backend, name))
    reason = _not_computed(backend, asked)
    if reason:
        raise UsageError(reason)
    bundle.graph_for(asked)
    return asked


def _not_computed(backend: str, precision: str) -> str | None:
    """Why a backend cannot compute in a precision, in one sentence, or None if it can."""
    if backend == "torch" and precision != "fp32":
        return f"the reference, torch, computes in fp32, got {precision}"
    if backend == "onnxruntime" and precision == "bf16":
        return "ONNX Runtime's CPU provider has no bf16 convolution: run it on openvino, or build an engine"
    if backend == "onnxruntime" and precision == "int8+fp16":
        version = str(import_module("onnxruntime").__version__)
        if tuple(int(part) for part in version.split(".")[:2]) < _ROUNDS_FP16:
            return (
                f"ONNX Runtime {version} rounds FP16 towards zero when it quantises: run it on openvino, build an "
                f"engine, or install onnxruntime {'.'.join(map(str, _ROUNDS_FP16))} or later"
            )
    return None


def choose(bundle: Bundle, backend: str = "auto", precision: str = "auto") -> tuple[str, str]:
    """The backend and the precision that :func:`open_session` takes.

    Args:
        bundle: an opened bundle.
        backend: one of :data:`BACKENDS`, or ``auto`` for the first of tensorrt, tensorrt-rtx, onnxruntime, openvino,
            torch that can run here and has a file in the bundle.
        precision: as in :func:`choose_precision`.

    Raises:
        UsageError: the backend is unknown, not installed, or cannot run here; or the bundle has nothing for it in this
            precision.
    """
    if backend == "auto":
        runnable, reasons = choose_backends(bundle, None, precision)
        if not runnable:
            _refuse_everywhere(bundle, precision, list(reasons.values()))
        backend = runnable[0]
    reason = cannot_run(bundle, backend, precision)
    if reason:
        raise UsageError(f"backend {backend} cannot run here{_in(precision)}: {reason}")
    return backend, choose_precision(bundle, backend, precision)


def session_file(bundle: Bundle, backend: str, precision: str) -> Path:
    """What a backend opens of a bundle, for a pair of :func:`choose`: an engine, the checkpoint, or a graph."""
    if backend in ENGINE_BACKENDS:
        from .tensorrt import find_engine

        return find_engine(bundle, backend, precision)
    return bundle.path / CHECKPOINT if backend == "torch" else bundle.graph_for(precision)


def open_session(bundle: Bundle, backend: str = "auto", precision: str = "auto") -> Session:
    """Open a bundle's network on one backend; never on another one silently. Arguments and errors of :func:`choose`."""
    backend, precision = choose(bundle, backend, precision)
    if backend == "torch":
        from .torch import TorchSession

        return TorchSession(bundle)
    file = session_file(bundle, backend, precision)
    if backend in ENGINE_BACKENDS:
        from .tensorrt import TensorRtSession

        return TensorRtSession(file, backend)
    return open_graph(file, backend)


def arithmetic_note(backend: str, precision: str) -> str | None:
    """What to know about results of a backend that has no arithmetic of a precision, a sentence, or None.

    On x86-64 ONNX Runtime's CPU provider computes FP16 in FP32, between casts; OpenVINO does everywhere, as it is told
    to (see :class:`~edgepose.backends.openvino.OpenVinoSession`), and so with BF16 where the CPU has none.
    """
    kind = "BF16" if precision == "bf16" else "FP16" if "fp16" in precision or precision == "mixed" else None
    on_x86 = platform.machine() in ("x86_64", "AMD64")
    if kind is None or not (backend == "openvino" or (backend == "onnxruntime" and on_x86)):
        return None
    if kind == "BF16":
        from .openvino import has_bf16

        if has_bf16():
            return None
    return (
        f"{backend} computes in FP32 here what is {kind} in the graph, with weights rounded to {kind}: "
        f"no proof of {kind} arithmetic"
    )


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
