"""A bundle that is changed while the machine crashes, other processes change it, or its folder is no plain one."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from edgepose.bundle import change as module
from edgepose.bundle.bundle import Bundle, check_replaceable, open_bundle, replace_bundle, replace_files, write_manifest
from edgepose.bundle.manifest import CALIBRATION, CHECKPOINT, GOLDENS, MANIFEST, Manifest
from edgepose.bundle.tasks import POSE
from edgepose.core.errors import UsageError
from tests.doubles.crash import crash_after

OLD = {POSE.graph: "old", GOLDENS: "old", CHECKPOINT: "old", "engines/a.engine": "old", "engines/a.json": "old"}
#: What one build changes: an engine that was there, and one that was not.
BUILD = {"engines/a.engine": "new", "engines/b.engine": "new"}
#: What another network has.
NETWORK = {POSE.graph: "new", GOLDENS: "new", CHECKPOINT: "new"}

#: What a bundle is changed by.
Action = Callable[[Path], object]


def fill(folder: Path, contents: dict[str, str]) -> list[Path]:
    """Write files into a folder."""
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return [folder / name for name in contents]


def make(path: Path) -> Bundle:
    """The old bundle, with a report, a timing cache and a file of the user's that no manifest names."""
    files = fill(path, OLD)
    fill(path, {"reports/verify.html": "old", "engines/a.timing": "old", "mine.txt": "mine"})
    return write_manifest(path, Manifest("x", "none", "lsp14", (16, 12))).with_files(*files)


def named(bundle: Bundle) -> dict[str, str]:
    return {name: (bundle.path / name).read_text() for name in sorted(bundle.manifest.files)}


def build(path: Path) -> None:
    """As ``edgepose build`` does."""
    staged = path / ".new-1"
    bundle = open_bundle(path)
    fill(staged, {Path(name).name: content for name, content in BUILD.items()})
    replace_files(bundle, {name: staged / Path(name).name for name in BUILD})
    shutil.rmtree(staged)


def export(path: Path) -> None:
    """As ``edgepose export`` does."""
    check_replaceable(path, POSE)
    staged = path / ".new-2"
    fill(staged, NETWORK)
    replace_bundle(path, Manifest("x", "none", "lsp14", (32, 24)), staged)
    shutil.rmtree(staged)


@pytest.mark.parametrize(("action", "new"), [(build, {**OLD, **BUILD}), (export, NETWORK)])
def test_a_crash_before_any_call_leaves_the_old_bundle_or_the_new_one(
    tmp_path: Path, action: Action, new: dict[str, str]
) -> None:
    states = []
    for calls in count():
        path = make(tmp_path / f"{calls}.edgepose").path
        with crash_after(calls) as made:
            action(path)
        opened = open_bundle(path)
        states.append(named(opened))
        assert (path / "mine.txt").read_text() == "mine"
        assert not (path / module.CHANGE).exists()
        is_network = action is export and states[-1] == NETWORK
        assert (path / "reports" / "verify.html").exists() is not is_network, "reports are of the network there is"
        assert (path / "engines" / "a.timing").exists() is not is_network
        assert opened.manifest.input_size == ((32, 24) if is_network else (16, 12))
        if len(made.made) < calls:  # it came to its end
            break
    turn = states.index(dict(sorted(new.items())))
    assert states == [dict(sorted(OLD.items()))] * turn + [dict(sorted(new.items()))] * (len(states) - turn)
    assert turn >= 10 and len(states) - turn >= 5, "there were crashes before and after the change"


def test_a_crash_while_a_crash_is_mended_is_mended_as_well(tmp_path: Path) -> None:
    def crashed(calls: int) -> Path:
        path = make(tmp_path / f"{calls}.edgepose").path
        with crash_after(calls):
            export(path)
        return path

    first = next(calls for calls in count() if (crashed(calls) / module.CHANGE / MANIFEST).is_file())
    for calls in count():
        path = shutil.copytree(tmp_path / f"{first}.edgepose", tmp_path / "again" / f"{calls}.edgepose")
        with crash_after(calls) as made:
            open_bundle(path)
        assert named(open_bundle(path)) == dict(sorted(NETWORK.items()))
        if len(made.made) < calls:
            break
    assert calls >= 8


def test_a_first_export_that_crashes_leaves_a_bundle_or_a_folder_that_takes_one(tmp_path: Path) -> None:
    seen = set()
    for calls in count():
        path = tmp_path / f"{calls}.edgepose"
        path.mkdir()
        with crash_after(calls) as made:
            export(path)
        try:
            seen.add(open_bundle(path).manifest.input_size)
        except UsageError as error:
            assert "it has no manifest.json" in str(error)
            seen.add(None)
            shutil.rmtree(path / ".new-2", ignore_errors=True)
            export(path)
        assert named(open_bundle(path)) == dict(sorted(NETWORK.items()))
        if len(made.made) < calls:
            break
    assert seen == {None, (32, 24)}


