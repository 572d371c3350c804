"""Read and write calibration files: the range of each activation of one FP32 graph, for INT8."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import UsageError
from ..core.files import sha256, write_text

#: Version of the calibration file's layout.
SCHEMA = 1
#: Ways to choose the range: least squared error, all but the largest of 10,000 values, least loss of information, all.
#: The first is the default: the best or within a point of it on every network measured (docs/precision.md).
METHODS = ("mse", "percentile", "entropy", "minmax")
#: Limits of a range: below the least, a float32 step might be rounded to zero.
LEAST_RANGE, _LARGEST = 2.0**-100, float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Calibration:
    """The ranges of a graph's activations, and how they were found.

    Attributes:
        ranges: tensor name to the magnitude T that INT8's level 127 represents; larger values are clipped.
        method: one of :data:`METHODS`.
        graph_sha256: hash of the FP32 graph that the ranges were collected on.
        crops: hashes of the crops, see :func:`edgepose.calib.crops.crop_hashes`.
        made_with: package names to their versions.
        schema: version of the file's layout.
    """

    ranges: dict[str, float]
    method: str
    graph_sha256: str
    crops: tuple[str, ...]
    made_with: dict[str, str] = field(default_factory=dict)
    schema: int = SCHEMA

    def write(self, path: Path) -> None:
        """Write a JSON file that :func:`read_calibration` reads; raise UsageError if it cannot be written."""
        write_text(path, json.dumps(asdict(self), indent=2) + "\n")


def read_calibration(path: Path, graph: Path) -> Calibration:
    """Read the file that :meth:`Calibration.write` wrote for an FP32 ONNX graph.

    Raises:
        UsageError: a file cannot be read, is not a calibration of this schema, belongs to another graph, or holds a
            range that is not a positive finite number.
    """
    again = "run edgepose calibrate again"
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read calibration {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not readable JSON or was cut short ({error}): {again}") from error
    schema = content.get("schema") if isinstance(content, dict) else None
    if type(schema) is not int or schema < 1:
        raise UsageError(f"{path} is not a calibration: expected a JSON object with a schema number: {again}")
    if schema != SCHEMA:
        raise UsageError(f"{path} has schema {schema}, this edgepose reads {SCHEMA}: upgrade edgepose or {again}")
    wrong = _wrong_field(content)
    if wrong:
        raise UsageError(f"{path} does not hold a calibration of schema {schema} ({wrong}): {again}")
    try:
        hashed = sha256(graph)
    except OSError as error:
        raise UsageError(f"cannot read graph {graph}: {error.strerror}") from error
    if content["graph_sha256"] != hashed:
        raise UsageError(f"calibration {path} was made for another graph than {graph} (sha256 differs): {again}")
    for tensor, value in content["ranges"].items():
        if not LEAST_RANGE <= value <= _LARGEST:
            wrong = f"the range of tensor {tensor!r} is {value}, expected a positive finite number"
            raise UsageError(f"{path}: {wrong}: {again}")
    ranges = {tensor: float(value) for tensor, value in content["ranges"].items()}
    return Calibration(**{**content, "ranges": ranges, "crops": tuple(content["crops"])})


def _wrong_field(content: dict[str, Any]) -> str | None:
    """Describe the first field that is missing or of the wrong type; return None if all are right."""
    if content.keys() != set(Calibration.__dataclass_fields__):
        return f"its fields are {', '.join(sorted(content))}"
    ranges, crops, versions_ = content["ranges"], content["crops"], content["made_with"]
    wanted = {
        "ranges must be an object of numbers, at least one": isinstance(ranges, dict)
        and bool(ranges)
        and all(isinstance(value, int | float) and type(value) is not bool for value in ranges.values()),
        f"method must be one of {', '.join(METHODS)}": content["method"] in METHODS,
        "graph_sha256 must be a text": isinstance(content["graph_sha256"], str),
        "crops must be a list of texts": isinstance(crops, list) and all(isinstance(crop, str) for crop in crops),
        "made_with must be an object": isinstance(versions_, dict),
    }
    return next((sentence for sentence, holds in wanted.items() if not holds), None)
