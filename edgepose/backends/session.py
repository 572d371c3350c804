"""The protocol that every inference engine implements, and its checks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..bundle.contract import TensorSpec
from ..core.errors import UsageError, first_line

Arrays = dict[str, NDArray[Any]]


class Session(Protocol):
    """A network that is ready to run, in one thread at a time.

    Attributes:
        backend: name of the engine.
        inputs, outputs: specs of the network's tensors, in the order of the network.
    """

    backend: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, feeds: Arrays) -> Arrays:
        """Run the network on input arrays by name; return output arrays by name, which belong to the caller."""

    def close(self) -> None:
        """Free what the engine holds; the session cannot run afterwards."""


def check_feeds(session: Session, feeds: Arrays) -> None:
    """Raise UsageError if a name, dtype or shape of the inputs differs from ``session.inputs``."""
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


def empty_results(session: Session, feeds: Arrays) -> Arrays:
    """Return the outputs of an empty batch without running the engine, or nothing for another batch.

    Some engines refuse zero samples (OpenVINO: "Batch size is zero"), and so does ONNX Runtime in graphs with a Reshape
    to -1.
    """
    has_batch = all(spec.shape[:1] == (None,) for spec in (*session.inputs, *session.outputs))
    if not has_batch or any(len(array) for array in feeds.values()):
        return {}
    return {spec.name: np.zeros([side or 0 for side in spec.shape], spec.dtype) for spec in session.outputs}


@contextmanager
def running(
    session: Session, engine: object, feeds: Arrays, reason: Callable[[Exception], str] = first_line
) -> Iterator[None]:
    """Check the inputs, and turn any exception in the body into a UsageError: engines share no base class for theirs.

    Raises:
        RuntimeError: the session was closed, so that its ``engine`` is None: a mistake of the calling code.
    """
    if engine is None:
        raise RuntimeError("the session was closed: open another one to run the network again")
    check_feeds(session, feeds)
    try:
        yield
    except Exception as error:
        count = next((len(array) for array in feeds.values() if array.ndim), 1)
        raise UsageError(f"backend {session.backend} failed on a batch of {count}: {reason(error)}") from error
