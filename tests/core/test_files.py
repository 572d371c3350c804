"""No file is half-written."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from edgepose.core.errors import UsageError
from edgepose.core.files import (
    STDOUT,
    atomic_path,
    check_writable,
    check_writable_folder,
    open_text,
    place,
    sha256,
    staging_folder,
    write_text,
)

#: Outputs that fail as on a full disk with the first byte; made anew, because a test may run as root.
FULL_DEVICE = (stat.S_IFCHR | 0o666, os.makedev(1, 7))


def test_a_file_appears_whole_under_its_name(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "x.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert temporary.parent == path.parent  # the same disk: renaming is atomic
        assert temporary.suffix == ".txt"  # encoders choose their format by it
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, OSError])
def test_a_failure_keeps_the_old_file_and_leaves_no_other(tmp_path: Path, failure: type[BaseException]) -> None:
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(failure), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise failure
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot write .*x\.txt: No space left"), atomic_path(tmp_path / "x.txt"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(UsageError, match=r"cannot write .*file/x\.txt: "):
        write_text(tmp_path / "file" / "x.txt", "new")
    with pytest.raises(UsageError, match=r"cannot write .*: it is a folder, expected the name of a file"):
        write_text(tmp_path, "new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("file", "old")]


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_permissions_are_those_of_any_new_file(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_text(tmp_path / "x.txt", "é")
        assert (tmp_path / "x.txt").stat().st_mode & 0o777 == 0o666 & ~mask
        assert os.umask(mask) == mask  # reading the mask did not change it
    finally:
        os.umask(before)
    assert (tmp_path / "x.txt").read_bytes() == "é".encode()


def test_files_that_other_threads_make_meanwhile_have_the_right_permissions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgepose.core.files.flush", lambda _: None)  # so that more are made meanwhile
    mask = os.umask(0o027)
    try:
        (tmp_path / "atomic").mkdir()
        done = threading.Event()

        def make(thread: int) -> None:
            for i in range(1000):
                (tmp_path / f"{thread}-{i}").touch()

        def replace() -> None:
            while not done.is_set():
                write_text(tmp_path / "atomic" / "x", "new")

        replacing = threading.Thread(target=replace)
        threads = [threading.Thread(target=make, args=(i,)) for i in range(4)]
        for thread in (replacing, *threads):
            thread.start()
        for thread in threads:
            thread.join()
        done.set()
        replacing.join()
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert len(files) == 4001
        assert {path.stat().st_mode & 0o777 for path in files} == {0o640}
    finally:
        os.umask(mask)


def test_the_umask_of_the_process_is_never_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To read it with ``os.umask``, one has to set it for all threads."""
    monkeypatch.setattr(os, "umask", lambda _: pytest.fail("the umask was set"))
    write_text(tmp_path / "x", "new")
    with staging_folder(tmp_path / "new"):
        pass


def test_a_file_that_the_body_put_there_gets_the_same_permissions(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        with atomic_path(tmp_path / "x") as temporary:
            temporary.unlink()
            os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))
        assert (tmp_path / "x").stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(mask)


def test_a_long_name_can_be_written(tmp_path: Path) -> None:
    write_text(tmp_path / ("x" * 251 + ".txt"), "new")
    with pytest.raises(UsageError, match="File name too long"):
        write_text(tmp_path / ("x" * 252 + ".txt"), "new")


@pytest.mark.parametrize("there", [True, False])
def test_a_symbolic_link_stays_and_its_file_is_replaced(tmp_path: Path, there: bool) -> None:
    target, link = tmp_path / "there" / "target.txt", tmp_path / "link.txt"
    target.parent.mkdir()
    if there:
        target.write_text("old")
    link.symlink_to("there/target.txt")
    with atomic_path(link) as temporary:
        assert temporary.parent == target.parent  # the same disk: renaming is atomic
        temporary.write_text("new")
    assert link.readlink() == Path("there/target.txt")
    assert target.read_text() == "new"
    with pytest.raises(ValueError), atomic_path(link):
        raise ValueError
    assert target.read_text() == "new"


