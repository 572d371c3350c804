"""No file is half-written."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from edgepose.core.errors import UsageError
from edgepose.core.files import atomic_path, sha256, staging_folder, write_text


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
