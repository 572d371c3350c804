"""Make a bundle's graph in another precision: some convolutions in INT8, the rest in FP32, FP16 or BF16."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .quantise import place, quantisable, quantise
from .sixteen_bit import Unsafe, to_16_bit

if TYPE_CHECKING:
    import onnx

#: Precisions that calibration always makes graphs for; ``mixed`` comes from a search.
VARIANTS = ("fp16", "bf16", "int8", "int8+fp16")


@dataclass(frozen=True)
class Choice:
    """A precision for each node of a network.

    Attributes:
        int8: names of the Conv nodes in INT8.
        rest: precision of all other nodes: ``fp32``, ``fp16`` or ``bf16``.
        fp32: names of the nodes that stay FP32 whatever ``rest`` is.
    """

    int8: frozenset[str] = frozenset()
    rest: str = "fp32"
    fp32: frozenset[str] = frozenset()


def make_graph(model: onnx.ModelProto, choice: Choice, ranges: Mapping[str, float]) -> onnx.ModelProto:
    """Return an FP32 graph in the chosen precisions; ``ranges`` are the activations' (see :class:`Calibration`)."""
    if choice.int8:
        model = quantise(model, place(model, choice.int8), ranges)
    return model if choice.rest == "fp32" else to_16_bit(model, choice.rest, choice.fp32)


def choice_for(precision: str, model: onnx.ModelProto, unsafe: Collection[Unsafe]) -> Choice:
    """Return the choice for one of :data:`VARIANTS`; with FP16, the ``unsafe`` nodes stay FP32."""
    int8 = frozenset(node.name for node in quantisable(model)) if "int8" in precision else frozenset[str]()
    if "fp16" in precision:
        return Choice(int8, "fp16", frozenset(found.node for found in unsafe))
    return Choice(int8, "bf16" if precision == "bf16" else "fp32")
