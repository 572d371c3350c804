"""Change a bundle so that a crash at any moment leaves the old bundle or the new one, and never a mixture.

The new files and their manifest are collected in a folder inside the bundle. Renaming that folder to ``.change`` makes
the change: before it, the old bundle is complete, and after it, everything new is on the disk. Then the files are moved
to their places, the manifest last. This can be repeated from any point, and opening a bundle does it after a crash.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from ..core.errors import UsageError
from ..core.files import flush, sha256, write_text
from .manifest import CALIBRATION, CHECKPOINT, ENGINES, GOLDENS, MANIFEST, PRECISIONS, REPORTS, Manifest, read_manifest

#: Folder of a complete change, which has to be finished; and of one that is still being collected, which is ignored.
CHANGE, COLLECTING = ".change", ".change-unfinished"


def is_leftover(path: Path) -> bool:
    """Return whether a file in a bundle's folder is left over from a change that a crash prevented."""
    return path.name.startswith((".new-", CHANGE))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a bundle against other processes, finish an interrupted change, and turn OSError into UsageError."""
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            # Only Unix has fcntl, and some network file systems cannot lock a folder: there is no lock then.
            with suppress(ImportError, OSError):
                import fcntl

                fcntl.flock(handle, fcntl.LOCK_EX)
            _finish(folder)
            yield
        finally:
            os.close(handle)
    except OSError as error:
        raise UsageError(f"cannot change bundle {folder}: {error.strerror or error}") from error


def change(folder: Path, manifest: Manifest, staged: Mapping[str, Path]) -> Manifest:
    """Move files into a bundle that is :func:`locked`, and return the manifest that names them.

    Files that only the old manifest names are removed. If the FP32 graph changes, all reports and all engines and other
    parts that the new manifest does not name are removed too: they belong to the old network.

    Args:
        folder: folder of the bundle, or an empty one.
        manifest: the new manifest; its ``files`` are those that stay.
        staged: maps the path inside the bundle to the file to move there.
    """
    hashes = {name: sha256(file) for name, file in staged.items()}
    manifest = replace(manifest, files={**manifest.files, **hashes})
    _check_places(folder, manifest, folder)
    collected = folder / COLLECTING
    shutil.rmtree(collected, ignore_errors=True)
    collected.mkdir()
    for name, file in staged.items():
        (collected / name).parent.mkdir(parents=True, exist_ok=True)
        flush(file)
        shutil.move(file, collected / name)
    for place in {(collected / name).parent for name in staged}:
        flush(place)
    write_text(collected / MANIFEST, manifest.to_json())
    collected.rename(folder / CHANGE)
    flush(folder)
    _finish(folder)
    return manifest


def finish_change(folder: Path) -> None:
    """Finish an interrupted change, if there is one; raise UsageError if the folder cannot be written to."""
    try:
        if not (folder / CHANGE).is_dir():
            return
    except OSError:
        return  # reading the manifest, which follows, raises the UsageError for it
    try:
        with locked(folder):
            return
    except UsageError as error:
        raise UsageError(f"a change of the bundle was interrupted and has to be finished first: {error}") from error


def _finish(folder: Path) -> None:
    """Finish a complete change, if there is one; every step may be repeated."""
    pending = folder / CHANGE
    if not pending.is_dir():
        return
    if (pending / MANIFEST).is_file():
        manifest = read_manifest(pending)
        for root in (pending, folder):
            _check_places(folder, manifest, root)
        _remove_dropped(folder, manifest)
        for name in manifest.files:
            if (pending / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.move(pending / name, folder / name)
        (pending / MANIFEST).replace(folder / MANIFEST)
        flush(folder)
    shutil.rmtree(pending, ignore_errors=True)
    with suppress(OSError):  # engines are left, or there never were any
        (folder / ENGINES).rmdir()


def _check_places(folder: Path, manifest: Manifest, root: Path) -> None:
    """Refuse a change that could not be finished, or that would move or remove files outside the bundle.

    ``root`` is what is checked: the bundle's folder, or that of its unfinished change.
    """
    for name in (*manifest.files, f"{ENGINES}/any"):
        place = (root / name).parent
        if not place.resolve().is_relative_to(folder.resolve()):
            raise UsageError(f"{place} leads out of the bundle {folder}: expected a folder, got a link to one")
        if place.exists() and not os.access(place, os.W_OK):
            raise UsageError(f"cannot write to folder {place}: {os.strerror(errno.EACCES)}")
        if (root / name).is_dir() or (place.exists() and not place.is_dir()):
            raise UsageError(f"cannot write {root / name}: expected a file in a folder; move away what is there")


def _remove_dropped(folder: Path, new: Manifest) -> None:
    """Remove the files of the old bundle that the new manifest does not name."""
    try:
        old = read_manifest(folder)
    except UsageError:  # the folder has no older bundle
        return
    names, graph = set(old.files), new.graph_name("fp32")
    if old.files.get(graph) != new.files.get(graph):
        names.update((*map(new.graph_name, PRECISIONS), CHECKPOINT, GOLDENS, CALIBRATION))
        names.update(f"{ENGINES}/{path.name}" for path in (folder / ENGINES).glob("*") if not path.is_dir())
        shutil.rmtree(folder / REPORTS, ignore_errors=True)
    for name in names - set(new.files):
        (folder / name).unlink(missing_ok=True)
