"""Files that are never half-written."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import UsageError


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``, renamed to it on success and removed on failure.

    Raises:
        UsageError: the folder cannot be made or written to, the disk is full, or ``path`` is a folder.
    """
    if path.is_dir():
        raise UsageError(f"cannot write {path}: it is a folder, expected the name of a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The suffix is kept: encoders choose their format by it.
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        _flush(temporary)
        temporary.replace(path)
        _flush(path.parent)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Wait until a file or folder is on the disk: a name must not survive a power cut without its content."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def staging_folder(path: Path) -> Iterator[Path]:
    """A temporary folder inside the folder ``path``, for files that are moved to ``path`` once all are made.

    It is removed at the end; ``path`` is made if it is missing, and removed again if it was and nothing came into it.

    Raises:
        UsageError: the folder cannot be made or written to.
    """
    fresh = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".new-", dir=path))
    except OSError as error:
        raise UsageError(f"cannot write to folder {path}: {error.strerror}") from error
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if fresh and not any(path.iterdir()):
            path.rmdir()


def check_writable(*paths: Path | None) -> None:
    """Refuse at once what could not be written in the end. Nothing is left on the disk.

    Args:
        paths: files; None is left out.

    Raises:
        UsageError: a path is a folder, or its folder cannot be written to.
    """
    for path in filter(None, paths):
        if path.is_dir():
            raise UsageError(f"cannot write {path}: it is a folder, expected the name of a file")
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        try:
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror}") from error


def cache_folder() -> Path:
    """Where edgepose keeps what can be made again: ``$XDG_CACHE_HOME/edgepose``, or ``~/.cache/edgepose``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgepose"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
