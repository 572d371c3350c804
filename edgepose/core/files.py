"""Files that are never half-written, and outputs that are no files: devices, pipes and standard output."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO, TextIO

from .errors import CheckError, UsageError

#: As the name of an output: standard output.
STDOUT = Path("-")

#: What the system answers when no more can be written: the disk or the quota is full, the file too large, nobody reads.
_NO_MORE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EPIPE)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Make a temporary path for the body to write; it becomes ``path`` on success and is removed on failure.

    Of a symbolic link the file that it names is replaced. A device, a pipe, ``-`` or ``/dev/stdout`` cannot be
    replaced: the bytes are written to it once they are whole.

    Raises:
        UsageError: the folder cannot be made or written to, the disk is full, or ``path`` is a folder.
    """
    with _refused(path):
        stream = is_stream(path)
    with _refused(path, every=False):
        if stream:
            with tempfile.TemporaryDirectory(prefix="edgepose-") as folder:
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
    """Open an output for UTF-8 text: a file as by :func:`atomic_path`; a device, pipe or ``-`` gets each line at once.

    Raises:
        UsageError: as :func:`atomic_path`, or nobody reads from the pipe any more.
        BrokenPipeError: nobody reads from standard output any more.
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
    """Refuse an output that could not be written in the end. Nothing is left on the disk, and no pipe is opened.

    Raises:
        UsageError: the folder cannot be written to, the disk is full, or ``path`` is a folder or a socket.
    """
    with _refused(path):
        if not is_stream(path):
            _try_folder(_target(path).absolute().parent)
        elif (number := _descriptor(path)) is not None:
            os.fstat(number)  # refuses one that is closed
        elif not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def check_writable_folder(folder: Path) -> None:
    """Refuse a folder into which no file could be written in the end. Nothing is left on the disk.

    Raises:
        UsageError: the folder cannot be made or written to, or the disk is full.
    """
    with _refused(folder, "to folder "):
        _try_folder(folder.absolute())


def place(path: Path) -> str:
    """Return where the bytes of an output go, symbolic links followed: two names of one place give the same."""
    return os.path.realpath("/dev/stdout" if path == STDOUT else path)


def is_stream(path: Path) -> bool:
    """Whether bytes written to ``path`` go to a device, a pipe or an open file, instead of into a new file.

    Raises:
        UsageError: a folder or a socket.
        OSError: nobody can tell, such as in a loop of links.
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
    """Make a temporary folder inside the folder ``path``, for files that are moved to ``path`` once all are made.

    It is removed at the end; ``path`` is made if it is missing, and removed again if it was and nothing came into it.

    Raises:
        UsageError: the folder cannot be made or written to, or the disk is full.
    """
    with _refused(path, "to folder "):
        fresh = not path.exists()
        path.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".new-", dir=path))
    try:
        with _refused(path, "to folder ", every=False):
            yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if fresh and not any(path.iterdir()):
            path.rmdir()


def cache_folder() -> Path:
    """Return where edgepose keeps what can be made again: ``$XDG_CACHE_HOME/edgepose``, or ``~/.cache/edgepose``."""
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
    """Make an empty file beside the target of ``path`` that takes its place in the end."""
    target = _target(path)
    with _refused(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        # The suffix is kept: encoders choose their format by it.
        temporary = target.with_name(f".{path.stem[:40]}-{secrets.token_hex(4)}{path.suffix}")
        # The kernel applies the process's umask: to read it, Python would have to change it for all threads.
        handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        mode = stat.S_IMODE(os.fstat(handle).st_mode)
        os.close(handle)
    try:
        yield temporary
        with _refused(path):
            temporary.chmod(mode)  # a library may have put a file of its own there
            _flush(temporary)
            temporary.replace(target)
            _flush(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Wait until a file or folder is on the disk: a name must not survive a power cut without its content."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _target(path: Path) -> Path:
    """Return the file that takes the bytes: what a symbolic link names, also where nothing is there yet."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _descriptor(path: Path) -> int | None:
    """Return the number of the open file that ``-``, ``/dev/stdout`` or ``/dev/fd/3`` stands for; None for a name."""
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
    # Opened by its name, a file to which the shell sends the output would be written from its beginning again.
    sys.stdout.flush()
    return os.fdopen(os.dup(number), "wb")


def _try_folder(folder: Path) -> None:
    """Write a byte into the folder, or into the nearest one above it that is there.

    Raises:
        OSError: it cannot be written.
    """
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    with TemporaryFile(dir=there) as file:
        file.write(b"\0")  # on a full disk an empty file can still be made


@contextmanager
def _refused(path: Path, what: str = "", *, every: bool = True) -> Iterator[None]:
    """Turn the system's errors into a UsageError: every one, or only those that say that no more can be written.

    The latter are also found in the errors of libraries. A reader of standard output that wants no more, such as
    ``| head``, is no error: BrokenPipeError goes through.
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
    """Return the system's reason why no more can be written, from an error or one that it came from; None if another.

    Some libraries only quote the system, such as safetensors: "I/O error: No space left on device (os error 28)".
    """
    while error is not None:
        for code in _NO_MORE:
            if getattr(error, "errno", None) == code or os.strerror(code) in str(error):
                return os.strerror(code)
        error = error.__cause__ or error.__context__
    return None
