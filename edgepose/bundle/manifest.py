"""The manifest of a bundle: what it is, what made it, and the sha256 of every file."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

from ..core.errors import UsageError
from .contract import Contract
from .tasks import PERSONS, TASKS, Task

#: Version of the manifest's layout; newer ones are refused.
SCHEMA = 1

#: Precisions of a graph: ``int8`` quantises convolutions and keeps the rest in FP32, ``int8+fp16`` in FP16; a search
#: chose the precisions of ``mixed`` module by module.
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int8+fp16", "mixed")

#: Names of files and folders in a bundle; those of the graphs are the task's.
MANIFEST = "manifest.json"
CHECKPOINT = "checkpoint.safetensors"
GOLDENS = "golden.npz"
CALIBRATION = "calibration.json"
ENGINES = "engines"
REPORTS = "reports"

_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Manifest:
    """The content of ``manifest.json``.

    Attributes:
        model: network name for :func:`edgepose.models.build_model`; for a detector, its kind.
        skeleton: skeleton id; empty for a detector.
        input_size: (height, width) of the crops, or of a detector's pictures.
        options: further arguments of ``build_model``; for a detector ``boxes``, the number of boxes per picture.
        trained: False for a bundle exported without weights.
        crop_padding: factor from the person's box to the crop.
        decode: how the graph decodes its results, a key of :data:`edgepose.bundle.tasks.TASKS`.
        made_with: versions of the packages that made it.
        files: sha256 of every file, by path relative to the bundle.
    """

    name: str
    model: str
    skeleton: str
    input_size: tuple[int, int]
    options: dict[str, bool | int] = field(default_factory=dict)
    trained: bool = True
    crop_padding: float = 1.25
    decode: str = "quarter"
    made_with: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def task(self) -> Task:
        """The task of the network: poses or persons."""
        return TASKS[self.decode]

    @property
    def contract(self) -> Contract:
        """The inputs and outputs of the network."""
        return self.task.contract(self)

    @property
    def imported(self) -> bool:
        """Whether the network came from an ONNX file; otherwise it was exported from PyTorch, with its weights."""
        return self.task is PERSONS and CHECKPOINT not in self.files

    @property
    def reference(self) -> str:
        """What computed the goldens, in words."""
        return "the imported file" if self.imported else "PyTorch"

    @property
    def remake(self) -> str:
        """Advice for a damaged bundle."""
        return "import the detector again" if self.imported else "export the bundle again"

    def to_json(self) -> str:
        """Return the text of ``manifest.json``."""
        return json.dumps(asdict(self), indent=2) + "\n"

    def graph_name(self, precision: str) -> str:
        """Return the file name of the graph of a precision, such as ``pose.fp16.onnx``."""
        return self.task.graph_name(precision)


def read_manifest(path: Path) -> Manifest:
    """Read the manifest in the bundle folder ``path``, without checking the files that it names.

    Unknown keys are ignored: a later edgepose with the same schema may have written them.

    Raises:
        UsageError: the folder is not a bundle or cannot be read, or the manifest is damaged, has a newer schema, holds
            values of wrong types, or names files outside the folder.
    """
    file = path / MANIFEST
    try:
        if not path.is_dir():
            raise UsageError(f"{path} is not a bundle: expected a folder NAME.edgepose (edgepose export makes one)")
        if not file.is_file():
            raise UsageError(f"{path} is not a bundle: it has no {MANIFEST} (edgepose export makes one)")
        text = file.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from error
    values = _parse(file, text)
    try:
        known = {entry.name: values[entry.name] for entry in fields(Manifest) if entry.name in values}
        manifest = Manifest(**{**known, "input_size": tuple(known["input_size"])})
        _check_values(manifest)
    except (TypeError, KeyError, ValueError) as error:
        raise UsageError(
            f"{file} does not hold a manifest of schema {values['schema']} ({error}): export the bundle again"
        ) from error
    escaping = [name for name in manifest.files if Path(name).is_absolute() or ".." in Path(name).parts]
    if escaping:
        raise UsageError(f"{file} names files outside the bundle ({escaping[0]}): do not trust it")
    return manifest


def _parse(file: Path, text: bytes) -> dict[str, Any]:
    """Parse the JSON object of a manifest, and refuse a schema that cannot be read."""
    try:
        values: dict[str, Any] = json.loads(text.decode(), object_pairs_hook=partial(_without_duplicates, file))
        schema = values["schema"]
        if type(schema) is not int or schema < 1:
            raise ValueError(schema)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"{file} is damaged (no JSON object with a schema number): export the bundle again") from error
    if schema > SCHEMA:
        raise UsageError(f"{file} has schema {schema}, this edgepose reads up to {SCHEMA}: upgrade edgepose")
    return values


def _without_duplicates(file: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object as a dict; refuse a duplicate key, for which readers disagree on the value."""
    counts = Counter(key for key, _ in pairs)
    twice = next((key for key, count in counts.items() if count > 1), None)
    if twice is not None:
        raise UsageError(f"{file} holds the key {twice!r} twice, expected each key once: do not trust it")
    return dict(pairs)


def _holds_texts(value: object) -> bool:
    """Return whether a value is a dict of strings."""
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _check_values(manifest: Manifest) -> None:
    """Raise ValueError if a field of the manifest has a wrong type or value."""
    texts = (manifest.name, manifest.model, manifest.skeleton)
    padding, options, files = manifest.crop_padding, manifest.options, manifest.files
    flaw = TASKS[manifest.decode].options_flaw(options) if manifest.decode in TASKS else None
    wanted = {
        "name, model and skeleton must be texts": all(isinstance(text, str) for text in texts),
        f"decode must be one of {', '.join(TASKS)}, got {manifest.decode!r}": manifest.decode in TASKS,
        "input_size must be two positive whole numbers": len(manifest.input_size) == 2
        and all(type(side) is int and side > 0 for side in manifest.input_size),
        "trained must be true or false": isinstance(manifest.trained, bool),
        "crop_padding must be a positive number": type(padding) in (int, float) and 0 < padding < math.inf,
        str(flaw): flaw is None,
        "options must be an object of whole numbers, true or false": isinstance(options, dict)
        and all(isinstance(value, int) for value in options.values()),
        "made_with must be an object of texts": _holds_texts(manifest.made_with),
        "files must be an object of texts": _holds_texts(files),
        "files must name the sha256 of each file": _holds_texts(files)
        and all(_SHA256.fullmatch(digest) for digest in files.values()),
    }
    wrong = next((sentence for sentence, holds in wanted.items() if not holds), None)
    if wrong:
        raise ValueError(wrong)
