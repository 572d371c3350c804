"""Joints and categories of COCO-style files go by their names."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from edgepose.core.errors import UsageError
from edgepose.core.skeletons import get_skeleton
from edgepose.data import load_data
from tests.doubles.coco_root import CONTENT, PERSON, make_root, with_person


def skeleton_of(*names: str) -> list[dict[str, Any]]:
    return [{"id": 1, "name": "person", "keypoints": list(names)}]


def test_joints_are_taken_by_their_names(tmp_path):
    """The names are from the ankles up, with a joint that COCO has not; the nose is the last but one."""
    names = [name.replace("left_", "L").title() for name in reversed(get_skeleton("coco17").joints)]
    values = [[50 + i, 60, 2] for i in range(17)]
    content = with_person(keypoints=[*np.ravel(values).tolist(), 70, 61, 2])
    content["categories"] = skeleton_of(*names, "Neck")
    del content["annotations"][0]
    (person,) = load_data(make_root(tmp_path, content, "a.jpg"), "val").samples
    assert person.joints.tolist() == [[66 - i, 60] for i in range(17)]


@pytest.mark.parametrize("names", [[{"name": "nose"}] * 17, [None] * 17, ["a", 2]])
def test_names_that_are_no_text_are_refused(tmp_path, names):
    content = {**CONTENT, "categories": [{"id": 1, "name": "person", "keypoints": names}]}
    with pytest.raises(UsageError, match=r"expected those of coco17 \(missing: nose, left_eye"):
        load_data(make_root(tmp_path, content, "a.jpg"), "val")


@pytest.mark.parametrize("names", [[], "none", None, [*map(str, range(17))], list(range(17))])
def test_joints_without_names_are_in_cocos_order(tmp_path, names):
    content = {**CONTENT, "categories": [{"id": 1, "name": "person", "keypoints": names}]}
    (person,) = load_data(make_root(tmp_path, content, "a.jpg"), "val").samples
    assert person.joints[0].tolist() == [30, 40]


def test_human_art_names_more_joints_than_it_has(tmp_path):
    """Real annotations have 17 of the 21 joints that their category names, in its order."""
    more = ("left_finger", "right_finger", "left_toe", "right_toe")
    content = with_person(keypoints=[30, 40, 2] * 18)
    content["categories"] = skeleton_of(*get_skeleton("coco17").joints, *more)
    data = load_data(make_root(tmp_path / "a", content, "a.jpg"), "val")
    assert [person.joints[0].tolist() for person in data.samples] == [[30, 40]]
    assert data.skipped == {"wrong number of joints (expected 21)": ["a.jpg: annotation 8"]}
    content["categories"] = skeleton_of(*more, *get_skeleton("coco17").joints)
    with pytest.raises(UsageError, match=r"2 wrong number of joints \(expected 21\)"):
        load_data(make_root(tmp_path / "b", content, "a.jpg"), "val")


@pytest.mark.parametrize(
    ("folder", "file", "kind", "message"),
    [
        ("posetrack18/annotations", "test_posetrack18_val.json", "coco", r"\(missing: left_eye, right_eye\)"),
        ("mhp", "test_mhp.json", "coco", r"has the joints Right-ankle, .*\(missing: nose, left_eye"),
        ("jhmdb", "test_jhmdb_sub1.json", "coco", r"has the joints neck, belly, .*\(missing: nose, left_eye"),
        ("posetrack18/annotations", "test_posetrack18_val.json", "crowdpose", r"\(missing: neck\): rename those"),
        ("halpe", "test_halpe.json", "coco", r"12 wrong number of joints \(expected 17\), 2 no"),
    ],
)
def test_real_files_of_other_joints_are_refused(shared, tmp_path, folder, file, kind, message):
    path = shared / "data/dataset_samples" / folder / file
    content = json.loads(path.read_text())
    (tmp_path / "annotations").mkdir()
    names = {"coco": "person_keypoints_val.json", "crowdpose": "crowdpose_val.json"}
    (tmp_path / "annotations" / names[kind]).symlink_to(path)
    for picture in content["images"]:
        (tmp_path / "images" / picture["file_name"]).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / picture["file_name"]).touch()
    with pytest.raises(UsageError, match=message):
        load_data(f"{kind}:{tmp_path}", "val")


def test_real_aic_is_read_by_its_names(shared, tmp_path):
    sample = shared / "data/dataset_samples/aic"
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/crowdpose_val.json").symlink_to(sample / "test_aic.json")
    (tmp_path / "images").symlink_to(sample)
    data = load_data(f"crowdpose:{tmp_path}", "val")
    first = data.samples[0].joints.tolist()
    assert (first[1], first[0]) == ([313, 201], [406, 197])  # right shoulder, left shoulder
    assert (first[12], first[13]) == ([395, 74], [372, 170])  # head, neck


def with_categories(*categories: Any, number: int = 2) -> dict[str, Any]:
    return {**CONTENT, "annotations": [{**PERSON, "category_id": number}], "categories": list(categories)}


NOSES = ["nose", *get_skeleton("coco17").joints[1:]]


@pytest.mark.parametrize(
    "content",
    [
        with_categories({"id": 1, "name": "box"}, {"id": 2, "name": "human", "keypoints": NOSES}),
        with_categories({"id": 1, "name": "person"}, {"id": 2, "name": "skeleton", "keypoints": NOSES}),
        with_categories({"id": 1, "name": "dog"}, {"id": 2, "name": " Person "}),
        with_categories(
            {"id": 1, "name": "person"},
            {"id": 2, "name": "Person", "keypoints": NOSES},
            {"id": 3, "name": "dog", "keypoints": ["tail"]},
        ),
        with_categories(
            {"id": 1, "name": "dog", "keypoints": ["tail"]}, {"id": 2, "name": "PERSON", "keypoints": NOSES}
        ),
        with_categories({"id": "2", "name": "person", "keypoints": NOSES}, {"id": 2, "name": "person"}, "x", {}),
        with_categories({"id": 0, "name": "human", "keypoints": NOSES}, number=0),
        with_categories(number=0),
    ],
    ids=str,
)
def test_the_category_with_joints_is_the_persons(tmp_path, content):
    data = load_data(make_root(tmp_path, content, "a.jpg"), "val")
    assert [person.joints[0].tolist() for person in data.samples] == [[30, 40]]
    assert not data.skipped


def test_annotations_of_other_categories_are_named(tmp_path):
    content = with_categories({"id": 5, "name": "human", "keypoints": NOSES})
    content["annotations"].append({**PERSON, "category_id": "seven"})
    message = r"no annotation of the persons' category, 5 'human' with joints, but of 2, seven: correct the ids$"
    with pytest.raises(UsageError, match=message):
        load_data(make_root(tmp_path, content, "a.jpg"), "val")


@pytest.mark.parametrize(
    ("categories", "listed"),
    [
        (
            [{"id": 2, "name": "man", "keypoints": NOSES}, {"id": 3, "name": "woman", "keypoints": NOSES}],
            "2 'man' with joints, 3 'woman' with joints",
        ),
        ([{"id": 2, "name": "man"}, {"id": 3, "name": "woman"}], "2 'man', 3 'woman'"),
        ([{"id": 2, "name": "person"}, {"id": 3, "name": "Person"}], "2 'person', 3 'Person'"),
        ([], "none"),
    ],
)
def test_categories_that_do_not_tell_the_persons_are_named(tmp_path, categories, listed):
    content = with_categories(*categories)
    content["annotations"].append({**PERSON, "category_id": 3})
    with pytest.raises(
        UsageError, match=rf"val2017\.json has the categories {listed}: expected one with joints, or one"
    ):
        load_data(make_root(tmp_path, content, "a.jpg"), "val")
