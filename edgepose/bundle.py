"""The model bundle: a folder that carries a network from machine to machine and can prove itself.

It holds a pose network, or a person detector, whose graphs are named ``detector.onnx`` and so on.

::

    NAME.edgepose/
        manifest.json             what it is, what made it, the sha256 of every file below but reports
        checkpoint.safetensors    the PyTorch weights, for the reference backend and for exporting again
        pose.onnx                 FP32, dynamic batch, runs everywhere
        pose.PRECISION.onnx       the same network in another of PRECISIONS, every cast and Q/DQ explicit
        calibration.json          the ranges of the activations that INT8 graphs were made with
        golden.npz                crops, and what PyTorch gave for them (of an imported network: its ONNX file)
        engines/                  TARGET-VERSION-SM-PRECISION.engine, each with a .json; a timing cache, not hashed
        reports/                  written by calibrate, build, verify, bench and prove; not hashed
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import UsageError
from .files import sha256, write_text
from .heatmaps import STRIDE
from .skeletons import Skeleton, get_skeleton

#: Version of the manifest's layout; a reader refuses a newer one.
SCHEMA = 1

#: What a graph computes in: ``int8`` quantises convolutions and leaves the rest FP32, ``int8+fp16`` leaves it FP16, and
#: ``mixed`` is what a search chose for each module.
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int8+fp16", "mixed")

#: How the graph reads its results: keypoints from heat-maps, by argmax with the quarter offset; or boxes of persons.
QUARTER, BOXES = "quarter", "boxes"

MANIFEST = "manifest.json"
GRAPH = "pose.onnx"
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
        model: network name for :func:`edgepose.train.models.build_model`; of a detector, its kind.
        skeleton: skeleton id; empty for a detector.
        input_size: (height, width) of the crops, or of a detector's pictures.
        options: further arguments of ``build_model``; of a detector ``boxes``, how many it gives for a picture.
        trained: False for a bundle exported without weights.
        crop_padding: factor from the person's box to the crop.
        decode: :data:`QUARTER` or :data:`BOXES`, in the graph; any other is refused.
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
    decode: str = QUARTER
    made_with: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def detects(self) -> bool:
        """Whether the network finds persons in a picture, and not the pose of one in a crop."""
        return self.decode == BOXES

    @property
    def remake(self) -> str:
        """What to do about a bundle that is damaged."""
        return "import the detector again" if self.detects else "export the bundle again"

    def graph_name(self, precision: str) -> str:
        """File name of the graph of a precision, such as ``pose.fp16.onnx``."""
        graph = "detector.onnx" if self.detects else GRAPH
        return graph if precision == "fp32" else graph.replace(".onnx", f".{precision}.onnx")


@dataclass(frozen=True)
class Goldens:
    """Crops and what a reference gave for them: PyTorch, or the file that a network was imported from.

    Attributes:
        images: (N, H, W, 3) uint8 RGB; of a detector whole pictures, letterboxed.
        outputs: float32 arrays by name: of a pose network ``keypoints`` (N, J, 3), x, y in crop pixels and score, and
            ``heatmaps`` (N, J, H/4, W/4); of a detector ``boxes`` (N, K, 4), xyxy in pixels, and ``scores`` (N, K).
        decode: how the graph reads them, see :class:`Manifest`.
    """

    images: NDArray[np.uint8]
    outputs: Mapping[str, NDArray[np.float32]]
    decode: str = QUARTER

    def first(self, count: int) -> Goldens:
        """The first crops."""
        few = {name: values[:count] for name, values in self.outputs.items()}
        return Goldens(self.images[:count], few, self.decode)

    def save(self, path: Path) -> None:
        """Write a compressed ``.npz``."""
        arrays: dict[str, Any] = {"images": self.images, **self.outputs}
        np.savez_compressed(path, **arrays)


@dataclass(frozen=True)
class Bundle:
    """An opened bundle; make one with :func:`open_bundle` or :func:`write_manifest`."""

    path: Path
    manifest: Manifest

    @property
    def graph(self) -> Path:
        """The FP32 ONNX graph."""
        return self.path / self.manifest.graph_name("fp32")

    @property
    def skeleton(self) -> Skeleton:
        """Whose keypoints the network finds.

        Raises:
            UsageError: it is a detector.
        """
        if self.manifest.detects:
            raise UsageError(f"bundle {self.path} holds a person detector: expected a pose network")
        return get_skeleton(self.manifest.skeleton)

    @property
    def output_shapes(self) -> dict[str, tuple[int, ...]]:
        """By name, the shape of each output of the graph for one crop; see :class:`Goldens`."""
        if self.manifest.detects:
            count = self.manifest.options["boxes"]
            return {"boxes": (count, 4), "scores": (count,)}
        joints, (height, width) = len(self.skeleton.joints), self.manifest.input_size
        return {"keypoints": (joints, 3), "heatmaps": (joints, height // STRIDE, width // STRIDE)}

    @property
    def reports(self) -> Path:
        """Folder for reports; made by whoever writes the first."""
        return self.path / REPORTS

    @property
    def precisions(self) -> tuple[str, ...]:
        """Those of :data:`PRECISIONS` that the bundle has a graph of: ``fp32`` always."""
        files, name_of = self.manifest.files, self.manifest.graph_name
        return tuple(name for name in PRECISIONS if name == "fp32" or name_of(name) in files)

    def graph_for(self, precision: str) -> Path:
        """The ONNX graph of a precision.

        Raises:
            UsageError: no precision has that name, or the bundle has no graph of it.
        """
        if precision not in PRECISIONS:
            raise UsageError(f"unknown precision {precision!r}: expected one of {', '.join(PRECISIONS)}")
        if precision not in self.precisions:
            search = " --max-drop 0.3" if precision == "mixed" else ""
            raise UsageError(
                f"bundle {self.path} has no {precision} graph, only {', '.join(self.precisions)}; make it with: "
                f"edgepose calibrate {self.path} --images DIR{search}"
            )
        return self.path / self.manifest.graph_name(precision)

    def goldens(self) -> Goldens:
        """Read ``golden.npz``."""
        with np.load(self.path / GOLDENS) as arrays:
            outputs = {name: arrays[name] for name in arrays.files if name != "images"}
            return Goldens(arrays["images"], outputs, self.manifest.decode)

    def engines(self) -> list[Path]:
        """Engine files named in the manifest, sorted by name."""
        return sorted(self.path / name for name in self.manifest.files if name.endswith(".engine"))

    def with_files(self, *paths: Path) -> Bundle:
        """Hash files that were added to or changed in the bundle, and write the manifest that names them."""
        hashes = {path.relative_to(self.path).as_posix(): sha256(path) for path in paths}
        return write_manifest(self.path, replace(self.manifest, files={**self.manifest.files, **hashes}))


def write_manifest(path: Path, manifest: Manifest) -> Bundle:
    """Write ``manifest.json`` into a bundle folder."""
    write_text(path / MANIFEST, json.dumps(asdict(manifest), indent=2) + "\n")
    return Bundle(path, manifest)


def replace_files(bundle: Bundle, staged: Mapping[str, Path]) -> Bundle:
    """Move files into a bundle, and write the manifest that names them.

    Their names leave the manifest first: a bundle whose change was interrupted opens all the same, without them.

    Args:
        bundle: the folder, and the manifest to write.
        staged: by path in the bundle, the file to move there; on the same file system.
    """
    others = {name: digest for name, digest in bundle.manifest.files.items() if name not in staged}
    bundle = write_manifest(bundle.path, replace(bundle.manifest, files=others))
    for name, file in staged.items():
        target = bundle.path / name
        target.parent.mkdir(exist_ok=True)
        file.replace(target)
    return bundle.with_files(*(bundle.path / name for name in staged))


def check_replaceable(output: Path, *, detects: bool) -> None:
    """Refuse to make a bundle where something else is.

    Args:
        output: folder of the bundle.
        detects: whether it is to hold a detector.

    Raises:
        UsageError: the path exists, and is neither a bundle of this kind nor an empty folder.
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    try:
        old = _read_manifest(output)
    except UsageError as error:
        raise UsageError(f"{output} exists and is not a bundle: give another -o") from error
    if old.detects != detects:
        raise UsageError(f"{output} is a bundle of a {'detector' if old.detects else 'pose network'}: give another -o")


