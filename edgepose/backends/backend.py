"""The base classes of backends: the module one needs, the files it opens, and the precisions it computes in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ..bundle.bundle import Bundle
from ..bundle.manifest import PRECISIONS
from ..core.errors import UsageError, missing_extra
from .session import Session

#: The order of ``auto``: ``mixed``, which a search chose within an accuracy budget, then the most exact first.
PREFERRED = ("mixed", *(name for name in PRECISIONS if name != "mixed"))


@dataclass(frozen=True)
class Backend(ABC):
    """One inference engine: its ``name`` on the command line and in reports, and the Python ``module`` it needs."""

    name: str
    module: str

    def unavailable(self) -> str | None:
        """Return why the engine cannot run on this machine, in one sentence, or None if it can."""
        return None if find_spec(self.module) else str(missing_extra(self.module))

    def refuses(self, precision: str) -> str | None:  # noqa: ARG002
        """Return why the engine cannot compute in a precision, in one sentence, or None if it can."""
        return None

    def note(self, precision: str) -> str | None:  # noqa: ARG002
        """Return a caveat about results in a precision, in one sentence, or None."""
        return None

    @abstractmethod
    def precisions(self, bundle: Bundle) -> tuple[str, ...]:
        """Return the precisions of a bundle that the engine may run."""

    @abstractmethod
    def choose(self, bundle: Bundle, asked: str) -> tuple[str, Path]:
        """Return the precision and the file to run, for ``auto`` those of the first in :data:`PREFERRED` that fits.

        Raises:
            UsageError: the bundle has no file for the precision, or the engine cannot compute in it.
        """

    @abstractmethod
    def open(self, bundle: Bundle, file: Path) -> Session:
        """Open a file of a bundle, from :meth:`choose`; raise UsageError if the engine cannot load it."""


class GraphBackend(Backend):
    """An engine that runs ONNX graphs."""

    def precisions(self, bundle: Bundle) -> tuple[str, ...]:
        return bundle.precisions

    def choose(self, bundle: Bundle, asked: str) -> tuple[str, Path]:
        if asked == "auto":
            asked = next(name for name in PREFERRED if name in bundle.precisions and not self.refuses(name))
        if reason := self.refuses(asked):
            raise UsageError(reason)
        return asked, bundle.graph_for(asked)

    def open(self, bundle: Bundle, file: Path) -> Session:  # noqa: ARG002
        return self.open_graph(file)

    @abstractmethod
    def open_graph(self, graph: Path) -> Session:
        """Open any ONNX file, such as a detector's; raise UsageError if the engine cannot load it."""

    def computes(self, kind: str) -> bool:  # noqa: ARG002
        """Return whether the engine computes ``BF16`` or ``FP16`` here, not in FP32."""
        return True

    def note(self, precision: str) -> str | None:
        kind = sixteen_bit(precision)
        if kind is None or self.computes(kind):
            return None
        return (
            f"{self.name} computes the {kind} parts of the graph in FP32 here, with weights rounded to {kind}: "
            f"no proof of {kind} arithmetic"
        )


def sixteen_bit(precision: str) -> str | None:
    """Return the 16-bit type in graphs of a precision, ``BF16`` or ``FP16``, or None.

    >>> sixteen_bit("int8+fp16"), sixteen_bit("bf16"), sixteen_bit("int8")
    ('FP16', 'BF16', None)
    """
    if precision == "bf16":
        return "BF16"
    return "FP16" if "fp16" in precision or precision == "mixed" else None
