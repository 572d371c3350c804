"""Read which tensors a bundle's INT8 graph quantises, so that quantisation-aware training can imitate it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..bundle.bundle import Bundle, open_bundle
from ..bundle.manifest import CALIBRATION, CHECKPOINT
from ..bundle.tasks import POSE
from ..core.errors import UsageError, missing_extra
from ..models.checkpoint import ModelSpec, load_pretrained, load_weights
from .calibration import read_calibration
from .module_names import module_of
from .quantise import place, quantisable, quantise

if TYPE_CHECKING:
    import onnx


def read_quantisation(folder: Path, spec: ModelSpec, weights: Path | None = None) -> Quantisation:
    """Return what a bundle's ``pose.int8.onnx`` quantises, with the ranges of the bundle's calibration.

    A calibration is valid only for the graph it was made on, so export and calibrate again after training. A few
    epochs at a low learning rate hardly change the ranges.

    Args:
        folder: the bundle.
        spec: the network that is trained; it must be the bundle's.
        weights: checkpoint that training starts from; it must hold the bundle's weights. None skips this check.

    Raises:
        UsageError: the bundle or its calibration cannot be used, or it holds another network or other weights.
    """
    try:
        import onnx
    except ImportError as error:
        raise missing_extra("onnx") from error
    bundle = open_bundle(folder)
    _require_model(bundle, spec)
    if CALIBRATION not in bundle.manifest.files:
        raise UsageError(f"bundle {folder} has no calibration: make one with edgepose calibrate {folder} --images DIR")
    ranges = read_calibration(bundle.path / CALIBRATION, bundle.graph).ranges
    if weights is not None:
        _require_weights(bundle, spec, weights)
    model = onnx.load(bundle.graph)
    placement = place(model, [node.name for node in quantisable(model)])
    return quantisation_of(quantise(model, placement, ranges))


def quantisation_of(model: onnx.ModelProto) -> Quantisation:
    """Return what a Q/DQ graph with float32 scales quantises; raise UsageError if its nodes have no module paths."""
    from onnx import numpy_helper

    constants = {value.name: value for value in model.graph.initializer}
    sources = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    kernels, activations = set[str](), dict[str, tuple[str, float]]()
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in constants:
            kernels.add(node.output[0])
        elif node.op_type == "DequantizeLinear":
            scale = float(numpy_helper.to_array(constants[node.input[1]]))
            activations[node.output[0]] = sources[node.input[0]], scale
    convolutions, reads = [], dict[str, list[tuple[Operation, int]]]()
    for node, operation in _operations(model):
        if operation.kind == "Conv" and node.input[1] in kernels:
            convolutions.append(operation)
        for operand, name in enumerate(node.input):
            if name in activations:
                reads.setdefault(name, []).append((operation, operand))
    tensors = (QuantisedTensor(*activations[name], tuple(readers)) for name, readers in reads.items())
    return Quantisation(tuple(convolutions), tuple(tensors))


def _operations(model: onnx.ModelProto) -> list[tuple[onnx.NodeProto, Operation]]:
    """Pair every node except Q/DQ nodes with its operation."""
    nodes = [node for node in model.graph.node if node.op_type not in ("QuantizeLinear", "DequantizeLinear")]
    if not any(module_of(node) for node in nodes):
        raise UsageError("the graph's nodes have no module paths: export and calibrate the bundle again")
    places = [(node.op_type, module_of(node)) for node in nodes]
    return [
        (node, Operation(*place_, places[:i].count(place_), places.count(place_)))
        for i, (node, place_) in enumerate(zip(nodes, places, strict=True))
    ]


def _require_model(bundle: Bundle, spec: ModelSpec) -> None:
    bundle.require(POSE)
    of_bundle = ModelSpec.of(bundle.manifest)
    if of_bundle != spec:
        raise UsageError(
            f"the recipe trains {_describe(spec)}, bundle {bundle.path} holds {_describe(of_bundle)}: give a bundle of "
            "the recipe's network, or the recipe of the bundle's"
        )


def _describe(spec: ModelSpec) -> str:
    options = "".join(f" {name}={value}" for name, value in spec.options.items())
    return f"{spec.model}{options} for {spec.skeleton} at {spec.input_size[0]}x{spec.input_size[1]}"


def _require_weights(bundle: Bundle, spec: ModelSpec, weights: Path) -> None:
    given, calibrated = spec.build(), spec.build()
    load_pretrained(given, weights)
    load_weights(calibrated, bundle.path / CHECKPOINT)
    wanted = calibrated.state_dict()
    floats = {name: value for name, value in given.state_dict().items() if value.is_floating_point()}
    if not all(bool((value == wanted[name]).all()) for name, value in floats.items()):
        raise UsageError(
            f"{weights} holds other weights than bundle {bundle.path} was calibrated with: give --weights "
            f"{bundle.path / CHECKPOINT}, or export and calibrate these"
        )


@dataclass(frozen=True)
class Operation:
    """One operation of a network, identified in the same way in an ONNX graph and in PyTorch.

    Attributes:
        kind: its ONNX type: ``Conv``, ``Add``, ``Resize`` or ``Concat``.
        module: path of the layer, or of the module with a ``forward`` that computes the operation.
        index: number among the module's operations of this kind, from 0, in execution order.
        count: number of the module's operations of this kind.
    """

    kind: str
    module: str
    index: int = 0
    count: int = 1

    def __str__(self) -> str:
        return f"{self.kind} {self.index + 1} of {self.count} in module {self.module!r}"


@dataclass(frozen=True)
class QuantisedTensor:
    """An activation, its int8 step, and the operations that read it through its Q/DQ pair.

    Each operation is paired with the index of the operand that is this tensor.
    """

    name: str
    scale: float
    reads: tuple[tuple[Operation, int], ...]


@dataclass(frozen=True)
class Quantisation:
    """The convolutions with int8 kernels, and the activations that a Q/DQ graph quantises."""

    convolutions: tuple[Operation, ...]
    tensors: tuple[QuantisedTensor, ...]

    @property
    def digest(self) -> str:
        """SHA-256 of everything above, hexadecimal: differs between different quantisations."""
        return hashlib.sha256(repr(self).encode()).hexdigest()
