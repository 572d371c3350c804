"""Convert an FP32 graph to FP16 or BF16 with explicit casts.

Nodes between the first convolution and the last ones compute in 16 bit. The rest stays FP32: normalisation of the
uint8 crops, the last convolutions, decoding of keypoints or boxes, means over whole maps (sums of thousands of
values), and every node with a value near the end of FP16's range. The graph's inputs and outputs do not change.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..bundle.contract import HEATMAPS
from ..core.errors import UsageError
from ..plugins.onnx_function import OPSET
from .module_names import module_of
from .probe import leading_to

if TYPE_CHECKING:
    import onnx

#: FP16's largest finite number.
FP16_MAX = 65504.0
#: Values are safe up to FP16_MAX / HEADROOM: other crops may cause larger values than those that were scanned.
HEADROOM = 4.0
#: Ops that stay FP32: they sum or exponentiate over many values.
FP32_OPS = frozenset({"ReduceMean", "ReduceSum", "GlobalAveragePool", "Softmax", "LogSoftmax", "Exp", "Pow", "Div"})
#: Ops that TensorRT-RTX 1.7 cannot build in BF16 ("Could not infer output types").
_NOT_IN_BF16 = frozenset({"ConvTranspose"})
#: Indices of inputs that ONNX requires as float32 for any tensor type: Resize's regions and scales.
_FLOAT32_INPUTS = {"Resize": (1, 2)}
#: First opset with BF16 convolutions, and first with 16-bit scales of Q/DQ pairs.
_BF16_OPSET, _QDQ_OPSET = 22, 19


@dataclass(frozen=True)
class Unsafe:
    """A node with a value that FP16 cannot hold safely.

    Attributes:
        node: ONNX name of the node.
        module: path of its PyTorch module, or an empty string.
        tensor: the input or output that is too large.
        largest: the tensor's largest absolute value; infinite if it has values that are not finite.
    """

    node: str
    module: str
    tensor: str
    largest: float

    def __str__(self) -> str:
        where = f" (module {self.module})" if self.module else ""
        return f"{self.node}{where} stays FP32: {self.tensor} reaches {self.largest:.3g}"


def unsafe_nodes(model: onnx.ModelProto, largest: Mapping[str, float]) -> list[Unsafe]:
    """Return the network's nodes that have an input, output or weight outside of FP16's safe range.

    Args:
        model: an FP32 graph.
        largest: tensor name to its largest absolute value over real crops; infinite if values were not finite.
    """
    from onnx import TensorProto, numpy_helper

    limit = FP16_MAX / HEADROOM
    weights = {w.name: numpy_helper.to_array(w) for w in model.graph.initializer if w.data_type == TensorProto.FLOAT}
    values = {**{name: float(np.abs(array).max(initial=0.0)) for name, array in weights.items()}, **largest}
    found = []
    for node in network_nodes(model):
        worst = max((*node.input, *node.output), key=lambda name: values.get(name, 0.0))
        if not values.get(worst, 0.0) <= limit:
            found.append(Unsafe(node.name, module_of(node), worst, values[worst]))
    return found


def to_16_bit(model: onnx.ModelProto, precision: str, keep: Collection[str] = ()) -> onnx.ModelProto:
    """Return a copy of a graph that computes its network in FP16 or BF16.

    Args:
        model: an FP32 graph that keeps the graph contract; scales of its Q/DQ pairs become 16-bit too.
        precision: ``fp16`` or ``bf16``.
        keep: names of nodes that stay FP32.

    Raises:
        UsageError: no convolution of the graph leads to an output, it is in 16 bit already, or its opset is too old.
    """
    import onnx

    require_opset(model)
    copy = deepcopy(model)
    kinds = {value.data_type for value in copy.graph.initializer}
    if kinds & {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}:
        raise UsageError("the graph is in 16 bit already: give the FP32 graph, pose.onnx")
    nodes = network_nodes(copy)
    if not nodes:
        raise UsageError("no convolution of the graph leads to an output: export the bundle again")
    if precision == "bf16":
        raise_opset(copy, _BF16_OPSET)
    elif any(node.op_type == "DequantizeLinear" for node in nodes):
        raise_opset(copy, _QDQ_OPSET)
    keep = {*keep, *_last_nodes(nodes, _ends(copy))}
    fp32_ops = FP32_OPS | (_NOT_IN_BF16 if precision == "bf16" else frozenset())
    half = {node.name for node in nodes if node.name not in keep and node.op_type not in fp32_ops}
    _Retyping(copy, precision, half - _pairs_of_others(nodes, half)).apply()
    onnx.checker.check_model(copy, full_check=True)
    return copy


def _ends(model: onnx.ModelProto) -> set[str]:
    """Return the tensors at which a network ends: the heat-maps, or else the graph's outputs, as for a detector."""
    outputs = {value.name for value in model.graph.output}
    return {HEATMAPS} if HEATMAPS in outputs else outputs


