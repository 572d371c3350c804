"""Bundles that come with the package: they go by their names, and nothing is written into them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from edgepose.bundle.bundle import ASSETS, find_bundle, open_bundle, replace_files
from edgepose.core.errors import UsageError

SHIPPED = ASSETS / "ditn_lite.edgepose"


def test_a_shipped_bundle_goes_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_bundle("ditn_lite") == open_bundle(Path("ditn_lite")) == open_bundle(SHIPPED)
    assert open_bundle("ditn_lite").path == SHIPPED


@pytest.mark.parametrize("name", ["ditn", "none", "a/ditn_lite", "../ditn_lite", "../../assets/ditn_lite", ""])
def test_other_names_are_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_bundle(name) == Path(name)
    with pytest.raises(UsageError, match="is not a bundle: "):
        open_bundle(name)


def test_a_folder_of_the_users_goes_before_the_shipped_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(SHIPPED, tmp_path / "ditn_lite")
    assert open_bundle("ditn_lite").path == Path("ditn_lite")
    shutil.rmtree(tmp_path / "ditn_lite")
    (tmp_path / "ditn_lite").mkdir()
    with pytest.raises(UsageError, match=r"ditn_lite is not a bundle: it has no manifest\.json"):
        open_bundle("ditn_lite")


def test_folders_are_given_as_users_give_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = shutil.copytree(SHIPPED, tmp_path / "x.edgepose")
    monkeypatch.setenv("HOME", str(tmp_path))
    for given in (f"{copy}/", f"{copy}//", "~/x.edgepose", "~/x.edgepose/", Path("~/x.edgepose")):
        assert open_bundle(given).path == copy
    with pytest.raises(UsageError, match="cannot find ~nobody-of-this-name/x: "):
        open_bundle("~nobody-of-this-name/x")


def test_nothing_is_written_into_a_shipped_bundle(tmp_path: Path) -> None:
    bundle = open_bundle("ditn_lite")
    before = sorted(path.name for path in SHIPPED.iterdir())
    (tmp_path / "a.engine").touch()
    for change in (bundle.require_writable, lambda: replace_files(bundle, {"engines/a.engine": tmp_path / "a.engine"})):
        with pytest.raises(UsageError) as refused:
            change()
        assert str(refused.value) == (
            "bundle ditn_lite comes with the package and stays as it is: copy it and work on the copy: "
            f"cp -r {SHIPPED} ditn_lite.edgepose"
        )
    assert sorted(path.name for path in SHIPPED.iterdir()) == before


def test_a_bundle_of_somebody_else_is_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = open_bundle(shutil.copytree(SHIPPED, tmp_path / "x.edgepose"))
    assert bundle.read_only is None
    bundle.require_writable()
    monkeypatch.setattr(os, "access", lambda path, mode: (path, mode) != (bundle.path, os.W_OK))
    assert bundle.read_only == (
        f"bundle {bundle.path} may not be written to: copy it and work on the copy: "
        f"cp -r {bundle.path} ditn_lite.edgepose"
    )
    with pytest.raises(UsageError, match="may not be written to"):
        bundle.require_writable()


def test_a_link_to_a_shipped_bundle_is_as_read_only(tmp_path: Path) -> None:
    (tmp_path / "mine.edgepose").symlink_to(SHIPPED)
    assert "comes with the package" in str(open_bundle(tmp_path / "mine.edgepose").read_only)
