"""Refuse ONNX files that keep weights in other files, which are not hashed and get lost when a bundle is copied.

The file is parsed by hand, because the runtime works without ``onnx``. In protobuf's wire format a field is a key (its
number and the layout of its value) and the value; fields that cannot hold a tensor are skipped. Field numbers are those
of ``onnx.proto`` (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
"""

from __future__ import annotations

import mmap
from pathlib import Path

from ..core.errors import UsageError

#: For each message, the fields that lead to tensors, and the message that each of them holds.
_LEADS_TO = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
#: Fields of a tensor: ``external_data``, file and offset, and ``data_location``, which is 1 for external data.
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
#: Layouts of a value, and the number of bytes of those with a fixed length.
_VARINT, _BY_LENGTH, _GROUP, _END_OF_GROUP = 0, 2, 3, 4
_FIXED = {1: 8, 5: 4}


def refuse_external_data(graph: Path) -> None:
    """Refuse an ONNX file that keeps a tensor in another file; a file that is not ONNX passes and fails to load later.

    Raises:
        UsageError: a tensor is in another file, or the file cannot be read.
    """
    try:
        with graph.open("rb") as file:
            if graph.stat().st_size == 0:
                return
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                external = has_external_data(data)
    except OSError as error:
        raise UsageError(f"cannot read {graph}: {error.strerror}") from error
    if external:
        raise UsageError(
            f"{graph} keeps weights in other files, expected all in one file: put them into it with "
            f"python -c \"import onnx; onnx.save(onnx.load('{graph.name}'), 'whole.onnx')\""
        )


def has_external_data(data: bytes | mmap.mmap) -> bool:
    """Return whether a serialised model keeps a tensor in another file; False for anything else.

    Every tensor counts: initialisers, sparse ones too, and those in attributes, subgraphs and functions.
    """
    # External data must have the key "location"; most models do not contain these bytes at all.
    if data.find(b"location") < 0:
        return False
    messages = [("model", 0, len(data))]
    while messages:
        kind, position, end = messages.pop()
        try:
            while position < end:
                number, layout, start, position = _next_field(data, position, end)
                located = number == _DATA_LOCATION and any(data[start:position])
                if kind == "tensor" and (number == _EXTERNAL_DATA or located):
                    return True
                if layout == _BY_LENGTH and number in _LEADS_TO[kind]:
                    messages.append((_LEADS_TO[kind][number], start, position))
        except ValueError:  # these bytes are not a message; the other candidates may be
            continue
    return False


def _next_field(data: bytes | mmap.mmap, position: int, end: int) -> tuple[int, int, int, int]:
    """Return (number, layout, start, stop) of the field at a position; raise ValueError if no whole field is there."""
    key, start = _read_varint(data, position, end)
    number, layout = key >> 3, key & 7
    if layout == _VARINT:
        stop = _read_varint(data, start, end)[1]
    elif layout == _BY_LENGTH:
        length, start = _read_varint(data, start, end)
        stop = start + length
    elif layout == _GROUP:
        stop = _end_of_group(data, start, end)
    elif layout in _FIXED:
        stop = start + _FIXED[layout]
    else:
        raise ValueError(f"unknown layout {layout}")
    if stop > end:
        raise ValueError("the value ends beyond its message")
    return number, layout, start, stop


def _end_of_group(data: bytes | mmap.mmap, position: int, end: int) -> int:
    """Return the end of a group; ONNX has no groups, but a reader must skip unknown fields."""
    depth = 1
    while depth:
        key, after = _read_varint(data, position, end)
        if key & 7 in (_GROUP, _END_OF_GROUP):
            depth += 1 if key & 7 == _GROUP else -1
            position = after
        else:
            position = _next_field(data, position, end)[3]
    return position


def _read_varint(data: bytes | mmap.mmap, position: int, end: int) -> tuple[int, int]:
    """Return an integer (seven bits per byte, lowest first) and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= end:
            break
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number does not end")