def _last_nodes(nodes: list[onnx.NodeProto], ends: set[str]) -> set[str]:
    """Return the names of the last convolutions and of the nodes after them.

    In 16 bit they would save hardly any time, and rounded heat-maps could exchange two peaks of almost equal height.
    """
    wanted, found = set(ends), set[str]()
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            found.add(node.name)
            if node.op_type != "Conv":
                wanted.update(node.input)
    return found


def _pairs_of_others(nodes: list[onnx.NodeProto], half: set[str]) -> set[str]:
    """Return the names of Q/DQ nodes next to FP32 nodes: a Cast between the two would keep engines from fusing them."""
    made_in_fp32 = {name for node in nodes if node.name not in half for name in node.output}
    read_in_fp32 = {name for node in nodes if node.name not in half for name in node.input}
    before = {node.name for node in nodes if node.op_type == "QuantizeLinear" and node.input[0] in made_in_fp32}
    after = {node.name for node in nodes if node.op_type == "DequantizeLinear" and node.output[0] in read_in_fp32}
    return before | after


def with_rounding(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return an FP32 copy of a :func:`to_16_bit` graph that rounds every tensor, to imitate FP16 on any backend.

    Backends without 16-bit arithmetic compute a 16-bit graph in FP32 and skip most roundings. A GPU's tensor cores sum
    in FP32 and round each result once, like this copy; fused kernels round less often.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper, shape_inference

    copy = deepcopy(model)
    kinds = {v.name: v.type.tensor_type.elem_type for v in shape_inference.infer_shapes(copy).graph.value_info}
    half = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
    for weight in copy.graph.initializer:
        if weight.data_type in half:
            weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float32), weight.name))
    nodes = []
    for node in copy.graph.node:
        nodes.append(node)
        for i, name in enumerate(node.output):
            if kinds.get(name) in half:
                node.output[i] = f"{name}_exact"
                if node.op_type == "Cast":
                    node.attribute[0].i = TensorProto.FLOAT
                nodes.append(helper.make_node("Cast", [f"{name}_exact"], [f"{name}_rounded"], to=kinds[name]))
                nodes.append(helper.make_node("Cast", [f"{name}_rounded"], [name], to=TensorProto.FLOAT))
    del copy.graph.node[:], copy.graph.value_info[:]
    copy.graph.node.extend(nodes)
    onnx.checker.check_model(copy, full_check=True)
    return copy


def network_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the nodes from the first convolutions to the network's ends, except those computed from constants only."""
    after: set[str] = set()
    for node in model.graph.node:
        if node.op_type == "Conv" or any(name in after for name in node.input):
            after.update(node.output)
    # The DequantizeLinear of a weight reads only constants, but belongs to its convolution.
    network = leading_to(model.graph.node, _ends(model))
    return [node for node in network if after.intersection(node.output) or node.op_type == "DequantizeLinear"]


def require_opset(model: onnx.ModelProto) -> None:
    """Raise UsageError if a graph's opset is older than the exported one: its ops may be defined differently."""
    version = next((opset.version for opset in model.opset_import if opset.domain == ""), 0)
    if version < OPSET:
        raise UsageError(f"the graph is of opset {version}, expected {OPSET} or later: export the bundle again")


