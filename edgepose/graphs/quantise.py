"""Insert Q/DQ pairs into a graph by TensorRT's rules for explicit quantisation.

A convolution computes in INT8 if its input and its weights come from a DequantizeLinear. Quantisation is symmetric,
with one scale per activation tensor and one per output channel of the weights; biases and outputs are not quantised.
The residual that is added to such a convolution's output is quantised too, so that engines fuse the sum into the
convolution's kernel. A nearest Resize can copy int8, so its input is quantised, not its output. The branches of a
Concat share one scale, and so do the terms of HRNet's sums over resolutions.

Source: NVIDIA TensorRT documentation, "Working with Quantized Types", recommendations for placing Q/DQ.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..core.errors import UsageError
from .module_names import label
from .probe import leading_to
from .sixteen_bit import network_nodes, replace_nodes, require_opset

if TYPE_CHECKING:
    import onnx

#: INT8 levels on each side of zero: -128 is not used.
LEVELS = 127


@dataclass(frozen=True)
class Placement:
    """The convolutions (names of Conv nodes) and activations to quantise.

    Attributes:
        readers: activation tensor to the names of the nodes that read it through its Q/DQ pair.
        shared: sets of these tensors; the tensors of a set share one scale.
    """

    convolutions: frozenset[str]
    readers: dict[str, set[str]] = field(default_factory=dict)
    shared: list[set[str]] = field(default_factory=list)

    @property
    def tensors(self) -> tuple[str, ...]:
        """The activations that need a range, sorted."""
        return tuple(sorted(self.readers))


def quantisable(model: onnx.ModelProto, *, stem: bool = False) -> list[onnx.NodeProto]:
    """Return the convolutions that may compute in INT8, in the graph's order.

    Left out are grouped convolutions, and heads: convolutions that no other dense convolution follows.

    Args:
        model: an FP32 graph.
        stem: also return the convolutions that read the picture itself. Some networks lose too much accuracy with
            these in INT8, so only a search, which measures the loss, includes them.

    Raises:
        UsageError: the graph holds Q/DQ pairs already, its opset is too old, or there is no such convolution.
    """
    require_opset(model)
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            raise UsageError(f"the graph is quantised already ({label(node)}): give the FP32 graph, pose.onnx")
    nodes = network_nodes(model)
    convolutions = [node for node in nodes if node.op_type == "Conv"]
    dense = [node for node in convolutions if all(a.i == 1 for a in node.attribute if a.name == "group")]
    behind = {node.name for node in leading_to(nodes, {node.input[0] for node in dense})}
    made = {name for node in nodes for name in node.output}
    found = [node for node in dense if node.name in behind and (stem or node.input[0] in made)]
    if not found:
        raise UsageError("the graph has no convolution between its first and its last: it has nothing to quantise")
    return found


def place(model: onnx.ModelProto, convolutions: Collection[str]) -> Placement:
    """Decide which tensors of an FP32 graph to quantise so that some of its :func:`quantisable` nodes use INT8."""
    return _Placing(model, frozenset(convolutions)).place()


def tensors_to_collect(model: onnx.ModelProto) -> tuple[str, ...]:
    """Return, sorted, every activation that :func:`place` may quantise for any choice of convolutions.

    Which operand of a sum is the residual depends on the chosen convolutions; choosing each alone finds all cases.
    """
    return tuple(sorted({name for node in quantisable(model, stem=True) for name in place(model, [node.name]).tensors}))


class _Placing:
    """Builds a placement from an index of the graph's nodes and tensors."""

    def __init__(self, model: onnx.ModelProto, convolutions: frozenset[str]) -> None:
        self.nodes = list(model.graph.node)
        self.makers = {name: node for node in self.nodes for name in node.output}
        self.read = Counter(name for node in self.nodes for name in node.input)
        self.summed = {name for node in self.nodes if node.op_type == "Add" for name in node.input}
        self.placement = Placement(convolutions)

    def place(self) -> Placement:
        """Return the finished placement."""
        for node in self.nodes:
            if node.name in self.placement.convolutions or (node.op_type == "Resize" and self._int8(node.input[0])):
                self._quantise(node.input[0], node)
        for node in self.nodes:
            if node.op_type == "Add":
                self._place_sum(node)
            elif node.op_type == "Concat" and node.output[0] in self.placement.readers:
                self.placement.shared.append({*node.input, node.output[0]})
                for name in node.input:
                    self._quantise(name, node)
        for node in self.nodes:
            if node.op_type == "Add" and node.output[0] not in self.summed:  # the last of a chain of sums
                terms = {name for name in self._terms(node) if name in self.placement.readers}
                if len(terms) > 1:
                    self.placement.shared.append(terms)
        return self.placement

    def _place_sum(self, node: onnx.NodeProto) -> None:
        """Quantise the residual, if one operand is an INT8 convolution's output that only this sum reads.

        Otherwise the sum reads those of its operands through Q/DQ pairs that are quantised for other nodes already.
        """
        fused = next((name for name in node.input if self._int8(name) and self.read[name] == 1), None)
        for name in node.input:
            if (fused and name != fused) or (not fused and name in self.placement.readers):
                self._quantise(name, node)

    def _quantise(self, tensor: str, reader: onnx.NodeProto) -> None:
        self.placement.readers.setdefault(tensor, set()).add(reader.name)

    def _int8(self, tensor: str) -> bool:
        """Return whether a tensor is the output of a convolution in INT8."""
        return tensor in self.makers and self.makers[tensor].name in self.placement.convolutions

    def _terms(self, node: onnx.NodeProto) -> Iterator[str]:
        """Yield the operands of a chain of sums, and for a resized operand also the input of its Resize."""
        for name in node.input:
            maker = self.makers.get(name)
            yield name
            if maker is not None and maker.op_type == "Add":
                yield from self._terms(maker)
            elif maker is not None and maker.op_type == "Resize":
                yield maker.input[0]


