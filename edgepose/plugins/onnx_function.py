"""The dynamic depthwise convolution as an ONNX function: standard ops, so that the graph runs in every engine.

A per-sample kernel cannot be an ONNX ``Conv`` without freezing the batch, so the convolution becomes one matrix product
per sample and channel::

    patches (tiles, ph * pw)  @  banded (ph * pw, 8 * 8)  ->  tiles (tiles, 8 * 8)

The map is cut into tiles of 8x8 outputs with their halo (ph = 8 + kh - 1, pw = 8 + kw - 1), and the kernel is spread
into a doubly banded (Toeplitz) matrix, which all tiles share. The spreading is itself a product with a constant 0/1
tensor. Larger tiles multiply more zeros, smaller ones copy more halo: ``benchmarks/dynamic_conv_body.py`` measures them
beside other forms, of which only a Scan over a dynamic-weight Conv is faster, and TensorRT's parser refuses that.

The body is specialised to static C, H, W, kh and kw; the batch stays dynamic, and the dtype is that of the inputs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .spec import DOMAIN, OP_TYPE, VERSION

if TYPE_CHECKING:
    import onnx

#: Outputs per tile, (height, width).
TILE = (8, 8)
OPSET = 18


def function_body(
    channels: int, height: int, width: int, kh: int, kw: int, *, tile: tuple[int, int] = TILE
) -> onnx.FunctionProto:
    """Body of ``edgepose::DynamicDepthwiseConv2d`` for x (N, C, H, W) and kernels (N, C, kh, kw), kh and kw odd."""
    from onnx import helper

    (th, tw), body = tile, _Body()
    rows, cols = -(-height // th), -(-width // tw)
    ph, pw = th + kh - 1, tw + kw - 1
    top, left = kh // 2, kw // 2
    # Borders, and what is missing to whole tiles, are zeros.
    padding = [0, 0, top, left, 0, 0, top + rows * th - height, left + cols * tw - width]
    padded = body.op("Pad", "x", body.ints(padding))
    bands = body.windows(padded, axis=2, count=rows, step=th, size=ph)
    bands = body.reshape(bands, [0, channels, rows, ph, -1])
    patches = body.windows(bands, axis=4, count=cols, step=tw, size=pw, join=3)
    patches = body.reshape(patches, [0, channels, rows * cols, ph * pw])

    spread = body.op("CastLike", body.constant(_spread(kh, kw, tile)), "kernels")
    banded = body.op("MatMul", body.reshape("kernels", [0, channels, kh * kw]), spread)
    banded = body.reshape(banded, [0, channels, ph * pw, th * tw])

    tiles = body.reshape(body.op("MatMul", patches, banded), [0, channels, rows, cols, th, tw])
    image = body.reshape(body.op("Transpose", tiles, perm=[0, 1, 2, 4, 3, 5]), [0, channels, rows * th, cols * tw])
    body.op("Slice", image, body.ints([0, 0]), body.ints([height, width]), body.ints([2, 3]), output="y")
    return helper.make_function(
        DOMAIN, OP_TYPE, ["x", "kernels"], ["y"], body.nodes, [helper.make_opsetid("", OPSET)], []
    )


def is_dynamic_conv(node: onnx.NodeProto) -> bool:
    """Whether a node is the dynamic convolution."""
    return node.domain == DOMAIN and node.op_type == OP_TYPE


def hand_to_plugin(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a graph for TensorRT with the plugin: the function body is gone, and the nodes name the plugin.

    Without the body the parser has no choice, whatever its version; its older ones look at the attributes alone.
    """
    import onnx
    from onnx import helper

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    kept = [function for function in copy.functions if (function.domain, function.name) != (DOMAIN, OP_TYPE)]
    del copy.functions[:]
    copy.functions.extend(kept)
    for node in filter(is_dynamic_conv, copy.graph.node):
        del node.attribute[:]
        names = {"plugin_version": str(VERSION), "plugin_namespace": DOMAIN}
        node.attribute.extend(helper.make_attribute(name, value) for name, value in names.items())
    return copy


def _spread(kh: int, kw: int, tile: tuple[int, int]) -> NDArray[np.bool_]:
    """(kh * kw, ph * pw * th * tw): where each kernel weight stands in the banded matrix.

    Booleans keep the file small; TensorRT takes an int8 constant for a quantised one and refuses it.
    """
    (th, tw), ph, pw = tile, tile[0] + kh - 1, tile[1] + kw - 1
    ones = np.zeros((kh, kw, ph, pw, th, tw), dtype=np.bool_)
    for u, v, a, b in np.ndindex(kh, kw, th, tw):
        ones[u, v, a + u, b + v, a, b] = True
    return ones.reshape(kh * kw, -1)


class _Body:
    """Nodes of a function body, with names made up as they come."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []

    def op(self, kind: str, *inputs: str, output: str | None = None, **attributes: object) -> str:
        from onnx import helper

        name = output or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(self, value: ArrayLike) -> str:
        from onnx import numpy_helper

        return self.op("Constant", value=numpy_helper.from_array(np.asarray(value)))

    def ints(self, values: list[int]) -> str:
        return self.constant(np.array(values, dtype=np.int64))

    def reshape(self, tensor: str, shape: list[int]) -> str:
        """0 keeps the dynamic batch."""
        return self.op("Reshape", tensor, self.ints(shape))

    def windows(self, tensor: str, *, axis: int, count: int, step: int, size: int, join: int | None = None) -> str:
        """Overlapping windows along one axis, concatenated along ``join`` (by default the same axis)."""
        axes = self.ints([axis])
        parts = [
            self.op("Slice", tensor, self.ints([i * step]), self.ints([i * step + size]), axes) for i in range(count)
        ]
        return self.op("Concat", *parts, axis=axis if join is None else join)
