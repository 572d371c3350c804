"""The small protocol that every inference engine implements."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..core.errors import UsageError

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape and dtype of one input or output; None stands for a dynamic side."""

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]

    def __str__(self) -> str:
        sides = ", ".join("N" if side is None else str(side) for side in self.shape)
        return f"{self.name} {self.dtype.name} ({sides})"


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


def first_line(error: Exception) -> str:
    """The first line that an engine's error says, or its kind if it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


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