def replace_bundle(output: Path, manifest: Manifest, folder: Path) -> Bundle:
    """Make a bundle of the files in a folder; what an older one in its place holds is removed.

    Args:
        output: of the bundle, see :func:`check_replaceable`.
        manifest: without files.
        folder: on the same file system.
    """
    # But for the manifest, which refuses to open until it is replaced: new and old parts never mix.
    for name in (*map(manifest.graph_name, PRECISIONS), CHECKPOINT, GOLDENS, CALIBRATION):
        (output / name).unlink(missing_ok=True)
    for name in (ENGINES, REPORTS):
        shutil.rmtree(output / name, ignore_errors=True)
    return replace_files(Bundle(output, manifest), {file.name: file for file in sorted(folder.iterdir())})


def open_bundle(path: Path | str) -> Bundle:
    """Open a bundle and check every hash in its manifest.

    Raises:
        UsageError: not a bundle, written by a newer edgepose, or a file that is missing or was changed.
    """
    path = Path(path)
    bundle = Bundle(path, _read_manifest(path))
    for name, expected in bundle.manifest.files.items():
        file = path / name
        if not file.is_file():
            raise UsageError(f"bundle {path} lacks {name}, which its manifest names: copy or export the bundle again")
        if _hash(file) != expected:
            raise UsageError(
                f"bundle {path}: {name} was changed after the manifest was written (sha256 differs): "
                "copy or export the bundle again"
            )
    return bundle


def _hash(file: Path) -> str:
    try:
        return sha256(file)
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from error


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


def _counts_boxes(options: object) -> bool:
    count = options.get("boxes") if isinstance(options, dict) else None
    return type(count) is int and count > 0


def _check_values(manifest: Manifest) -> None:
    """Refuse, by ValueError, what JSON can hold and the fields cannot; whoever reads a manifest may rely on them."""
    texts = (manifest.name, manifest.model, manifest.skeleton)
    wanted = {
        "name, model and skeleton must be texts": all(isinstance(text, str) for text in texts),
        f"decode must be {QUARTER!r} or {BOXES!r}, got {manifest.decode!r}": manifest.decode in (QUARTER, BOXES),
        "input_size must be two positive whole numbers": len(manifest.input_size) == 2
        and all(isinstance(side, int) and side > 0 for side in manifest.input_size),
        "crop_padding must be a positive number": isinstance(manifest.crop_padding, int | float)
        and manifest.crop_padding > 0,
        "options must be an object": isinstance(manifest.options, dict),
        "options of a detector must name a number of boxes": not manifest.detects or _counts_boxes(manifest.options),
        "files must be an object of texts": isinstance(manifest.files, dict)
        and all(isinstance(digest, str) for digest in manifest.files.values()),
    }
    wrong = [sentence for sentence, holds in wanted.items() if not holds]
    if wrong:
        raise ValueError(wrong[0])