def test_a_loop_of_links_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    for refused in (check_writable, lambda path: write_text(path, "new")):
        with pytest.raises(UsageError, match=r"cannot write .*a: Too many levels of symbolic links"):
            refused(tmp_path / "a")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def with_atomic_path(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text)


WRITERS = [write_text, with_atomic_path]


@pytest.mark.parametrize("write", WRITERS)
def test_a_pipe_stays_one_and_its_reader_gets_the_bytes(tmp_path: Path, write: Callable[[Path, str], None]) -> None:
    pipe = tmp_path / "pipe.txt"
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    check_writable(pipe)  # opens nothing: the reader would see the end
    write(pipe, "new")
    reader.join()
    assert read == ["new"]
    assert pipe.is_fifo()
    assert [path.name for path in tmp_path.iterdir()] == ["pipe.txt"]


@pytest.mark.parametrize("write", WRITERS)
def test_a_device_stays_one(tmp_path: Path, write: Callable[[Path, str], None]) -> None:
    device = tmp_path / "full"
    try:
        os.mknod(device, *FULL_DEVICE)
        device.open("wb").close()
    except OSError:  # only root makes devices, and not everywhere
        device.unlink(missing_ok=True)
        device.symlink_to("/dev/full")
    check_writable(device)
    with pytest.raises(UsageError, match=r"cannot write .*full: No space left on device"):
        write(device, "new")
    assert stat.S_ISCHR(device.stat().st_mode)
    check_writable(Path(os.devnull))
    write(Path(os.devnull), "new")
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_standard_output_is_written_in_order(
    capfd: pytest.CaptureFixture[str], write: Callable[[Path, str], None], name: str
) -> None:
    """Here it is a file, as with ``> file``: to open it by its name would write over its beginning."""
    for text in ("one\n", "two\n"):
        check_writable(Path(name))
        write(Path(name), text)
    print("three")
    assert capfd.readouterr().out == "one\ntwo\nthree\n"


def test_each_line_reaches_a_stream_at_once() -> None:
    reading, writing = os.pipe()
    with open_text(Path(f"/dev/fd/{writing}")) as file:
        file.write("one\n")
        assert os.read(reading, 100) == b"one\n"
    os.close(reading)
    with pytest.raises(UsageError, match="Broken pipe"):
        write_text(Path(f"/dev/fd/{writing}"), "two\n")
    os.close(writing)
    for refused in (check_writable, lambda path: write_text(path, "new")):
        with pytest.raises(UsageError, match=f"cannot write /dev/fd/{writing}"):
            refused(Path(f"/dev/fd/{writing}") / "x")


def test_names_of_one_place_are_seen(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "new" / "x")
    assert place(tmp_path / "link") == place(tmp_path / "new" / ".." / "new" / "x") == str(tmp_path / "new" / "x")
    assert place(STDOUT) == place(Path("/dev/stdout"))
    assert place(tmp_path / "a") != place(tmp_path / "b")


def test_what_can_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("old")
    (tmp_path / "old").chmod(0o400)
    (tmp_path / "link").symlink_to("nothing/x")
    for path in (tmp_path / "old", tmp_path / "new" / "folder" / "x", tmp_path / "link", STDOUT):
        check_writable(path)
    for folder in (tmp_path, tmp_path / "new" / "folder"):
        check_writable_folder(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "old"]
    assert (tmp_path / "old").read_text() == "old"


def test_what_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"cannot write .*: it is a folder, expected the name of a file"):
        check_writable(tmp_path)
    with pytest.raises(UsageError, match=r"cannot write .*file/x: Not a directory"):
        check_writable(tmp_path / "file" / "x")
    for folder in (tmp_path / "file", tmp_path / "file" / "x"):
        with pytest.raises(UsageError, match=rf"cannot write to folder {folder}: Not a directory"):
            check_writable_folder(folder)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        with pytest.raises(UsageError, match=r"cannot write .*socket: it is a socket, expected the name of a file"):
            check_writable(tmp_path / "socket")


