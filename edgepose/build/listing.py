"""Reads which precisions TensorRT chose from its layer listing, the same text in the build log and from the inspector.

One line a layer, in two dialects; TensorRT before 10.14 or so joins format and datatype::

    Name: conv1, LayerType: correlation, Inputs: [ { Name: x, ..., Datatype: Float, Format: ... }], Constants: [...],
        Outputs: [ { Name: y, ..., Datatype: Float, Format: ... }], TacticName: ..., StreamId: 0, Metadata: ...
    Name: conv1, LayerType: CaskConvolution, Inputs: [ { Name: x, ..., Format/Datatype: Row major linear FP32 }],
        Outputs: [ { ... } ], ParameterType: Convolution, ..., TacticName: ...

Where a shape is not known yet, the second dialect says ``Format/Datatype: N/A due to dynamic shapes``. The metadata
name the ONNX nodes of a layer, ``[ONNX Layer: conv1][ONNX Layer: ...]``, as those of a network's layers do before the
build.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..bundle.engine_record import EngineLayer
from ..core.errors import CheckError

#: TensorRT's words for a datatype, lower case.
_DATATYPES = {
    "float": "float32",
    "fp32": "float32",
    "half": "float16",
    "fp16": "float16",
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
    "fp8": "float8",
    "fp4": "float4",
    "int4": "int4",
    "int8": "int8",
    "uint8": "uint8",
    "int32": "int32",
    "int64": "int64",
    "bool": "bool",
}
_LAYER = re.compile(r"Name: (?P<name>.*?), LayerType: (?P<kind>.*?), Inputs: (?P<inputs>.*?), Outputs: (?P<outputs>.*)")
_DATATYPE = re.compile(r"Datatype: ([^,}\]]+)")
_WORD = re.compile(rf"\b({'|'.join(_DATATYPES)})\b", re.IGNORECASE)

#: In place of a datatype that TensorRT does not tell.
UNKNOWN = "unknown"

#: Pixels, indices and masks, which any layer may read and write.
_INDICES = frozenset({"uint8", "int32", "int64", "bool"})
#: What else layers may read and write in an engine of each precision: first what some must compute in.
_DATATYPES_OF = {
    "fp32": (("float32",), ()),
    "fp16": (("float16",), ("float32",)),
    "bf16": (("bfloat16",), ("float32",)),
    "int8": (("int8",), ("float32",)),
    "int8+fp16": (("int8", "float16"), ("float32",)),
    "mixed": ((), ("int8", "float16", "bfloat16", "float32")),
}
#: Bits of what a convolution may compute in.
_BITS = {"float32": 32, "float16": 16, "bfloat16": 16, "float8": 8, "int8": 8}
#: The kinds of layers that compute convolutions; what else carries a convolution's name moves or quantises its data.
_CONVOLUTION = re.compile(r"correlation|conv|gemm|fusion", re.IGNORECASE)
#: A region whose listing tells what goes in and out, and not what its insides compute in.
_REGION = "Myelin"


def read_layers(text: str) -> tuple[EngineLayer, ...]:
    """Every layer of a listing, in order; lines that are not layers are passed over."""
    # Not splitlines: TensorRT puts \x1e between the nodes of a layer, which is the end of a line to that.
    matches = (_LAYER.match(line.strip()) for line in text.split("\n"))
    return tuple(
        EngineLayer(
            match["name"],
            match["kind"],
            _datatypes(match["inputs"]),
            _datatypes(_ports(match["outputs"])),
            onnx_nodes(match["outputs"].rpartition("Metadata: ")[2]),
        )
        for match in matches
        if match
    )


def onnx_nodes(metadata: str) -> tuple[str, ...]:
    """Names of the ONNX nodes in a layer's metadata.

    >>> onnx_nodes("[ONNX Layer: conv1]\\x1e[ONNX Layer: relu[0]]")
    ('conv1', 'relu[0]')
    """
    return tuple(part.rstrip("\x1e\x1f ").removesuffix("]") for part in metadata.split("[ONNX Layer: ")[1:])


def find_listing(messages: Iterable[str]) -> str:
    """The last message of a verbose build log that lists layers, or an empty string."""
    return next((text for text in reversed(list(messages)) if ", LayerType: " in text), "")


def count_datatypes(layers: Iterable[EngineLayer]) -> dict[str, int]:
    """By datatype, the number of layers that read or write it; most frequent first."""
    counts = Counter(datatype for layer in layers for datatype in {*layer.reads, *layer.writes})
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def asked_convolutions(trt: Any, network: Any) -> dict[str, str]:
    """By ONNX node, what the convolutions of a parsed network compute in.

    That is the datatype of the data they read, or ``int8`` where data and weights both come from a DequantizeLinear.
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
    """By ONNX node, what the convolutions of an engine compute in: the narrowest datatype that their layer reads.

    Constants of a layer, such as scales, are wider than what it multiplies. :data:`UNKNOWN` for a node that no layer
    names, or one with untold datatypes.
    """
    naming: dict[str, list[EngineLayer]] = {name: [] for name in asked}
    for layer in layers:
        for name in naming.keys() & set(layer.nodes):
            naming[name].append(layer)
    return {name: _computes_in(found) for name, found in naming.items()}


