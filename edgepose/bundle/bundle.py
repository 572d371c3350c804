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
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..core.errors import UsageError
from ..core.files import sha256, write_text
from ..core.skeletons import Skeleton, get_skeleton
from .contract import Contract
from .manifest import CALIBRATION, CHECKPOINT, ENGINES, GOLDENS, MANIFEST, PRECISIONS, REPORTS, Manifest, _read_manifest
from .tasks import POSE, Task


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
    def task(self) -> Task:
        """What the network is for."""
        return self.manifest.task

    @property
    def contract(self) -> Contract:
        """What the network takes and gives."""
        return self.manifest.contract

    def require(self, task: Task) -> None:
        """Refuse a network that is for something else.

        Raises:
            UsageError: the bundle holds a network of another task.
        """
        if self.task is not task:
            raise UsageError(f"bundle {self.path} holds a {self.task.network}: expected a {task.network}")

    @property
    def skeleton(self) -> Skeleton:
        """The skeleton of the pose network.

        Raises:
            UsageError: it is a detector.
        """
        self.require(POSE)
        return get_skeleton(self.manifest.skeleton)

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


def check_replaceable(output: Path, task: Task) -> None:
    """Refuse to make a bundle where something else is.

    Args:
        output: folder of the bundle.
        task: of the network that it is to hold.

    Raises:
        UsageError: the path exists, and is neither a bundle of this kind nor an empty folder.
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    try:
        old = _read_manifest(output)
    except UsageError as error:
        raise UsageError(f"{output} exists and is not a bundle: give another -o") from error
    if old.task is not task:
        raise UsageError(f"{output} is a bundle of a {old.task.network}: give another -o")


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