def raise_opset(model: onnx.ModelProto, version: int) -> None:
    """Declare a newer opset, in place: the ops that edgepose exports are defined alike in opsets 18 to 22."""
    for holder in (model, *model.functions):
        for opset in holder.opset_import:
            if opset.domain == "":
                opset.version = max(opset.version, version)


def replace_nodes(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Give a graph other nodes, in place; weights that none of them reads are removed."""
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [weight for weight in graph.initializer if weight.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


class _Retyping:
    """Changes a graph's types in place: outputs of 16-bit nodes become 16-bit; Casts convert where types differ."""

    def __init__(self, model: onnx.ModelProto, precision: str, half: set[str]) -> None:
        from onnx import TensorProto, shape_inference

        self.graph, self.half_nodes = model.graph, half
        self.fp32 = TensorProto.FLOAT
        self.half = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}[precision]
        inferred = shape_inference.infer_shapes(model).graph
        values = [*inferred.value_info, *inferred.input, *inferred.output]
        floats = {v.name for v in values if v.type.tensor_type.elem_type == self.fp32}
        self.weights = {w.name: w for w in model.graph.initializer if w.data_type == self.fp32}
        #: Current type of every float tensor; all begin as float32.
        self.kinds = dict.fromkeys((*floats, *self.weights), self.fp32)
        self.nodes: list[onnx.NodeProto] = []
        self.names = {name for node in model.graph.node for name in (*node.input, *node.output)}
        self.casts: dict[tuple[str, int], str] = {}

    def apply(self) -> None:
        """Change the graph."""
        outputs = {value.name for value in self.graph.output}
        for node in self.graph.node:
            kind = self.half if node.name in self.half_nodes else self.fp32
            self._read(node, kind)
            self.nodes.append(node)
            if kind == self.half:
                self._write(node, outputs)
        del self.graph.value_info[:]
        replace_nodes(self.graph, self.nodes)

    def _read(self, node: onnx.NodeProto, kind: int) -> None:
        """Give a node its float inputs in the type it computes in."""
        for i, name in enumerate(node.input):
            wanted = self.fp32 if i in _FLOAT32_INPUTS.get(node.op_type, ()) else kind
            if name in self.kinds and self.kinds[name] != wanted and node.op_type != "Cast":
                node.input[i] = self._as(name, wanted)

    def _write(self, node: onnx.NodeProto, graph_outputs: set[str]) -> None:
        """Mark the outputs of a 16-bit node as 16-bit; an output of the graph is cast back to FP32."""
        for i, name in enumerate(node.output):
            if name in graph_outputs:
                node.output[i] = self._name(name, self.half)
                self.kinds[node.output[i]] = self.half
                self._cast(node.output[i], name, self.fp32)
                self.casts[name, self.half] = node.output[i]  # for nodes that read the output, such as bone maps
            elif name in self.kinds:
                self.kinds[name] = self.half

    def _as(self, name: str, kind: int) -> str:
        """Return the name of a tensor in another type: a weight is converted, other tensors get one Cast for all."""
        from onnx import helper, numpy_helper

        if (name, kind) not in self.casts:
            self.casts[name, kind] = converted = self._name(name, kind)
            if name in self.weights:
                values = numpy_helper.to_array(self.weights[name]).astype(helper.tensor_dtype_to_np_dtype(kind))
                self.graph.initializer.append(numpy_helper.from_array(values, converted))
            else:
                self._cast(name, converted, kind)
            self.kinds[converted] = kind
        return self.casts[name, kind]

    def _name(self, name: str, kind: int) -> str:
        """Return a name for a tensor in another type; PyTorch numbers tensors, and a 17th ``mean`` is ``mean_16``."""
        converted = f"{name}_{'16' if kind == self.half else '32'}"
        while converted in self.names:
            converted += "_"
        self.names.add(converted)
        return converted

    def _cast(self, name: str, result: str, kind: int) -> None:
        from onnx import helper

        self.nodes.append(helper.make_node("Cast", [name], [result], f"cast_{result}", to=kind))
