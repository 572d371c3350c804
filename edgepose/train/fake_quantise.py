"""Imitate a network's INT8 graph in PyTorch, for quantisation-aware training.

Inputs and kernels of convolutions are rounded to int8 and back (fake quantisation: Jacob et al., Quantization and
Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, CVPR 2018), so the rounding enters the
loss and the weights adapt to it. The gradient passes through the rounding as if it were not there (the straight-through
estimator of Bengio et al. 2013), and is zero where a value is outside of the range.

Which tensors are rounded is not decided here: a :class:`Quantisation` is read from the Q/DQ graph itself
(:mod:`edgepose.graphs.read_quantisation`), operation by operation, so residual operands, inputs of a Resize and shared
scales are treated as in that graph. The network is traced (``torch.fx``) and the roundings are put before the same
operations.
"""

from __future__ import annotations

import copy
import operator
from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from ..core.errors import UsageError
from ..graphs.read_quantisation import Operation, Quantisation
from ..models.layers import Heads
from ..plugins.torch_op import DynamicDepthwiseConv2d

#: int8 levels of a kernel are -127..127. Those of an activation begin at -128, where QuantizeLinear saturates.
LEVELS, LOWEST = 127, -128

_FUNCTIONS = {
    F.conv2d: "Conv",
    operator.add: "Add",
    torch.add: "Add",
    F.interpolate: "Resize",
    torch.cat: "Concat",
}
_MODULES: dict[type[nn.Module], str] = {nn.Conv2d: "Conv", nn.Upsample: "Resize"}


class FakeQuantised(nn.Module):
    """A network with the rounding of its INT8 graph; the weights are the network's own, and stay float32.

    Batch norms are frozen: in train mode, too, they use and keep their running statistics. The graph has them folded
    into its kernels, and the ranges of the activations were collected with them; the statistics of a
    small batch would make it another network than the exported one. Their weights and biases are still trained.

    Args:
        network: a heat-map network on its final device; its batch norms are put into eval mode.
        quantisation: read from a graph that was exported from such a network.

    Raises:
        UsageError: the quantisation names operations that the network does not have.
    """

    def __init__(self, network: nn.Module, quantisation: Quantisation) -> None:
        super().__init__()
        # Traced in train mode, for all heads, and on a copy, whose mode may change.
        graph = _Tracer().trace(copy.deepcopy(network).train())
        _insert(graph, network, quantisation)
        graph.lint()
        self.graph = fx.GraphModule(network, graph)
        self.train(network.training)

    def forward(self, images: Tensor) -> Tensor | Heads:
        """Map normalised (N, 3, H, W) to heat-maps (N, J, H/4, W/4) in eval mode, :class:`Heads` in train mode."""
        heads = self.graph(images)
        return heads if self.training else heads.joints

    def train(self, mode: bool = True) -> FakeQuantised:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self


def fake_quantise(x: Tensor, scale: float) -> Tensor:
    """Round an activation to int8 and back, in float32 under autocast, too: bfloat16 cannot hold 127 levels."""
    return torch.fake_quantize_per_tensor_affine(x.float(), scale, 0, LOWEST, LEVELS)


def fake_quantise_kernel(kernel: Tensor, factor: Tensor | None = None) -> Tensor:
    """Round a kernel (out, in, h, w) to int8 and back, with a scale per output channel.

    The graph quantises ``factor * kernel``, with the batch norm folded in. Symmetric rounding with a scale per channel
    commutes with a factor per channel, also a negative one: ``round(f w / (f s)) f s = f (round(w / s) s)``. Rounding
    the scales to FP16 does not commute; so the folded scale is rounded, as in
    :func:`edgepose.graphs.quantise.weight_scales`, and then divided by the factor.

    ``factor`` (out,) is the magnitude of the factor of the batch norm behind it; None if there is none.
    """
    kernel = kernel.float()
    with torch.no_grad():
        largest = kernel.abs().amax(dim=(1, 2, 3))
        scale = ((largest if factor is None else largest * factor) / LEVELS).half().float()
        scale = torch.where(scale > 0, scale, 1.0)
        if factor is not None:
            scale = scale / factor.clamp_min(torch.finfo(torch.float32).tiny)
        zeros = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(kernel, scale, zeros, 0, -LEVELS, LEVELS)


def folding_factor(weight: Tensor, variance: Tensor, eps: float) -> Tensor:
    """Return (C,) the magnitude of the factor by which a batch norm in eval mode multiplies its input."""
    with torch.no_grad():
        return weight.abs() / torch.sqrt(variance + eps)


