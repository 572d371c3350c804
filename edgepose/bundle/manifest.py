"""The manifest of a bundle: what it is, what made it, and the sha256 of every file."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.errors import UsageError
from .contract import Contract
from .tasks import TASKS, Task

#: Version of the manifest's layout; a reader refuses a newer one.
SCHEMA = 1

#: What a graph computes in: ``int8`` quantises convolutions and leaves the rest FP32, ``int8+fp16`` leaves it FP16, and
#: ``mixed`` is what a search chose for each module.
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int8+fp16", "mixed")

#: Names of files and folders in a bundle; those of the graphs are the task's.
MANIFEST = "manifest.json"
CHECKPOINT = "checkpoint.safetensors"
GOLDENS = "golden.npz"
CALIBRATION = "calibration.json"
ENGINES = "engines"
REPORTS = "reports"


@dataclass(frozen=True)
class Manifest:
    """The content of ``manifest.json``.

    Attributes:
        name: of the bundle.
        model: network name for :func:`edgepose.models.build_model`; of a detector, its kind.
        skeleton: skeleton id; empty for a detector.
        input_size: (height, width) of the crops, or of a detector's pictures.
        options: further arguments of ``build_model``; of a detector ``boxes``, how many it gives for a picture.
        trained: False for a bundle exported without weights.
        crop_padding: factor from the person's box to the crop.
        decode: how the graph reads its results, one of :data:`edgepose.bundle.tasks.TASKS`.
        made_with: versions of the packages that made it.
        files: sha256 of every file, by path relative to the bundle.
        schema: version of this layout.
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
        """What the network is for."""
        return TASKS[self.decode]

    @property
    def contract(self) -> Contract:
        """What the network takes and gives."""
        return self.task.contract(self)

    def graph_name(self, precision: str) -> str:
        """Return the file name of the graph of a precision, such as ``pose.fp16.onnx``."""
        return self.task.graph_name(precision)


def _read_manifest(path: Path) -> Manifest:
    file = path / MANIFEST
    if not path.is_dir():
        raise UsageError(f"{path} is not a bundle: expected a folder NAME.edgepose (edgepose export makes one)")
    if not file.is_file():
        raise UsageError(f"{path} is not a bundle: it has no {MANIFEST} (edgepose export makes one)")
    try:
        values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        schema = values["schema"]
        if type(schema) is not int or schema < 1:
            raise ValueError(schema)
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{file} is damaged (no JSON object with a schema number): export the bundle again") from error
    if schema > SCHEMA:
        raise UsageError(f"{file} has schema {schema}, this edgepose reads up to {SCHEMA}: upgrade edgepose")
    try:
        manifest = Manifest(**{**values, "input_size": tuple(values["input_size"])})
        _check_values(manifest)
    except (TypeError, KeyError, ValueError) as error:
        raise UsageError(
            f"{file} does not hold a manifest of schema {schema} ({error}): export the bundle again"
        ) from error
    escaping = [name for name in manifest.files if Path(name).is_absolute() or ".." in Path(name).parts]
    if escaping:
        raise UsageError(f"{file} names files outside the bundle ({escaping[0]}): do not trust it")
    return manifest


def _check_values(manifest: Manifest) -> None:
    """Refuse, by ValueError, what JSON can hold and the fields cannot; whoever reads a manifest may rely on them."""
    texts = (manifest.name, manifest.model, manifest.skeleton)
    wanted = {
        "name, model and skeleton must be texts": all(isinstance(text, str) for text in texts),
        f"decode must be one of {', '.join(TASKS)}, got {manifest.decode!r}": manifest.decode in TASKS,
        "input_size must be two positive whole numbers": len(manifest.input_size) == 2
        and all(isinstance(side, int) and side > 0 for side in manifest.input_size),
        "crop_padding must be a positive number": isinstance(manifest.crop_padding, int | float)
        and manifest.crop_padding > 0,
        "options must be an object": isinstance(manifest.options, dict),
        "files must be an object of texts": isinstance(manifest.files, dict)
        and all(isinstance(digest, str) for digest in manifest.files.values()),
    }
    wrong = next((sentence for sentence, holds in wanted.items() if not holds), None)
    wrong = wrong or manifest.task.options_flaw(manifest.options)
    if wrong:
        raise ValueError(wrong)
