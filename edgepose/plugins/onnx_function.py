"""Build the dynamic depthwise convolution as an ONNX function of standard ops, which every engine runs.

An ONNX ``Conv`` with one kernel per sample would fix the batch size, so the convolution becomes one matrix product per
sample and channel::

    patches (tiles, ph * pw)  @  banded (ph * pw, 8 * 8)  ->  tiles (tiles, 8 * 8)

The map is cut into tiles of 8x8 outputs with their halo (ph = 8 + kh - 1, pw = 8 + kw - 1), and the kernel is spread
into a doubly banded (Toeplitz) matrix, which all tiles share. The spreading is itself a product with a constant 0/1
tensor. Larger tiles multiply more zeros, smaller ones copy more halo. ``benchmarks/dynamic_conv_body.py`` compares tile
sizes and other forms; only a Scan over a Conv with dynamic weights is faster, but TensorRT's parser refuses it.

C, H, W, kh and kw are constants of the body; N is dynamic, and the dtype is the inputs'.
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
#: Opset of all graphs that edgepose exports.
OPSET = 18


def function_body(
    channels: int, height: int, width: int, kh: int, kw: int, *, tile: tuple[int, int] = TILE
) -> onnx.FunctionProto:
    """Return ``edgepose::DynamicDepthwiseConv2d`` for x (N, C, H, W) and kernels (N, C, kh, kw), kh and kw odd."""
    from onnx import helper

    (th, tw), body = tile, _Body()
    rows, cols = -(-height // th), -(-width // tw)
    ph, pw = th + kh - 1, tw + kw - 1
    top, left = kh // 2, kw // 2
    # Pad with zeros: the convolution's border, and on the right and at the bottom up to whole tiles.
    padding = [0, 0, top, left, 0, 0, top + rows * th - height, left + cols * tw - width]
    padded = body.op("Pad", "x", body.ints(padding))
    bands = body.windows(padded, axis=2, count=rows, step=th, size=ph)
    # No side of -1: an empty batch leaves it undefined.
    bands = body.reshape(bands, [0, channels, rows, ph, cols * tw + kw - 1])
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
    """Return whether a node is the dynamic convolution."""
    return node.domain == DOMAIN and node.op_type == OP_TYPE


def hand_to_plugin(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a graph without the function's body, whose nodes name the plugin, for TensorRT.

    With the body, some versions of TensorRT's parser would ignore the plugin; older ones need the attributes.
    """
    import onnx
    from onnx import helper

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for function in [f for f in copy.functions if (f.domain, f.name) == (DOMAIN, OP_TYPE)]:
        copy.functions.remove(function)
    for node in filter(is_dynamic_conv, copy.graph.node):
        del node.attribute[:]
        names = {"plugin_version": str(VERSION), "plugin_namespace": DOMAIN}
        node.attribute.extend(helper.make_attribute(name, value) for name, value in names.items())
    return copy


def _spread(kh: int, kw: int, tile: tuple[int, int]) -> NDArray[np.bool_]:
    """Return (kh * kw, ph * pw * th * tw) bool: the positions of each kernel weight in the banded matrix.

    Booleans keep the file small. An int8 constant would not do: TensorRT treats it as quantised and refuses it.
    """
    (th, tw), ph, pw = tile, tile[0] + kh - 1, tile[1] + kw - 1
    ones = np.zeros((kh, kw, ph, pw, th, tw), dtype=np.bool_)
    for u, v, a, b in np.ndindex(kh, kw, th, tw):
        ones[u, v, a + u, b + v, a, b] = True
    return ones.reshape(kh * kw, -1)


class _Body:
    """Collects the nodes of a function body; each method adds nodes and returns the name of their output."""

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
        """Add a Reshape; a 0 in ``shape`` keeps the size of that axis, such as the dynamic batch's."""
        return self.op("Reshape", tensor, self.ints(shape))

    def windows(self, tensor: str, *, axis: int, count: int, step: int, size: int, join: int | None = None) -> str:
        """Cut overlapping windows along one axis, and concatenate them along ``join`` (by default the same axis)."""
        axes = self.ints([axis])
        parts = [
            self.op("Slice", tensor, self.ints([i * step]), self.ints([i * step + size]), axes) for i in range(count)
        ]
        return self.op("Concat", *parts, axis=axis if join is None else join)