def quantise(model: onnx.ModelProto, placement: Placement, ranges: Mapping[str, float]) -> onnx.ModelProto:
    """Return a copy of the FP32 graph that a placement was decided for, with Q/DQ pairs and weights stored as int8.

    ``ranges`` has for every tensor of the placement the largest absolute value that int8 represents, above 0.

    Raises:
        UsageError: a tensor has no range.
    """
    import onnx

    missing = [name for name in placement.tensors if name not in ranges]
    if missing:
        raise UsageError(f"the calibration has no range for {missing[0]}: calibrate again")
    copy = deepcopy(model)
    _Quantising(copy, placement, _shared_scales(placement, ranges)).apply()
    onnx.checker.check_model(copy, full_check=True)
    return copy


class _Quantising:
    """Inserts Q/DQ pairs into a graph, in place."""

    def __init__(self, model: onnx.ModelProto, placement: Placement, scales: Mapping[str, np.float32]) -> None:
        self.graph, self.placement, self.scales = model.graph, placement, scales
        self.weights = {weight.name: weight for weight in model.graph.initializer}
        self.nodes: list[onnx.NodeProto] = []
        self.done: set[str] = set()

    def apply(self) -> None:
        """Change the graph."""
        for node in self.graph.node:
            if node.name in self.placement.convolutions:
                node.input[1] = self._weight(node.input[1])
            for i, name in enumerate(node.input):
                if node.name in self.placement.readers.get(name, ()):
                    node.input[i] = self._activation(name)
            self.nodes.append(node)
        replace_nodes(self.graph, self.nodes)

    def _activation(self, name: str) -> str:
        """Return the name of an activation after its Q/DQ pair, which is added at the first call."""
        if name not in self.done:
            self._constants(name, np.asarray(self.scales[name]))
            self._node("QuantizeLinear", name, f"{name}_int8", name)
            self._node("DequantizeLinear", f"{name}_int8", f"{name}_dequantised", name)
        return f"{name}_dequantised"

    def _weight(self, name: str) -> str:
        """Return the name of a dequantised kernel (out, in, h, w); its int8 copy is added at the first call."""
        from onnx import numpy_helper

        if name not in self.done:
            kernel = numpy_helper.to_array(self.weights[name])
            scales = weight_scales(kernel)
            integers = np.rint(kernel / scales[:, None, None, None]).clip(-LEVELS, LEVELS).astype(np.int8)
            self.graph.initializer.append(numpy_helper.from_array(integers, f"{name}_int8"))
            self._constants(name, scales)
            self._node("DequantizeLinear", f"{name}_int8", f"{name}_dequantised", name, axis=0)
        return f"{name}_dequantised"

    def _constants(self, name: str, scale: NDArray[np.float32]) -> None:
        from onnx import numpy_helper

        self.done.add(name)
        zero = np.zeros(scale.shape, dtype=np.int8)
        for value, suffix in ((scale, "scale"), (zero, "zero")):
            self.graph.initializer.append(numpy_helper.from_array(value, f"{name}_{suffix}"))

    def _node(self, kind: str, source: str, output: str, name: str, **attributes: int) -> None:
        from onnx import helper

        inputs = [source, f"{name}_scale", f"{name}_zero"]
        self.nodes.append(helper.make_node(kind, inputs, [output], f"{kind}_{name}", **attributes))


def weight_scales(kernel: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the int8 step of each output channel, (out,) float32, of a kernel (out, in, h, w)."""
    return round_scales(np.abs(kernel).max(axis=(1, 2, 3)) / LEVELS)


def round_scales(scales: NDArray[np.floating]) -> NDArray[np.float32]:
    """Round scales to FP16, so that ``int8`` and ``int8+fp16`` graphs hold the same integers; zero becomes 1."""
    rounded = np.asarray(scales).astype(np.float16).astype(np.float32)
    return np.where(rounded > 0, rounded, np.float32(1))


def _shared_scales(placement: Placement, ranges: Mapping[str, float]) -> dict[str, np.float32]:
    """Return each tensor's scale, from the widest range among the tensors that overlapping sets connect it to."""
    widest = {name: ranges[name] for name in placement.tensors}
    for _ in placement.shared:  # a range may have to pass from set to set through all of them
        for names in placement.shared:
            widest.update(dict.fromkeys(names, max(widest[name] for name in names)))
    scales = round_scales(np.array([value / LEVELS for value in widest.values()]))
    return dict(zip(widest, scales, strict=True))