def test_leftovers_of_a_crash_are_not_taken_for_somebody_elses_files(tmp_path: Path) -> None:
    fill(tmp_path, {".new-x1/pose.onnx": "", ".change-unfinished/pose.onnx": ""})
    check_replaceable(tmp_path, POSE)
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(UsageError, match="exists and is not a bundle: give another -o"):
        check_replaceable(tmp_path, POSE)


def test_an_interrupted_change_in_a_folder_that_cannot_be_written_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(tmp_path / "x.edgepose").path
    fill(path / module.CHANGE, NETWORK)
    made = write_manifest(path / module.CHANGE, Manifest("x", "none", "lsp14", (32, 24)))
    made.with_files(*(made.path / name for name in NETWORK))

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(module.shutil, "move", refuse)
    with pytest.raises(UsageError) as refused:
        open_bundle(path)
    assert str(refused.value) == (
        "a change of the bundle was interrupted and has to be finished first: cannot change bundle "
        f"{path}: Read-only file system"
    )
    monkeypatch.undo()
    assert named(open_bundle(path)) == dict(sorted(NETWORK.items()))


def test_builds_into_one_bundle_at_the_same_time_lose_no_engine(tmp_path: Path) -> None:
    bundle = make(tmp_path / "x.edgepose")
    names = [f"engines/{i}.engine" for i in range(8)]
    staged = dict(zip(names, fill(tmp_path / "staged", {Path(name).name: name for name in names}), strict=True))
    start = threading.Barrier(len(names))

    def add(name: str) -> None:
        start.wait()
        replace_files(bundle, {name: staged[name]})

    threads = [threading.Thread(target=add, args=[name]) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert named(open_bundle(bundle.path)) == {**OLD, **{name: name for name in names}}


def test_a_reader_sees_the_old_bundle_or_the_new_one_while_it_is_changed(tmp_path: Path) -> None:
    bundle = make(tmp_path / "x.edgepose")
    stop = threading.Event()

    def change_again_and_again() -> None:
        try:
            for i in range(40):
                (file,) = fill(tmp_path / "staged", {"a.engine": f"build {i}"})
                replace_files(bundle, {"engines/a.engine": file})
        finally:
            stop.set()

    thread = threading.Thread(target=change_again_and_again)
    thread.start()
    while not stop.is_set():
        open_bundle(bundle.path)
    thread.join()
    assert named(open_bundle(bundle.path))["engines/a.engine"] == "build 39"


def test_what_was_made_from_a_network_that_was_replaced_meanwhile_is_refused(tmp_path: Path) -> None:
    bundle = make(tmp_path / "x.edgepose")
    export(bundle.path)
    (file,) = fill(tmp_path / "staged", {"a.engine": "of the old graph"})
    with pytest.raises(UsageError, match=r"was replaced while engines/a\.engine was made from the old one: run the"):
        replace_files(bundle, {"engines/a.engine": file})
    assert named(open_bundle(bundle.path)) == dict(sorted(NETWORK.items()))


def test_reports_and_other_parts_survive_what_does_not_replace_the_network(tmp_path: Path) -> None:
    path = make(tmp_path / "x.edgepose").path
    build(path)
    assert {"verify.html"} == {entry.name for entry in (path / "reports").iterdir()}
    assert {"a.engine", "a.json", "a.timing", "b.engine"} == {entry.name for entry in (path / "engines").iterdir()}


def test_another_network_takes_the_old_ones_parts_with_it(tmp_path: Path) -> None:
    path = make(tmp_path / "x.edgepose").path
    fill(path, {"pose.int8.onnx": "of the old network", CALIBRATION: "{}", "reports/deep/x.log": ""})
    export(path)
    assert sorted(entry.name for entry in path.iterdir()) == sorted([*NETWORK, MANIFEST, "mine.txt"])


def test_a_bundle_behind_a_link_is_changed_where_it_lies(tmp_path: Path) -> None:
    path = make(tmp_path / "there.edgepose").path
    link = tmp_path / "here.edgepose"
    link.symlink_to(path)
    build(link)
    assert link.is_symlink()
    assert named(open_bundle(path)) == named(open_bundle(link)) == {**OLD, **BUILD}


def test_engines_on_another_disk_are_moved_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, rename = make(tmp_path / "x.edgepose").path, os.rename

    def other_disk(source: Path, target: Path) -> None:
        if Path(target).parent == path / "engines":
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        rename(source, target)

    monkeypatch.setattr(os, "rename", other_disk)
    build(path)
    assert named(open_bundle(path)) == {**OLD, **BUILD}


@pytest.mark.parametrize("part", ["engines", ".change"])
def test_a_link_in_a_bundle_moves_and_removes_nothing_outside(tmp_path: Path, part: str) -> None:
    """A bundle from somebody else is opened: its unfinished change must not reach into the user's folders."""
    path, outside = make(tmp_path / "x.edgepose").path, tmp_path / "outside"
    fill(outside, {"a.engine": "precious", "verify.html": "precious"})
    change = outside if part == ".change" else path / ".change"
    contents = {POSE.graph: "new", GOLDENS: "new", "engines/a.engine": "evil"}
    files = fill(change, contents)
    write_manifest(change, Manifest("x", "none", "lsp14", (16, 12))).with_files(*files)
    shutil.rmtree(path / part, ignore_errors=True)
    (path / part).symlink_to(outside)
    before = {file: file.read_bytes() for file in outside.rglob("*") if file.is_file()}
    with pytest.raises(UsageError, match=r"leads out of the bundle .*: expected a folder, got a link to one"):
        open_bundle(path)
    assert {file: file.read_bytes() for file in outside.rglob("*") if file.is_file()} == before


def test_reports_behind_a_link_are_somebody_elses(tmp_path: Path) -> None:
    path, outside = make(tmp_path / "x.edgepose").path, tmp_path / "outside"
    (path / "reports").replace(outside)
    (path / "reports").symlink_to(outside)
    export(path)
    assert (outside / "verify.html").read_text() == "old"
    assert named(open_bundle(path)) == dict(sorted(NETWORK.items()))


def test_engines_that_may_not_be_written_are_refused_before_the_change_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as those that a container made as root; root itself may write everywhere, so the refusal is played."""
    bundle = make(tmp_path / "x.edgepose")
    engines = bundle.path / "engines"
    monkeypatch.setattr(os, "access", lambda path, mode: (path, mode) != (engines, os.W_OK))
    with pytest.raises(UsageError, match=rf"^cannot write to folder {engines}: Permission denied$"):
        build(bundle.path)
    assert open_bundle(bundle.path) == bundle


@pytest.mark.parametrize("name", ["engines", "engines/b.engine"])
def test_what_stands_in_the_way_is_refused_before_the_change_is_made(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.edgepose"
    files = fill(path, NETWORK)
    bundle = write_manifest(path, Manifest("x", "none", "lsp14", (16, 12))).with_files(*files)
    if name == "engines":
        (path / name).touch()
    else:
        (path / name).mkdir(parents=True)
    with pytest.raises(UsageError, match=r"^cannot write .*expected a file in a folder; move away what is there$"):
        build(path)
    assert open_bundle(path) == bundle


def test_a_folder_among_the_engines_is_left_alone(tmp_path: Path) -> None:
    path = make(tmp_path / "x.edgepose").path
    fill(path, {"engines/kept/notes.txt": "mine"})
    export(path)
    assert [str(file.relative_to(path)) for file in (path / "engines").rglob("*")] == [
        "engines/kept",
        "engines/kept/notes.txt",
    ]
    assert named(open_bundle(path)) == dict(sorted(NETWORK.items()))


def test_a_change_that_would_leave_the_bundle_is_refused_before_it_is_made(tmp_path: Path) -> None:
    path = make(tmp_path / "x.edgepose").path
    shutil.copytree(path / "engines", tmp_path / "outside")
    shutil.rmtree(path / "engines")
    (path / "engines").symlink_to(tmp_path / "outside")
    old = named(open_bundle(path))
    with pytest.raises(UsageError, match="leads out of the bundle"):
        build(path)
    assert named(open_bundle(path)) == old


def test_a_full_disk_leaves_the_old_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = make(tmp_path / "x.edgepose")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, "write_text", full)
    with pytest.raises(UsageError, match=r"cannot change bundle .*x\.edgepose: No space left on device"):
        build(bundle.path)
    assert open_bundle(bundle.path) == bundle


@pytest.mark.parametrize("has_fcntl", [True, False])
def test_a_folder_that_cannot_be_locked_is_changed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_fcntl: bool
) -> None:
    def unknown(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    if has_fcntl:
        monkeypatch.setattr("fcntl.flock", unknown)
    else:
        monkeypatch.setitem(sys.modules, "fcntl", None)  # its import fails, as on Windows
    path = make(tmp_path / "x.edgepose").path
    build(path)
    assert named(open_bundle(path)) == {**OLD, **BUILD}


def test_the_old_manifest_is_not_changed_by_what_is_added(tmp_path: Path) -> None:
    bundle = make(tmp_path / "x.edgepose")
    build(bundle.path)
    assert replace(open_bundle(bundle.path).manifest, files={}) == replace(bundle.manifest, files={})
    assert bundle.manifest.files.keys() == OLD.keys()