#: What each way of writing does on a disk with room for 4 kB; the old file must stay.
FILLING = """
import resource, sys
from pathlib import Path
from edgepose.core.errors import UsageError
from edgepose.core.files import atomic_path, check_writable, staging_folder, write_text
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
folder, text = Path(sys.argv[1]), "x" * 100_000
def atomic():
    with atomic_path(folder / "old") as temporary:
        temporary.write_text(text)
def quoting():
    with atomic_path(folder / "old"):
        raise RuntimeError("I/O error: No space left on device (os error 28)")
def following():
    with atomic_path(folder / "old") as temporary:
        try:
            temporary.write_text(text)
        finally:
            raise RuntimeError("the archive is not finished")
def staged():
    with staging_folder(folder) as staging:
        (staging / "part").write_text(text)
for write in (atomic, quoting, following, staged, lambda: write_text(folder / "old", text)):
    try:
        write()
    except UsageError as error:
        print(error)
if int(sys.argv[2]) == 0:
    try:
        check_writable(folder / "new")
    except UsageError as error:
        print(error)
"""


@pytest.mark.parametrize("room", [4096, 0])
def test_a_disk_that_fills_up_is_one_sentence_and_the_old_file_stays(tmp_path: Path, room: int) -> None:
    (tmp_path / "old").write_text("old")
    done = subprocess.run([sys.executable, "-c", FILLING, tmp_path, str(room)], capture_output=True, text=True)
    full = [f"cannot write {tmp_path / 'old'}: File too large"] * 2
    want = [full[0], f"cannot write {tmp_path / 'old'}: No space left on device", full[1]]
    want += [f"cannot write to folder {tmp_path}: File too large", full[0]]
    assert done.stderr == ""
    assert done.stdout.splitlines() == want + [f"cannot write {tmp_path / 'new'}: File too large"] * (room == 0)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("old", "old")]


def test_a_place_that_is_taken_meanwhile_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot write .*x: Is a directory"), atomic_path(tmp_path / "x"):
        (tmp_path / "x").mkdir()
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_refusal_inside_another_is_not_told_twice(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error, staging_folder(tmp_path / "new") as staging, atomic_path(staging / "x"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert str(error.value) == f"cannot write {staging / 'x'}: No space left on device"
    assert list(tmp_path.iterdir()) == []


def test_sha256_of_known_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    (tmp_path / "x").write_bytes(b"a" * (1 << 20) + b"b")  # longer than one block
    assert sha256(tmp_path / "x") == hashlib.sha256((tmp_path / "x").read_bytes()).hexdigest()


def test_a_staging_folder_leaves_nothing_behind(tmp_path: Path) -> None:
    fresh, old = tmp_path / "a" / "fresh", tmp_path / "old"
    old.mkdir()
    (old / "kept").write_text("old")
    for folder in (fresh, old):
        with pytest.raises(ValueError), staging_folder(folder) as staging:
            (staging / "part").write_text("new")
            raise ValueError
    assert not fresh.exists()
    assert [p.name for p in old.iterdir()] == ["kept"]
    with staging_folder(fresh) as staging:
        (staging / "part").write_text("new")
        (staging / "part").replace(fresh / "part")
    assert [p.name for p in fresh.iterdir()] == ["part"]
    with pytest.raises(UsageError, match=r"cannot write to folder .*part: "), staging_folder(fresh / "part"):
        pass


def test_a_reader_of_standard_output_may_leave() -> None:
    """As ``| head`` does; the command ends quietly then, see ``main``."""
    code = "from pathlib import Path\nfrom edgepose.core.files import write_text\n"
    code += "try:\n    write_text(Path('-'), 'x' * 1_000_000)\nexcept BrokenPipeError:\n    raise SystemExit(3)\n"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
    assert process.returncode == 3
