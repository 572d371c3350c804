"""The small protocol that every inference engine implements."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from numpy.typing import NDArray

from ..bundle.contract import TensorSpec
from ..core.errors import UsageError, first_line

Arrays = dict[str, NDArray[Any]]


class Session(Protocol):
    """A network that is ready to run.

    One session serves one thread at a time. Arrays that :meth:`run` returns belong to the caller.
    """

    backend: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, feeds: Arrays) -> Arrays:
        """Named input arrays to named output arrays."""
        ...

    def close(self) -> None:
        """Free what the engine holds; the session cannot run afterwards."""
        ...


def check_feeds(session: Session, feeds: Arrays) -> None:
    """Refuse inputs that do not fit, before an engine answers in its own words.

    Raises:
        UsageError: a name, dtype or shape differs from ``session.inputs``.
    """
    specs = {spec.name: spec for spec in session.inputs}
    if feeds.keys() != specs.keys():
        raise UsageError(f"{session.backend}: got inputs {sorted(feeds)}, expected {sorted(specs)}")
    for name, array in feeds.items():
        spec = specs[name]
        fits = len(array.shape) == len(spec.shape) and all(
            want is None or got == want for got, want in zip(array.shape, spec.shape, strict=True)
        )
        if array.dtype != spec.dtype or not fits:
            raise UsageError(f"{session.backend}: input {name} is {array.dtype} {array.shape}, expected {spec}")


@contextmanager
def engine_errors(backend: str, feeds: Arrays, reason: Callable[[Exception], str] = first_line) -> Iterator[None]:
    """Engines raise types of their own, without a shared base: whatever one raises in the body becomes a UsageError."""
    try:
        yield
    except Exception as error:
        count = next((len(array) for array in feeds.values() if array.ndim), 1)
        raise UsageError(f"backend {backend} failed on a batch of {count}: {reason(error)}") from error


def require_open(engine: object) -> None:
    """Refuse to run a session that was closed: its ``engine`` is None.

    Raises:
        RuntimeError: a mistake in the calling code, not in what the user gave.
    """
    if engine is None:
        raise RuntimeError("the session was closed: open another one to run the network again")
