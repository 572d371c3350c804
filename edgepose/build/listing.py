"""Read the precisions that TensorRT chose from its layer listing, which the build log and the inspector contain.

The listing has one line per layer, in two dialects; TensorRT before about 10.14 joins format and datatype::

    Name: conv1, LayerType: correlation, Inputs: [ { Name: x, ..., Datatype: Float, Format: ... }], Constants: [...],
        Outputs: [ { Name: y, ..., Datatype: Float, Format: ... }], TacticName: ..., StreamId: 0, Metadata: ...
    Name: conv1, LayerType: CaskConvolution, Inputs: [ { Name: x, ..., Format/Datatype: Row major linear FP32 }],
        Outputs: [ { ... } ], ParameterType: Convolution, ..., TacticName: ...

For an unknown shape the second dialect has ``Format/Datatype: N/A due to dynamic shapes``. The metadata contain the
ONNX nodes of a layer, ``[ONNX Layer: conv1][ONNX Layer: ...]``, like the layers of a network before the build.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..bundle.engine_record import EngineLayer
from ..core.errors import CheckError

#: NumPy's names by TensorRT's names of datatypes, in lower case.
_DATATYPES = {name: name for name in ("int4", "int8", "uint8", "int32", "int64", "bool")} | {
    "float": "float32",
    "fp32": "float32",
    "half": "float16",
    "fp16": "float16",
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
    "fp8": "float8",
    "fp4": "float4",
}
_LAYER = re.compile(r"Name: (?P<name>.*?), LayerType: (?P<kind>.*?), Inputs: (?P<inputs>.*?), Outputs: (?P<outputs>.*)")
_DATATYPE = re.compile(r"Datatype: ([^,}\]]+)")
_WORD = re.compile(rf"\b({'|'.join(_DATATYPES)})\b", re.IGNORECASE)

#: The name for a datatype that TensorRT does not list.
UNKNOWN = "unknown"

#: Datatypes of pixels, indices and masks, which any layer may read and write.
_INDICES = frozenset({"uint8", "int32", "int64", "bool"})
#: For each precision, the datatypes in which some layers must compute, and the others that are allowed.
_DATATYPES_OF = {
    "fp32": (("float32",), ()),
    "fp16": (("float16",), ("float32",)),
    "bf16": (("bfloat16",), ("float32",)),
    "int8": (("int8",), ("float32",)),
    "int8+fp16": (("int8", "float16"), ("float32",)),
    "mixed": ((), ("int8", "float16", "bfloat16", "float32")),
}
#: Bits of the datatypes of convolutions.
_BITS = {"float32": 32, "float16": 16, "bfloat16": 16, "float8": 8, "int8": 8}
#: Kinds of layers that compute convolutions; other layers with a convolution's name move or quantise its data.
_CONVOLUTION = re.compile(r"correlation|conv|gemm|fusion", re.IGNORECASE)
#: A kind of layer that lists the datatypes of its inputs and outputs, but not those of its computations.
_REGION = "Myelin"


def read_layers(text: str) -> tuple[EngineLayer, ...]:
    """Return every layer of a listing, in order; other lines are ignored."""
    # Not splitlines, which would split at the \x1e between the nodes of a layer.
    matches = (_LAYER.match(line.strip()) for line in text.split("\n"))
    return tuple(
        EngineLayer(
            match["name"],
            match["kind"],
            _datatypes(match["inputs"]),
            # Without the parameters of the layer, which may contain datatypes too.
            _datatypes(re.split(r"\], (?:ParameterType|TacticName): ", match["outputs"], maxsplit=1)[0]),
            onnx_nodes(match["outputs"].rpartition("Metadata: ")[2]),
        )
        for match in matches
        if match
    )


def onnx_nodes(metadata: str) -> tuple[str, ...]:
    """Return the names of the ONNX nodes in a layer's metadata.

    >>> onnx_nodes("[ONNX Layer: conv1]\\x1e[ONNX Layer: relu[0]]")
    ('conv1', 'relu[0]')
    """
    return tuple(part.rstrip("\x1e\x1f ").removesuffix("]") for part in metadata.split("[ONNX Layer: ")[1:])


def find_listing(messages: Iterable[str]) -> str:
    """Return the last message of a verbose build log that lists layers, or an empty string."""
    return next((text for text in reversed(list(messages)) if ", LayerType: " in text), "")


def count_datatypes(layers: Iterable[EngineLayer]) -> dict[str, int]:
    """Return the number of layers that read or write each datatype, most frequent first."""
    counts = Counter(datatype for layer in layers for datatype in {*layer.reads, *layer.writes})
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def asked_convolutions(trt: Any, network: Any) -> dict[str, str]:
    """Return the datatype of each convolution of a parsed network, by ONNX node.

    It is the datatype of its input, or ``int8`` if input and weights both come from a DequantizeLinear.
    """
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    kinds = trt.LayerType
    dequantised = {layer.get_output(0).name for layer in layers if layer.type == kinds.DEQUANTIZE}
    asked = {}
    for layer in layers:
        if layer.type in (kinds.CONVOLUTION, kinds.DECONVOLUTION):
            inputs = [tensor for tensor in map(layer.get_input, range(layer.num_inputs)) if tensor is not None][:2]
            quantised = len(inputs) == 2 and all(tensor.name in dequantised for tensor in inputs)
            name = next(iter(onnx_nodes(layer.metadata)), layer.name)
            asked[name] = "int8" if quantised else _datatype(inputs[0].dtype.name)
    return asked


def chosen_convolutions(layers: Iterable[EngineLayer], asked: Iterable[str]) -> dict[str, str]:
    """Return the datatype of each convolution of an engine, by ONNX node: the narrowest that its layer reads.

    Constants of a layer, such as scales, are wider. It is :data:`UNKNOWN` for a node in no layer or without datatypes.
    """
    naming: dict[str, list[EngineLayer]] = {name: [] for name in asked}
    for layer in layers:
        for name in naming.keys() & set(layer.nodes):
            naming[name].append(layer)
    return {name: _computes_in(found) for name, found in naming.items()}


def count_convolutions(datatypes: Mapping[str, str]) -> dict[str, int]:
    """Return the number of convolutions in each datatype, most frequent first."""
    return dict(sorted(Counter(datatypes.values()).items(), key=lambda item: (-item[1], item[0])))


def check_graph(asked: Mapping[str, str], precision: str, graph: Path) -> None:
    """Raise CheckError if no convolution of a graph computes in its precision; a graph without convolutions passes."""
    required, _ = _DATATYPES_OF[precision]
    missing = [datatype for datatype in required if datatype not in asked.values()]
    if missing and asked and precision != "fp32":  # check_precision checks every layer of an FP32 engine
        counts = ", ".join(f"{count} in {datatype}" for datatype, count in count_convolutions(asked).items())
        raise CheckError(
            f"expected {precision}, no convolution of {graph} is in {missing[0]} ({counts}): make it again"
        )


def check_precision(layers: Iterable[EngineLayer], precision: str) -> None:
    """Raise CheckError if no layer computes in the precision, or if one has a datatype that the precision excludes.

    Layers of unknown datatypes pass: networks are strongly typed, so this check is only a safeguard.
    """
    required, allowed = _DATATYPES_OF[precision]
    layers = tuple(layers)
    for layer in layers:
        others = sorted({*layer.reads, *layer.writes} - {*required, *allowed, UNKNOWN} - _INDICES)
        if others:
            raise CheckError(f"expected {precision}, layer {layer.name} ({layer.kind}) is in {others[0]}")
    for datatype in required:
        if not any({datatype, UNKNOWN} & {*layer.writes} for layer in layers):
            raise CheckError(f"expected {precision}, none of the {len(layers)} listed layers computes in {datatype}")


def check_convolutions(asked: Mapping[str, str], chosen: Mapping[str, str], precision: str) -> None:
    """Raise CheckError if a convolution computes in more bits than in the graph; unknown ones pass."""
    wider = [name for name, got in chosen.items() if _BITS.get(got, 0) > _BITS.get(asked[name], 0)]
    if wider:
        name = wider[0]
        raise CheckError(
            f"expected {precision}, TensorRT built {len(wider)} of {len(asked)} convolutions wider than in the "
            f"graph: {name} is in {chosen[name]}, expected {asked[name]}: keep it in {chosen[name]} in the graph"
        )


def _computes_in(layers: list[EngineLayer]) -> str:
    layers = [layer for layer in layers if _CONVOLUTION.search(layer.kind)] or layers
    read = {datatype for layer in layers if layer.kind != _REGION for datatype in layer.reads}
    return min(read & _BITS.keys(), key=lambda datatype: (_BITS[datatype], datatype), default=UNKNOWN)


def _datatypes(ports: str) -> tuple[str, ...]:
    return tuple(sorted({_datatype(text.strip()) for text in _DATATYPE.findall(ports)}))


def _datatype(text: str) -> str:
    """Return NumPy's name for the datatype in a text; an unknown text is returned as it is, and fails the checks."""
    if text.startswith("N/A"):
        return UNKNOWN
    match = _WORD.search(text)
    return _DATATYPES[match[1].lower()] if match else text
