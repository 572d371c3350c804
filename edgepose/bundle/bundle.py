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
        .change/                  only after a crash: what is left to do of a change, see edgepose.bundle.change
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..core.errors import UsageError
from ..core.files import sha256, write_text
from ..core.skeletons import Skeleton, get_skeleton
from .change import change, finish_change, is_leftover, locked
from .contract import Contract
from .external_data import refuse_external_data
from .manifest import (
    CALIBRATION,
    CHECKPOINT,
    GOLDENS,
    MANIFEST,
    PRECISIONS,
    REPORTS,
    Manifest,
    read_manifest,
)
from .tasks import POSE, Task

#: Where the bundles are that come with the package; nothing is ever written there.
ASSETS = Path(__file__).parent.parent / "assets"


@dataclass(frozen=True)
class Bundle:
    """A bundle's folder and its manifest.

    :func:`open_bundle` makes one whose files are complete and were checked. A bundle that is only being made, such as a
    search's candidate, comes from :func:`write_manifest`, or from ``Bundle(path, read_manifest(path))``.
    """

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

    @property
    def read_only(self) -> str | None:
        """Why nothing can be written into the bundle, in one sentence, or None."""
        copy = f"copy it and work on the copy: cp -r {self.path} {self.manifest.name}.edgepose"
        if self.path.resolve().is_relative_to(ASSETS.resolve()):
            return f"bundle {self.manifest.name} comes with the package and stays as it is: {copy}"
        return None if os.access(self.path, os.W_OK) else f"bundle {self.path} may not be written to: {copy}"

    def require_writable(self) -> None:
        """Refuse to write into a bundle that comes with the package, or that the user may not change.

        Raises:
            UsageError: it is :attr:`read_only`.
        """
        reason = self.read_only
        if reason:
            raise UsageError(reason)

    def with_files(self, *paths: Path) -> Bundle:
        """Name files of a bundle that is being made: hash them where they are, and write the manifest.

        A finished bundle is changed by :func:`replace_files`, which a crash cannot interrupt half-way.
        """
        hashes = {path.relative_to(self.path).as_posix(): sha256(path) for path in paths}
        return write_manifest(self.path, replace(self.manifest, files={**self.manifest.files, **hashes}))


def write_manifest(path: Path, manifest: Manifest) -> Bundle:
    """Write ``manifest.json`` into the folder of a bundle that is being made."""
    write_text(path / MANIFEST, manifest.to_json())
    return Bundle(path, manifest)


def replace_files(bundle: Bundle, staged: Mapping[str, Path]) -> Bundle:
    """Move files into a bundle that may have got others since it was opened, all of them or none.

    A crash at any moment leaves the old bundle or the new one, see :mod:`edgepose.bundle.change`.

    Args:
        bundle: what the files were made from.
        staged: by path in the bundle, the file to move there.

    Raises:
        UsageError: the bundle cannot be written to, or holds another network by now.
    """
    bundle.require_writable()
    with locked(bundle.path):
        now = read_manifest(bundle.path)
        graph = bundle.manifest.graph_name("fp32")
        if now.files.get(graph) != bundle.manifest.files.get(graph):
            raise UsageError(
                f"bundle {bundle.path} got another network in the meantime, which {', '.join(staged)} is not of: do it "
                "again"
            )
        return Bundle(bundle.path, change(bundle.path, now, staged))


def check_replaceable(output: Path, task: Task) -> None:
    """Refuse to make a bundle where something else is.

    Args:
        output: folder of the bundle.
        task: of the network that it is to hold.

    Raises:
        UsageError: the path exists, and is neither a bundle of this kind nor an empty folder; or it cannot be read.
    """
    finish_change(output)
    try:
        if not output.exists() or (output.is_dir() and all(map(is_leftover, output.iterdir()))):
            return
    except OSError as error:
        raise UsageError(f"cannot read {output}: {error.strerror}") from error
    try:
        old = read_manifest(output)
    except UsageError as error:
        raise UsageError(f"{output} exists and is not a bundle: give another -o") from error
    if old.task is not task:
        raise UsageError(f"{output} is a bundle of a {old.task.network}: give another -o")


def replace_bundle(output: Path, manifest: Manifest, folder: Path) -> Bundle:
    """Make a bundle of the files in a folder; what an older one in its place holds is removed.

    A crash at any moment leaves the old bundle or the new one, see :mod:`edgepose.bundle.change`.

    Args:
        output: of the bundle, see :func:`check_replaceable`.
        manifest: without files.
        folder: on the same file system.
    """
    with locked(output):
        return Bundle(output, change(output, manifest, {file.name: file for file in sorted(folder.iterdir())}))


def open_bundle(path: Path | str) -> Bundle:
    """Open a bundle and check every hash in its manifest.

    A change that a crash interrupted is finished first.

    Args:
        path: folder of the bundle; or the name of one that comes with the package, such as ``ditn_lite``, if there is
            no such folder.

    Raises:
        UsageError: not a bundle, written by a newer edgepose, a file that is missing or was changed, a graph whose
            weights are in other files, or a folder that may not be read.
    """
    path = find_bundle(path)
    finish_change(path)
    bundle = Bundle(path, read_manifest(path))
    try:
        _check_files(bundle)
    except UsageError:
        # Another process may have changed the bundle between the manifest and the files.
        finish_change(path)
        if read_manifest(path) == bundle.manifest:
            raise
        return open_bundle(path)
    return bundle


def find_bundle(path: Path | str) -> Path:
    """The folder that a user means: ``~`` is the home, and a bundle that comes with the package goes by its name."""
    path = Path(path)
    try:
        path = path.expanduser()
        shipped = ASSETS / f"{path}.edgepose"
        named = len(path.parts) == 1 and not path.exists() and shipped.is_dir()
    except RuntimeError as error:
        raise UsageError(f"cannot find {path}: {error}") from error
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    return shipped if named else path


def _check_files(bundle: Bundle) -> None:
    """Refuse a bundle whose files are not those of its manifest, or that could not be proven by them."""
    path, manifest = bundle.path, bundle.manifest
    for name in (manifest.graph_name("fp32"), GOLDENS):
        if name not in manifest.files:
            raise UsageError(
                f"bundle {path}: its manifest names no {name}, so nothing can prove the network: {manifest.task.remake}"
            )
    for name in (CHECKPOINT, CALIBRATION):
        if name not in manifest.files and os.path.lexists(path / name):
            raise UsageError(f"bundle {path} holds {name}, which its manifest does not name: remove it")
    for name, expected in manifest.files.items():
        file, again = path / name, "copy or export the bundle again"
        try:
            digest = sha256(file) if file.is_file() else None
        except OSError as error:
            raise UsageError(f"cannot read {file}: {error.strerror}") from error
        if digest is None:
            raise UsageError(f"bundle {path} lacks {name}, which its manifest names: {again}")
        if digest != expected:
            raise UsageError(
                f"bundle {path}: {name} was changed after the manifest was written (sha256 differs): {again}"
            )
        if name.endswith(".onnx"):
            refuse_external_data(file)
