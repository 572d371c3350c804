"""The choice of what runs a bundle on this machine: a Runner is a backend, a precision and a file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..bundle.bundle import Bundle
from ..bundle.external_data import refuse_external_data
from ..bundle.manifest import PRECISIONS
from ..core.errors import UsageError, first_line
from .backend import Backend, GraphBackend
from .onnxruntime import ONNXRUNTIME
from .openvino import OPENVINO
from .session import Session
from .tensorrt import TENSORRT, TENSORRT_RTX, EngineBackend
from .torch import TORCH

#: Every backend by name, in the order in which ``auto`` tries them: engines for this GPU first, the reference last.
BACKENDS: dict[str, Backend] = {
    backend.name: backend for backend in (TENSORRT, TENSORRT_RTX, ONNXRUNTIME, OPENVINO, TORCH)
}


@dataclass(frozen=True)
class Runner:
    """A bundle's network on one backend in one precision; ``str(runner)`` is such as ``openvino int8``.

    ``file`` is what the backend opens: a graph, an engine, or the checkpoint.
    """

    bundle: Bundle
    backend: str
    precision: str
    file: Path

    def __str__(self) -> str:
        return f"{self.backend} {self.precision}"

    def open(self) -> Session:
        """Open the network on this backend and no other; raise UsageError if it cannot load the file."""
        return BACKENDS[self.backend].open(self.bundle, self.file)

    @property
    def note(self) -> str | None:
        """A caveat about results of this backend in this precision, in one sentence, or None."""
        return BACKENDS[self.backend].note(self.precision)


@dataclass(frozen=True)
class Plan:
    """The runners, and the reasons for what was skipped, by backend or by both names such as ``onnxruntime bf16``."""

    runners: tuple[Runner, ...]
    skipped: dict[str, str]


def get_backend(name: str) -> Backend:
    """Return the backend of a name; raise UsageError for an unknown one."""
    if name not in BACKENDS:
        raise UsageError(f"unknown backend {name!r}: expected one of {', '.join(BACKENDS)}")
    return BACKENDS[name]


def choose(bundle: Bundle, backend: str = "auto", precision: str = "auto") -> Runner:
    """Choose one runner; ``auto`` is the first backend that can run here, and ``mixed`` or else the most exact.

    Raises:
        UsageError: a name is unknown, the backend cannot run here, or the bundle has no file for it in this precision.
    """
    reasons = []
    for name in BACKENDS if backend == "auto" else (backend,):
        found = _resolve(bundle, name, precision)
        if isinstance(found, Runner):
            return found
        reasons.append(found)
    if backend != "auto":
        raise UsageError(f"backend {backend} cannot run here{_in(precision)}: {reasons[0]}")
    raise _nothing_runs(bundle, precision, reasons)


def plan(bundle: Bundle, backends: Sequence[str] | None = None, precisions: Sequence[str] | None = None) -> Plan:
    """Choose all runners of a bundle for the requested backends and precisions.

    Args:
        backends: names; None or ``["all"]`` for all that can run here, with the others in ``skipped``.
        precisions: names; None or ``["all"]`` for all that a backend can run, such as those with a fitting engine.

    Raises:
        UsageError: a named backend is unknown or cannot run here, or not in a named precision; or no backend can.
    """
    named_backends, named = _named(backends, "backend", BACKENDS), _named(precisions, "precision", PRECISIONS)
    runners: list[Runner] = []
    skipped: dict[str, str] = {}
    for name in named_backends or BACKENDS:
        backend, anything = get_backend(name), _resolve(bundle, name, "auto")
        if isinstance(anything, str):
            if named_backends:
                raise UsageError(f"backend {name} cannot run here: {anything}")
            skipped[name] = anything
            continue
        for precision in named or backend.precisions(bundle):
            found = anything if precision == anything.precision else _resolve(bundle, name, precision)
            if isinstance(found, Runner):
                runners.append(found)
            elif named and named_backends:
                raise UsageError(f"backend {name} cannot run here in {precision}: {found}")
            elif named or not isinstance(backend, EngineBackend):
                skipped[f"{name} {precision}"] = found
    for precision in named or ():
        reasons = [reason for name, reason in skipped.items() if name.endswith(f" {precision}")]
        if reasons and precision not in {runner.precision for runner in runners}:
            raise _nothing_runs(bundle, precision, reasons)
    return Plan(tuple(runners), skipped)


def _named(asked: Sequence[str] | None, what: str, known: Iterable[str]) -> tuple[str, ...] | None:
    """Return the requested names without duplicates, or None for all."""
    if asked is None or list(asked) == ["all"]:
        return None
    if not asked:
        raise UsageError(f"no {what} was named: expected all, or some of {', '.join(known)}")
    return tuple(dict.fromkeys(asked))


def _resolve(bundle: Bundle, name: str, precision: str) -> Runner | str:
    """Return a runner, or one sentence on why it cannot run here; raise UsageError for unknown names."""
    backend = get_backend(name)
    if precision not in (*PRECISIONS, "auto"):
        raise UsageError(f"unknown precision {precision!r}: expected auto or one of {', '.join(PRECISIONS)}")
    try:
        return backend.unavailable() or Runner(bundle, name, *backend.choose(bundle, precision))
    except UsageError as error:
        return str(error)
    except Exception as error:  # a broken installation may raise anything, and the other backends can still run
        return f"{name} is installed, but fails with {type(error).__name__}: {first_line(error)}"


def _nothing_runs(bundle: Bundle, precision: str, reasons: Sequence[str]) -> UsageError:
    if precision != "auto":
        bundle.graph_for(precision)  # if the bundle has no such graph, this raises one sentence for all backends
    return UsageError(f"no backend can run {bundle.path} here{_in(precision)}: {'; '.join(reasons)}")


def _in(precision: str) -> str:
    return "" if precision == "auto" else f" in {precision}"


def unavailable(backend: str) -> str | None:
    """Return why a backend cannot run on this machine, or None; raise UsageError for an unknown name."""
    return get_backend(backend).unavailable()


def open_session(bundle: Bundle, backend: str = "auto", precision: str = "auto") -> Session:
    """Open a bundle's network; arguments and errors are those of :func:`choose`."""
    return choose(bundle, backend, precision).open()


def open_graph(graph: Path, backend: str = "onnxruntime") -> Session:
    """Open any ONNX file, such as a detector, on ``onnxruntime`` or ``openvino``.

    Raises:
        UsageError: the backend is another one or cannot load the file, or the graph keeps weights in other files.
    """
    described = BACKENDS.get(backend)
    if not isinstance(described, GraphBackend):
        raise UsageError(f"backend {backend!r} cannot open an ONNX file: expected onnxruntime or openvino")
    if graph.is_file():
        refuse_external_data(graph)
    return described.open_graph(graph)
