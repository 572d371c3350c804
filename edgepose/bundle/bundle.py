"""The model bundle: a folder with a network for use on many machines, and with goldens to verify it there.

It holds a pose network, or a person detector with graphs named ``detector.onnx`` and so on::

    NAME.edgepose/
        manifest.json             description of the network, versions, sha256 of the files below except reports
        checkpoint.safetensors    the PyTorch weights, for the reference backend and for another export
        pose.onnx                 FP32, dynamic batch, for every backend
        pose.PRECISION.onnx       the same network in another of PRECISIONS, every cast and Q/DQ explicit
        calibration.json          the ranges of the activations in INT8 graphs
        golden.npz                images, and the outputs of the reference for them (PyTorch, or the imported file)
        engines/                  TARGET-VERSION-SM-PRECISION.engine, each with a .json; a timing cache, not hashed
        reports/                  written by calibrate, build, verify, bench and prove; not hashed
        .change/                  only after a crash: an unfinished change, see edgepose.bundle.change
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
from .manifest import CALIBRATION, CHECKPOINT, GOLDENS, MANIFEST, PRECISIONS, REPORTS, Manifest, read_manifest
from .tasks import POSE, Task

#: Where the bundles are that come with the package; nothing is ever written there.
ASSETS = Path(__file__).parent.parent / "assets"


@dataclass(frozen=True)
class Bundle:
    """A bundle's folder and its manifest.

    :func:`open_bundle` returns one with complete, checked files. A bundle that is still being made, such as a candidate
    of a search, comes from :func:`write_manifest` or ``Bundle(path, read_manifest(path))``.
    """

    path: Path
    manifest: Manifest

    @property
    def graph(self) -> Path:
        """The FP32 ONNX graph."""
        return self.path / self.manifest.graph_name("fp32")

    @property
    def task(self) -> Task:
        """The task of the network: poses or persons."""
        return self.manifest.task

    @property
    def contract(self) -> Contract:
        """The inputs and outputs of the network."""
        return self.manifest.contract

    def require(self, task: Task) -> None:
        """Raise UsageError if the bundle holds a network for another task."""
        if self.task is not task:
            raise UsageError(f"bundle {self.path} holds a {self.task.network}: expected a {task.network}")

    @property
    def skeleton(self) -> Skeleton:
        """The skeleton of the pose network; a detector raises UsageError."""
        self.require(POSE)
        return get_skeleton(self.manifest.skeleton)

    @property
    def reports(self) -> Path:
        """The folder for reports; it may not exist yet."""
        return self.path / REPORTS

    @property
    def precisions(self) -> tuple[str, ...]:
        """The names in :data:`PRECISIONS` for which the bundle has a graph; always includes ``fp32``."""
        files, name_of = self.manifest.files, self.manifest.graph_name
        return tuple(name for name in PRECISIONS if name == "fp32" or name_of(name) in files)

    def graph_for(self, precision: str) -> Path:
        """Return the path of the ONNX graph of a precision; raise UsageError if it is unknown or has no graph here."""
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
        """Return the engine files named in the manifest, sorted by name."""
        return sorted(self.path / name for name in self.manifest.files if name.endswith(".engine"))

    @property
    def read_only(self) -> str | None:
        """One sentence on why nothing can be written into the bundle, or None if it is writable."""
        copy = f"copy it and work on the copy: cp -r {self.path} {self.manifest.name}.edgepose"
        if self.path.resolve().is_relative_to(ASSETS.resolve()):
            return f"bundle {self.manifest.name} comes with the package and stays as it is: {copy}"
        return None if os.access(self.path, os.W_OK) else f"bundle {self.path} may not be written to: {copy}"

    def require_writable(self) -> None:
        """Raise UsageError if the bundle is :attr:`read_only`: shipped with the package, or without permission."""
        if reason := self.read_only:
            raise UsageError(reason)

    def with_files(self, *paths: Path) -> Bundle:
        """Add files of an unfinished bundle to its manifest with their hashes, write it, and return the new bundle.

        Change a finished bundle with :func:`replace_files`, which is safe against crashes.
        """
        hashes = {path.relative_to(self.path).as_posix(): sha256(path) for path in paths}
        return write_manifest(self.path, replace(self.manifest, files={**self.manifest.files, **hashes}))


def write_manifest(path: Path, manifest: Manifest) -> Bundle:
    """Write ``manifest.json`` into the folder of a bundle that is being made."""
    write_text(path / MANIFEST, manifest.to_json())
    return Bundle(path, manifest)


def replace_files(bundle: Bundle, staged: Mapping[str, Path]) -> Bundle:
    """Move files into the bundle that they were made from, all of them or none; files added since then are kept.

    ``staged`` maps the path inside the bundle to the file to move there. A crash at any moment leaves the old bundle
    or the new one, see :mod:`edgepose.bundle.change`.

    Raises:
        UsageError: the bundle cannot be written to, or its network was replaced since it was opened.
    """
    bundle.require_writable()
    with locked(bundle.path):
        now = read_manifest(bundle.path)
        graph = bundle.manifest.graph_name("fp32")
        if now.files.get(graph) != bundle.manifest.files.get(graph):
            raise UsageError(
                f"the network of bundle {bundle.path} was replaced while {', '.join(staged)} was made from the old "
                "one: run the command again"
            )
        return Bundle(bundle.path, change(bundle.path, now, staged))


def check_replaceable(output: Path, task: Task) -> None:
    """Refuse to write a bundle for a task over something else.

    Raises:
        UsageError: the path exists and is neither an empty folder nor a bundle of this task; or it cannot be read.
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
    """Make a bundle from a manifest without files and the files in a folder, in place of an older one, and return it.

    The folder is on the same file system as ``output``, see :func:`check_replaceable`. A crash at any moment leaves
    the old bundle or the new one, see :mod:`edgepose.bundle.change`.
    """
    with locked(output):
        return Bundle(output, change(output, manifest, {file.name: file for file in sorted(folder.iterdir())}))


def open_bundle(path: Path | str) -> Bundle:
    """Open a bundle, finish a change that a crash interrupted, and check every hash in its manifest.

    If there is no such folder, the path is the name of a shipped bundle, such as ``ditn_lite``.

    Raises:
        UsageError: it is not a bundle, comes from a newer edgepose, cannot be read, lacks a file, holds a changed file,
            or a graph keeps weights in other files.
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
    """Return the folder of a bundle: expand ``~``, and find a shipped bundle by its name."""
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
    """Raise UsageError if files differ from the manifest, or if it lacks the graph or the goldens."""
    path, manifest = bundle.path, bundle.manifest
    for name in (manifest.graph_name("fp32"), GOLDENS):
        if name not in manifest.files:
            raise UsageError(
                f"the manifest of bundle {path} does not list {name}, which every bundle needs: {manifest.remake}"
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