def count_convolutions(datatypes: Mapping[str, str]) -> dict[str, int]:
    """By datatype, the number of convolutions; most frequent first."""
    return dict(sorted(Counter(datatypes.values()).items(), key=lambda item: (-item[1], item[0])))


def check_graph(asked: Mapping[str, str], precision: str, graph: Path) -> None:
    """Refuse a graph whose convolutions are not in the precision that its name says; one without any passes.

    Raises:
        CheckError: names the datatype that none of them computes in.
    """
    required, _ = _DATATYPES_OF[precision]
    missing = [datatype for datatype in required if datatype not in asked.values()]
    if missing and asked and precision != "fp32":  # an FP32 graph is checked by what is built: every layer
        counts = ", ".join(f"{count} in {datatype}" for datatype, count in count_convolutions(asked).items())
        raise CheckError(
            f"{precision} was asked for, but no convolution of {graph} is in {missing[0]} ({counts}): make the graph "
            "again"
        )


def check_precision(layers: Iterable[EngineLayer], precision: str) -> None:
    """Refuse an engine with a layer whose datatypes are foreign to the precision that was asked for.

    Layers of unknown datatypes pass: networks are strongly typed, and this check is only a second look.

    Raises:
        CheckError: no layer computes in it, or one reads or writes a datatype of another; names the first such layer.
    """
    required, allowed = _DATATYPES_OF[precision]
    layers = tuple(layers)
    for layer in layers:
        others = sorted({*layer.reads, *layer.writes} - {*required, *allowed, UNKNOWN} - _INDICES)
        if others:
            raise CheckError(f"{precision} was asked for, but layer {layer.name} ({layer.kind}) is in {others[0]}")
    for datatype in required:
        if not any({datatype, UNKNOWN} & {*layer.writes} for layer in layers):
            raise CheckError(
                f"{precision} was asked for, but none of the {len(layers)} layers listed computes in {datatype}"
            )


def check_convolutions(asked: Mapping[str, str], chosen: Mapping[str, str], precision: str) -> None:
    """Refuse an engine with a convolution that computes in more bits than its graph says; unknown ones pass.

    Raises:
        CheckError: says how many, and names the first.
    """
    wider = [name for name, got in chosen.items() if _BITS.get(got, 0) > _BITS.get(asked[name], 0)]
    if wider:
        name = wider[0]
        raise CheckError(
            f"{precision} was asked for, but TensorRT built {len(wider)} of {len(asked)} convolutions wider than the "
            f"graph: {name} is in {chosen[name]}, expected {asked[name]}: leave it in {chosen[name]} in the graph, too"
        )


def _computes_in(layers: list[EngineLayer]) -> str:
    layers = [layer for layer in layers if _CONVOLUTION.search(layer.kind)] or layers
    read = {datatype for layer in layers if layer.kind != _REGION for datatype in layer.reads}
    return min(read & _BITS.keys(), key=lambda datatype: (_BITS[datatype], datatype), default=UNKNOWN)


def _ports(outputs: str) -> str:
    """Cut what follows the outputs: parameters of a layer may name datatypes too."""
    return re.split(r"\], (?:ParameterType|TacticName): ", outputs, maxsplit=1)[0]


def _datatypes(ports: str) -> tuple[str, ...]:
    return tuple(sorted({_datatype(text.strip()) for text in _DATATYPE.findall(ports)}))


def _datatype(text: str) -> str:
    """A datatype, or a format that names one, in NumPy's words; another word stays as it is and passes no check."""
    if text.startswith("N/A"):
        return UNKNOWN
    match = _WORD.search(text)
    return _DATATYPES[match[1].lower()] if match else text
