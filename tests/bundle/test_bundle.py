"""The bundle: written, read, and refused with one sentence where it is not what its manifest says."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgepose.bundle.bundle import Bundle, check_replaceable, open_bundle, replace_files, write_manifest
from edgepose.bundle.goldens import Goldens, read_goldens
from edgepose.bundle.manifest import CALIBRATION, CHECKPOINT, GOLDENS, MANIFEST, SCHEMA, Manifest, read_manifest
from edgepose.bundle.tasks import POSE
from edgepose.core.errors import UsageError
from edgepose.core.files import sha256
from edgepose.core.skeletons import LSP14

MANIFEST_VALUES = Manifest("small", "ditn_lite", "lsp14", (256, 192), options={"sab": False}, made_with={"torch": "2"})


def make_goldens() -> Goldens:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 256, 192, 3), dtype=np.uint8)
    outputs = {"keypoints": rng.random((2, 14, 3), np.float32), "heatmaps": rng.random((2, 14, 64, 48), np.float32)}
    return Goldens(images, outputs)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    path = tmp_path / "small.edgepose"
    path.mkdir()
    (path / POSE.graph).write_bytes(b"graph")
    make_goldens().save(path / GOLDENS)
    return write_manifest(path, MANIFEST_VALUES).with_files(path / POSE.graph, path / GOLDENS)


def change_manifest(bundle: Bundle, **changes: Any) -> None:
    file = bundle.path / MANIFEST
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_what_is_written_is_read(bundle: Bundle) -> None:
    opened = open_bundle(str(bundle.path))
    assert opened == bundle
    assert replace(opened.manifest, files={}) == MANIFEST_VALUES
    assert opened.manifest.input_size == (256, 192)  # a tuple again, not JSON's list
    assert opened.manifest.files == {name: sha256(bundle.path / name) for name in (POSE.graph, GOLDENS)}
    assert opened.skeleton == LSP14
    assert (opened.graph, opened.reports) == (bundle.path / "pose.onnx", bundle.path / "reports")
    read, written = read_goldens(opened), make_goldens()
    assert list(read.outputs) == ["keypoints", "heatmaps"]
    pairs: Any = zip((read.images, *read.outputs.values()), (written.images, *written.outputs.values()), strict=True)
    for got, want in pairs:
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)


def test_the_manifest_is_json_that_says_what_it_is(bundle: Bundle) -> None:
    values = json.loads((bundle.path / MANIFEST).read_text())
    expected = {**asdict(MANIFEST_VALUES), "input_size": [256, 192], "files": bundle.manifest.files}
    assert values == expected
    assert (values["schema"], values["crop_padding"], values["decode"], values["trained"]) == (1, 1.25, "quarter", True)


def test_files_are_added_and_hashed_again(bundle: Bundle) -> None:
    engine = bundle.path / "engines" / "b.engine"
    engine.parent.mkdir()
    for name in ("b.engine", "a.engine", "a.json"):
        (engine.parent / name).write_text(name)
    (bundle.path / POSE.graph).write_bytes(b"another graph")
    with pytest.raises(UsageError, match=r"pose\.onnx was changed"):
        open_bundle(bundle.path)
    more = bundle.with_files(bundle.path / POSE.graph, *(engine.parent / n for n in ("b.engine", "a.engine", "a.json")))
    assert open_bundle(bundle.path) == more
    assert more.manifest.files["engines/b.engine"] == sha256(engine)
    assert more.manifest.files[GOLDENS] == bundle.manifest.files[GOLDENS]
    assert [path.name for path in more.engines()] == ["a.engine", "b.engine"]
    assert bundle.manifest.files.keys() == {POSE.graph, GOLDENS}  # the old object is as it was


def stage(folder: Path, *names: str) -> dict[str, Path]:
    """New files, by the name they will have in the bundle."""
    folder.mkdir()
    staged = {name: folder / name.replace("/", "-") for name in names}
    for name, file in staged.items():
        file.write_text(f"new {name}")
    return staged


def test_files_are_moved_in_and_named(bundle: Bundle, tmp_path: Path) -> None:
    staged = stage(tmp_path / "staged", POSE.graph, "engines/a.engine")
    changed = replace_files(bundle, staged)
    assert open_bundle(bundle.path) == changed
    assert changed.graph.read_text() == "new pose.onnx"
    assert changed.manifest.files == {
        name: sha256(bundle.path / name) for name in (POSE.graph, GOLDENS, "engines/a.engine")
    }
    assert list((tmp_path / "staged").iterdir()) == []


@pytest.mark.parametrize("name", [CHECKPOINT, CALIBRATION])
def test_a_part_that_would_be_used_but_is_not_named_is_refused(bundle: Bundle, name: str) -> None:
    (bundle.path / name).write_bytes(b"of another network")
    with pytest.raises(UsageError, match=rf"holds {name}, which its manifest does not name: remove it$"):
        open_bundle(bundle.path)
    named = bundle.with_files(bundle.path / name)
    assert open_bundle(bundle.path) == named


def test_files_beside_the_named_ones_do_no_harm(bundle: Bundle) -> None:
    bundle.reports.mkdir()
    (bundle.reports / "verify.json").write_text("{}")
    assert open_bundle(bundle.path) == bundle


def test_a_changed_file_is_refused(bundle: Bundle) -> None:
    (bundle.path / POSE.graph).write_bytes(b"grapH")
    with pytest.raises(UsageError, match=r"pose\.onnx was changed after the manifest was written .* export the bundle"):
        open_bundle(bundle.path)


def test_a_missing_file_is_refused(bundle: Bundle) -> None:
    (bundle.path / GOLDENS).unlink()
    with pytest.raises(UsageError, match=r"lacks golden\.npz, which its manifest names: copy or export"):
        open_bundle(bundle.path)


def test_what_is_no_bundle_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("file", "none"):
        with pytest.raises(UsageError, match=rf"{name} is not a bundle: expected a folder NAME\.edgepose"):
            open_bundle(tmp_path / name)
    (bundle.path / MANIFEST).unlink()
    with pytest.raises(UsageError, match=r"is not a bundle: it has no manifest\.json"):
        open_bundle(bundle.path)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"1", b"{}", b'{"schema": null}', b"\xff\xfe\x00"])
def test_a_damaged_manifest_is_refused(bundle: Bundle, text: bytes) -> None:
    (bundle.path / MANIFEST).write_bytes(text)
    with pytest.raises(UsageError, match=r"manifest\.json is damaged .*: export the bundle again"):
        open_bundle(bundle.path)


def test_a_newer_schema_is_refused_whatever_else_it_holds(bundle: Bundle) -> None:
    change_manifest(bundle, schema=SCHEMA + 1, unheard_of=1)
    with pytest.raises(UsageError, match="has schema 2, this edgepose reads up to 1: upgrade edgepose"):
        open_bundle(bundle.path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_size": 256}, "not iterable"),
        ({"input_size": [256]}, "input_size must be two positive whole numbers"),
        ({"input_size": ["256", "192"]}, "input_size must be"),
        ({"input_size": [256, 0]}, "input_size must be"),
        ({"input_size": [True, True]}, "input_size must be"),
        ({"input_size": [256.0, 192]}, "input_size must be"),
        ({"trained": 1}, "trained must be true or false"),
        ({"made_with": ["torch"]}, "made_with must be an object of texts"),
        ({"made_with": {"torch": 2}}, "made_with must be an object of texts"),
        ({"files": None}, "files must be an object of texts"),
        ({"files": ["pose.onnx"]}, "files must be an object of texts"),
        ({"files": {"pose.onnx": 1}}, "files must be an object of texts"),
        ({"files": {"pose.onnx": "0" * 63}}, "files must name the sha256 of each file"),
        ({"files": {"pose.onnx": "G" * 64}}, "files must name the sha256 of each file"),
        ({"options": None}, "options must be an object"),
        ({"options": {"sab": "no"}}, "options must be an object of whole numbers, true or false"),
        ({"crop_padding": "1.25"}, "crop_padding must be a positive number"),
        ({"crop_padding": 0}, "crop_padding must be a positive number"),
        ({"crop_padding": True}, "crop_padding must be a positive number"),
        ({"crop_padding": float("inf")}, "crop_padding must be a positive number"),
        ({"crop_padding": float("nan")}, "crop_padding must be a positive number"),
        ({"skeleton": 14}, "must be texts"),
        ({"decode": "dark"}, "decode must be one of quarter, boxes, got 'dark'"),
        ({"decode": None}, "decode must be one of quarter, boxes, got None"),
    ],
)
def test_values_that_no_manifest_holds_are_refused(bundle: Bundle, changes: dict[str, Any], message: str) -> None:
    change_manifest(bundle, **changes)
    with pytest.raises(UsageError, match=rf"does not hold a manifest of schema 1 \(.*{message}.*\): export the bundle"):
        open_bundle(bundle.path)


def test_a_manifest_that_lacks_a_field_is_refused(bundle: Bundle) -> None:
    values = json.loads((bundle.path / MANIFEST).read_text())
    for name in ("name", "model", "skeleton", "input_size"):
        (bundle.path / MANIFEST).write_text(json.dumps({key: v for key, v in values.items() if key != name}))
        with pytest.raises(UsageError, match=rf"does not hold a manifest of schema 1 \(.*{name}"):
            open_bundle(bundle.path)


@pytest.mark.parametrize(
    ("files", "missing"),
    [
        ({}, "pose.onnx"),
        ({GOLDENS: "of the bundle"}, "pose.onnx"),
        ({POSE.graph: "of the bundle"}, "golden.npz"),
        ({"detector.onnx": "of the bundle", GOLDENS: "of the bundle"}, "pose.onnx"),
    ],
)
def test_a_manifest_that_does_not_name_the_graph_and_the_goldens_is_refused(
    bundle: Bundle, files: dict[str, str], missing: str
) -> None:
    """Without their hashes any graph of the same shapes would run, and prove itself with nothing."""
    change_manifest(bundle, files={name: bundle.manifest.files.get(name, "0" * 64) for name in files})
    with pytest.raises(UsageError, match=rf"does not list {missing}, which every bundle needs: export"):
        open_bundle(bundle.path)
    assert read_manifest(bundle.path).files.keys() == files.keys()  # what is being made can be read all the same


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('"files": {', '"files": {}, "files": {', "'files'"),
        ('"files": {', '"files": {"pose.onnx": "1", "pose.onnx": "2", ', "'pose.onnx'"),
        ('"schema": 1', '"schema": 1, "schema": 1', "'schema'"),
    ],
)
def test_a_manifest_that_says_a_thing_twice_is_refused(bundle: Bundle, old: str, new: str, key: str) -> None:
    file = bundle.path / MANIFEST
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(UsageError, match=rf"manifest\.json holds the key {key} twice, expected each key once: do not"):
        open_bundle(bundle.path)


def test_unknown_keys_of_the_same_schema_are_ignored(bundle: Bundle) -> None:
    change_manifest(bundle, unheard_of=[1], yet_another={"name": "x"})
    assert open_bundle(bundle.path) == bundle


def test_a_manifest_of_a_million_brackets_is_refused(bundle: Bundle) -> None:
    (bundle.path / MANIFEST).write_text("[" * 1_000_000)
    with pytest.raises(UsageError, match=r"manifest\.json is damaged"):
        open_bundle(bundle.path)


@pytest.mark.parametrize("name", ["../outside", "engines/../../outside", "/etc/hostname"])
def test_a_manifest_cannot_name_files_outside(bundle: Bundle, name: str) -> None:
    (bundle.path.parent / "outside").write_text("secret")
    change_manifest(bundle, files={name: sha256(bundle.path.parent / "outside")})
    with pytest.raises(UsageError, match=rf"names files outside the bundle \({name}\): do not trust it"):
        open_bundle(bundle.path)


def test_a_manifest_of_schema_zero_or_text_is_refused(bundle: Bundle) -> None:
    for schema in (0, -1, "1", 1.5, True):
        change_manifest(bundle, schema=schema)
        with pytest.raises(UsageError, match="is damaged"):
            open_bundle(bundle.path)


@pytest.mark.parametrize("name", ["", MANIFEST, POSE.graph, "elsewhere"])
def test_a_folder_without_permission_is_one_sentence(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Root may read everything, so the refusal is played: of the folder around, the manifest, a file."""
    refused, stat, real_open = bundle.path / name, Path.stat, Path.open

    def forbid(path: Path) -> None:
        if path.is_relative_to(refused):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    def stat_played(path: Path, **options: Any) -> os.stat_result:
        if name not in (POSE.graph, MANIFEST):
            forbid(path)
        return stat(path, **options)

    def open_played(path: Path, *arguments: Any, **options: Any) -> Any:
        forbid(path)
        return real_open(path, *arguments, **options)

    monkeypatch.setattr(Path, "stat", stat_played)
    monkeypatch.setattr(Path, "open", open_played)
    with pytest.raises(UsageError, match=r"^cannot read \S+: Permission denied$"):
        open_bundle(refused if name == "elsewhere" else bundle.path)
    if not name:
        with pytest.raises(UsageError, match=r"^cannot read \S+: Permission denied$"):
            check_replaceable(bundle.path, POSE)
