"""The FP32 graph of a bundle in another precision: which convolutions are INT8, and what the rest computes in."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .quantise import place, quantisable, quantise
from .sixteen_bit import Unsafe, to_16_bit

if TYPE_CHECKING:
    import onnx

#: What :func:`make_variants` makes; ``mixed`` comes from a search.
VARIANTS = ("fp16", "bf16", "int8", "int8+fp16")


@dataclass(frozen=True)
class Choice:
    """What each part of a network computes in.

    Attributes:
        int8: names of the Conv nodes in INT8.
        rest: of everything else: ``fp32``, ``fp16`` or ``bf16``.
        fp32: names of the nodes that are FP32 even so.
    """

    int8: frozenset[str] = frozenset()
    rest: str = "fp32"
    fp32: frozenset[str] = frozenset()


def make_graph(model: onnx.ModelProto, choice: Choice, ranges: Mapping[str, float]) -> onnx.ModelProto:
    """A copy of an FP32 graph that computes as chosen; ``ranges`` are those of the activations, for INT8."""
    if choice.int8:
        model = quantise(model, place(model, choice.int8), ranges)
    return model if choice.rest == "fp32" else to_16_bit(model, choice.rest, choice.fp32)


def choice_for(precision: str, model: onnx.ModelProto, unsafe: Collection[Unsafe]) -> Choice:
    """The choice behind one of :data:`VARIANTS`; nodes that FP16 cannot hold stay FP32."""
    int8 = frozenset(node.name for node in quantisable(model)) if "int8" in precision else frozenset[str]()
    if "fp16" in precision:
        return Choice(int8, "fp16", frozenset(found.node for found in unsafe))
    return Choice(int8, "bf16" if precision == "bf16" else "fp32")
