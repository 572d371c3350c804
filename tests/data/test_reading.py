"""Pictures are found by the names that labelling tools write, under the folder of the data set and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgepose.core.errors import UsageError
from edgepose.data.reading import Intake, picture_places


def make_intake(root: Path, *files: str) -> Intake:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return Intake("coco", "coco17", root / "labels.json", [root / "val", root / "images", root])


@pytest.mark.parametrize(
    "name",
    [
        "a b.jpg",
        "images/a b.jpg",
        "images\\a b.jpg",
        "/a b.jpg",
        "./a b.jpg",
        "/home/me/project/a b.jpg",
        "C:\\Users\\me\\data\\a b.jpg",
        "..\\..\\media\\upload\\4\\a b.jpg",
        "../../images/a b.jpg",
        "https://host.org/x/y/a%20b.jpg",
        "https://host.org/a%20b.jpg?token=1&size=2#top",
        "s3://bucket/a b.jpg",
        "file:///data/a%20b.jpg",
        "/data/local-files/?d=images/a%20b.jpg",
        "images%2Fa%20b.jpg",
    ],
)
@pytest.mark.parametrize("place", ["images/a b.jpg", "val/a b.jpg", "a b.jpg"])
def test_the_names_of_labelling_tools_are_found(tmp_path, name, place):
    intake = make_intake(tmp_path, place)
    assert intake.picture(1, name) == tmp_path / place
    assert intake.data.pictures == {1: tmp_path / place}


def test_folders_of_a_name_go_first(tmp_path):
    intake = make_intake(tmp_path, "images/clip/0.jpg", "images/0.jpg", "0.jpg")
    assert intake.picture(1, "clip/0.jpg") == tmp_path / "images/clip/0.jpg"
    assert intake.picture(2, "0.jpg") == tmp_path / "images/0.jpg"


def test_a_file_whose_name_has_a_percent_sign_is_not_decoded(tmp_path):
    intake = make_intake(tmp_path, "images/a%20b.jpg", "images/a b.jpg")
    assert intake.picture(1, "a%20b.jpg") == tmp_path / "images/a%20b.jpg"


def test_one_file_for_two_pictures_is_refused(tmp_path):
    intake = make_intake(tmp_path, "images/0.jpg")
    assert intake.picture(1, "images/0.jpg") == intake.picture(2, "images\\0.jpg") == tmp_path / "images/0.jpg"
    with pytest.raises(
        UsageError, match=r"labels\.json lists 'images/0\.jpg' and 'clip/0\.jpg', for which there is only"
    ):
        intake.picture(3, "clip/0.jpg")


@pytest.mark.parametrize(
    "name", ["../secret.jpg", "..%2Fsecret.jpg", "{root}/../secret.jpg", "images/../../secret.jpg", "..\\secret.jpg"]
)
def test_nothing_outside_of_the_folder_is_read(tmp_path, name):
    intake = make_intake(tmp_path / "root", "images/a.jpg")
    (tmp_path / "secret.jpg").touch()
    assert intake.picture(1, name.format(root=tmp_path / "root")) is None
    assert list(intake.data.skipped) == ["picture missing"]


@pytest.mark.parametrize("name", ["", "/", "..", "images", "x" * 5000, "a\0b.jpg", "\ud800.jpg", "https://host", "://"])
def test_names_that_no_picture_has_are_missing(tmp_path, name):
    assert make_intake(tmp_path, "images/a.jpg").picture(1, name) is None


def test_places_by_hand():
    assert list(picture_places("C:\\x\\a%41.jpg")) == ["x/a%41.jpg", "a%41.jpg", "x/aA.jpg", "aA.jpg"]
