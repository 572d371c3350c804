"""Atomic files, and outputs that are not regular files: devices, pipes and standard output."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile, mkdtemp
from typing import BinaryIO, TextIO

from .errors import CheckError, UsageError

#: The name of standard output as an output.
STDOUT = Path("-")

#: Error numbers for a full disk or quota, a file that is too large, and a pipe without a reader.
_NO_MORE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EPIPE)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path for the body to write; rename it to ``path`` on success, and remove it on failure.

    The target of a symbolic link is replaced. A device, a pipe, ``-`` or ``/dev/stdout`` cannot be replaced: the bytes
    are written to it when they are complete.

    Raises:
        UsageError: the folder cannot be made or written to, the disk is full, or ``path`` is a folder.
    """
    with _refused(path):
        stream = is_stream(path)
    with _refused(path, every=False):
        if stream:
            with TemporaryDirectory(prefix="edgepose-") as folder:
                temporary = Path(folder) / f"output{path.suffix}"
                temporary.touch()
                yield temporary
                with _refused(path), temporary.open("rb") as file, _open_stream(path) as output:
                    shutil.copyfileobj(file, output)
        else:
            with _replacement(path) as temporary:
                yield temporary


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """Open an output for UTF-8 text: a file as in :func:`atomic_path`; a device, pipe or ``-`` gets each line at once.

    Raises:
        UsageError: as in :func:`atomic_path`, or the reader of a pipe has closed it.
        BrokenPipeError: the reader of standard output has closed it.
    """
    with _refused(path):
        stream = _open_stream(path) if is_stream(path) else None
    if stream is not None:
        with _refused(path, every=False), io.TextIOWrapper(stream, encoding="utf-8", line_buffering=True) as file:
            yield file
    else:
        with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
            yield file


def write_text(path: Path, text: str) -> None:
    """Write text to an output, see :func:`open_text`."""
    with open_text(path) as file:
        file.write(text)


def check_writable(path: Path) -> None:
    """Raise UsageError if an output cannot be written, without leaving a file or opening a pipe."""
    with _refused(path):
        if not is_stream(path):
            _try_folder(_target(path).absolute().parent)
        elif (number := _descriptor(path)) is not None:
            os.fstat(number)  # refuses one that is closed
        elif not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def check_writable_folder(folder: Path) -> None:
    """Raise UsageError if no file can be written into a folder, which may not exist yet; leave no file."""
    with _refused(folder, "to folder "):
        _try_folder(folder.absolute())


def place(path: Path) -> str:
    """Return the real path of an output, the same for all names of one file or stream."""
    return os.path.realpath("/dev/stdout" if path == STDOUT else path)


def is_stream(path: Path) -> bool:
    """Return whether ``path`` is a device, a pipe or an open file instead of the name of a new file.

    Raises:
        UsageError: it is a folder or a socket.
        OSError: it cannot be determined, for example in a loop of links.
    """
    if path == STDOUT:
        return True
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    if stat.S_ISDIR(mode) or stat.S_ISSOCK(mode):
        kind = "folder" if stat.S_ISDIR(mode) else "socket"
        raise UsageError(f"cannot write {path}: it is a {kind}, expected the name of a file")
    return not stat.S_ISREG(mode) or _descriptor(path) is not None


@contextmanager
def staging_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder inside the folder ``path``, for files that are moved to ``path`` when all are complete.

    It is removed at the end. A missing ``path`` is made, and removed again if it is empty at the end.

    Raises:
        UsageError: the folder cannot be made or written to, or the disk is full.
    """
    with _refused(path, "to folder "):
        fresh = not path.exists()
        path.mkdir(parents=True, exist_ok=True)
        staging = Path(mkdtemp(prefix=".new-", dir=path))
    try:
        with _refused(path, "to folder ", every=False):
            yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if fresh and not any(path.iterdir()):
            path.rmdir()


def cache_folder() -> Path:
    """Return the folder of the cache: ``$XDG_CACHE_HOME/edgepose``, or ``~/.cache/edgepose``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgepose"


def sha256(path: Path) -> str:
    """Return the hex digest of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def _replacement(path: Path) -> Iterator[Path]:
    """Yield an empty file beside the target of ``path``, and replace the target with it at the end."""
    target = _target(path)
    with _refused(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        # Keep the suffix: encoders choose the format by it.
        temporary = target.with_name(f".{path.stem[:40]}-{secrets.token_hex(4)}{path.suffix}")
        # The kernel applies the umask; Python could read it only by changing it for all threads.
        handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        mode = stat.S_IMODE(os.fstat(handle).st_mode)
        os.close(handle)
    try:
        yield temporary
        with _refused(path):
            temporary.chmod(mode)  # a library may have replaced the file by its own
            flush(temporary)
            temporary.replace(target)
            flush(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Wait until a file or folder is on the disk, so that after a power cut no name exists without its content."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _target(path: Path) -> Path:
    """Return the target of a symbolic link, which may not exist, or else the path itself."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _descriptor(path: Path) -> int | None:
    """Return the file descriptor of ``-``, ``/dev/stdout`` or ``/dev/fd/3``, or None for any other path."""
    if path == STDOUT:
        return 1
    while path.is_symlink():
        if os.path.realpath(path.parent) == os.path.realpath("/proc/self/fd"):
            return int(path.name)
        path = path.parent / path.readlink()
    return None


def _open_stream(path: Path) -> BinaryIO:
    number = _descriptor(path)
    if number is None:
        return path.open("wb")
    # Do not open it by name: a file to which the shell redirects the output would be overwritten from its start.
    sys.stdout.flush()
    return os.fdopen(os.dup(number), "wb")


def _try_folder(folder: Path) -> None:
    """Write a byte into a temporary file in the folder or its nearest existing parent; raise OSError if that fails."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    with TemporaryFile(dir=existing) as file:
        file.write(b"\0")  # a full disk still accepts an empty file


@contextmanager
def _refused(path: Path, what: str = "", *, every: bool = True) -> Iterator[None]:
    """Turn errors of the system into a UsageError: every one, or only those of :data:`_NO_MORE`.

    The latter are also found in the errors of libraries. BrokenPipeError of standard output is raised as it is: a
    reader that closes it, such as ``| head``, is no error.
    """
    try:
        yield
    except (UsageError, CheckError):
        raise
    except Exception as error:
        reason = error.strerror if every and isinstance(error, OSError) else _no_more(error)
        if reason is None or (isinstance(error, BrokenPipeError) and place(path) == place(STDOUT)):
            raise
        raise UsageError(f"cannot write {what}{path}: {reason}") from error


def _no_more(error: BaseException | None) -> str | None:
    """Return the system's text for an error of :data:`_NO_MORE` in an error or its causes, or None.

    Some libraries only quote the text, such as safetensors: "I/O error: No space left on device (os error 28)".
    """
    while error is not None:
        for code in _NO_MORE:
            if getattr(error, "errno", None) == code or os.strerror(code) in str(error):
                return os.strerror(code)
        error = error.__cause__ or error.__context__
    return None
