"""Reads which precisions TensorRT chose from its layer listing, the same text in the build log and from the inspector.

One line a layer, in two dialects; TensorRT before 10.14 or so joins format and datatype::

    Name: conv1, LayerType: correlation, Inputs: [ { Name: x, ..., Datatype: Float, Format: ... }], Constants: [...],
        Outputs: [ { Name: y, ..., Datatype: Float, Format: ... }], TacticName: ..., StreamId: 0, Metadata: ...
    Name: conv1, LayerType: CaskConvolution, Inputs: [ { Name: x, ..., Format/Datatype: Row major linear FP32 }],
        Outputs: [ { ... } ], ParameterType: Convolution, ..., TacticName: ...

Where a shape is not known yet, the second dialect says ``Format/Datatype: N/A due to dynamic shapes``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from ..engines import EngineLayer
from ..errors import CheckError

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

#: What a layer of each precision may read and write beside the float type itself: pixels, indices and masks.
_INDICES = frozenset({"uint8", "int32", "int64", "bool"})
_FLOATS = {"fp32": "float32"}


def read_layers(text: str) -> tuple[EngineLayer, ...]:
    """Every layer of a listing, in order; lines that are not layers are passed over."""
    matches = (_LAYER.match(line.strip()) for line in text.splitlines())
    return tuple(
        EngineLayer(match["name"], match["kind"], _datatypes(match["inputs"]), _datatypes(_ports(match["outputs"])))
        for match in matches
        if match
    )


def find_listing(messages: Iterable[str]) -> str:
    """The last message of a verbose build log that lists layers, or an empty string."""
    return next((text for text in reversed(list(messages)) if ", LayerType: " in text), "")


def count_datatypes(layers: Iterable[EngineLayer]) -> dict[str, int]:
    """By datatype, the number of layers that read or write it; most frequent first."""
    counts = Counter(datatype for layer in layers for datatype in {*layer.reads, *layer.writes})
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def check_precision(layers: Iterable[EngineLayer], precision: str) -> None:
    """Refuse an engine whose layers are not in the precision that was asked for.

    Layers of unknown datatypes pass: networks are strongly typed, and this check is only a second look.

    Raises:
        CheckError: no layer computes in it, or one reads or writes another float type; names the first such layer.
    """
    asked = _FLOATS[precision]
    layers = tuple(layers)
    for layer in layers:
        others = sorted({*layer.reads, *layer.writes} - {asked, UNKNOWN} - _INDICES)
        if others:
            raise CheckError(f"{precision} was asked for, but layer {layer.name} ({layer.kind}) is in {others[0]}")
    if not any({asked, UNKNOWN} & {*layer.writes} for layer in layers):
        raise CheckError(f"{precision} was asked for, but none of the {len(layers)} layers listed computes in {asked}")


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