class _Tracer(fx.Tracer):
    # Look up the network's constants when it runs, on the device that it is on then.
    proxy_buffer_attributes = True

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, DynamicDepthwiseConv2d) or super().is_leaf_module(m, module_qualified_name)


def _insert(graph: fx.Graph, network: nn.Module, quantisation: Quantisation) -> None:
    """Insert every rounding into the graph of a network."""
    nodes = _operations(graph, network)
    for tensor in quantisation.tensors:
        reads = [(_find(nodes, operation), operand) for operation, operand in tensor.reads]
        sources = {_source(_operands(node)[operand], network) for node, operand in reads}
        if len(sources) > 1:
            raise _foreign(tensor.reads[0][0])
        (source,) = sources
        with graph.inserting_after(source):
            arguments = (source, tensor.scale)
            quantised = graph.create_node("call_function", fake_quantise, arguments, name=f"{tensor.name}_int8")
        for node, operand in reads:
            _replace_operand(node, operand, quantised)
    for operation in quantisation.convolutions:
        _insert_kernel(graph, network, _find(nodes, operation))


def _insert_kernel(graph: fx.Graph, network: nn.Module, node: fx.Node) -> None:
    """Make a convolution use its rounded kernel."""
    with graph.inserting_before(node):
        if node.op == "call_function":
            node.update_arg(1, graph.call_function(fake_quantise_kernel, (node.args[1],)))
            return
        layer = network.get_submodule(str(node.target))
        assert isinstance(layer, nn.Conv2d)
        kernel = graph.get_attr(f"{node.target}.weight")
        bias = None if layer.bias is None else graph.get_attr(f"{node.target}.bias")
        kernel = graph.call_function(fake_quantise_kernel, (kernel, _factor(graph, network, node)))
        options = (layer.stride, layer.padding, layer.dilation, layer.groups)
        node.replace_all_uses_with(graph.call_function(F.conv2d, (node.args[0], kernel, bias, *options)))
    graph.erase_node(node)


def _factor(graph: fx.Graph, network: nn.Module, node: fx.Node) -> fx.Node | None:
    """Return the factor of the batch norm that an export folds into a convolution, or None."""
    users = list(node.users)
    norm = _module(users[0], network) if len(users) == 1 else None
    if not isinstance(norm, nn.BatchNorm2d):
        return None
    weight, variance = (graph.get_attr(f"{users[0].target}.{name}") for name in ("weight", "running_var"))
    return graph.call_function(folding_factor, (weight, variance, norm.eps))


def _operations(graph: fx.Graph, network: nn.Module) -> dict[Operation, fx.Node]:
    """Map what a :class:`Quantisation` can name to the nodes."""
    places = {node: (kind, _path(node)) for node in graph.nodes if (kind := _kind(node, network))}
    counts, seen = Counter(places.values()), Counter[tuple[str, str]]()
    found = {}
    for node, place in places.items():
        found[Operation(*place, seen[place], counts[place])] = node
        seen[place] += 1
    return found


def _kind(node: fx.Node, network: nn.Module) -> str | None:
    if node.op == "call_function":
        return next((kind for function, kind in _FUNCTIONS.items() if node.target is function), None)
    return _MODULES.get(type(_module(node, network)))


def _path(node: fx.Node) -> str:
    """Return the path of a layer, or of the module whose ``forward`` calls a function."""
    if node.op == "call_module":
        return str(node.target)
    return next(reversed(node.meta.get("nn_module_stack") or {"": None}))


def _module(node: fx.Node, network: nn.Module) -> nn.Module | None:
    return network.get_submodule(str(node.target)) if node.op == "call_module" else None


def _source(node: fx.Node, network: nn.Module) -> fx.Node:
    """Return the node that computes a tensor, in front of identity layers."""
    while isinstance(_module(node, network), nn.Identity):
        node = node.all_input_nodes[0]
    return node


def _operands(node: fx.Node) -> list[fx.Node]:
    """Return the tensors that an operation reads, in ONNX's order."""
    first = node.args[0]
    return list(first) if isinstance(first, list | tuple) else list(node.args)  # type: ignore[arg-type]


def _replace_operand(node: fx.Node, operand: int, value: fx.Node) -> None:
    first = node.args[0]
    if isinstance(first, list | tuple):
        node.update_arg(0, [*first[:operand], value, *first[operand + 1 :]])
    else:
        node.update_arg(operand, value)


def _find(nodes: Mapping[Operation, fx.Node], operation: Operation) -> fx.Node:
    if operation not in nodes:
        raise _foreign(operation)
    return nodes[operation]


def _foreign(operation: Operation) -> UsageError:
    return UsageError(
        f"the INT8 graph quantises {operation}, which the network does not have there: export and calibrate the "
        "bundle again"
    )
