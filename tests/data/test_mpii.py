"""MPII: HRNet's centre, scale and joints, head sizes, and files that are broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

scipy_io = pytest.importorskip("scipy.io")

from edgepose.core.errors import UsageError
from edgepose.core.geometry import crop_regions
from edgepose.data import load_data

#: A person 200 px tall around (101, 101), with the first joint labelled.
PERSON: dict[str, Any] = {
    "image": "a.jpg",
    "center": [101.0, 86.0],
    "scale": 1.0,
    "joints": [[31.0, 41.0]] * 16,
    "joints_vis": [1] + [0] * 15,
}


def make_root(root: Path, content: Any, *pictures: str, heads: np.ndarray | Path | None = None) -> str:
    """A folder in MPII's layout: ``content`` (JSON, or a file to link to) is the val split; pictures are empty."""
    (root / "annot").mkdir(parents=True)
    (root / "images").mkdir()
    if isinstance(content, Path):
        (root / "annot/valid.json").symlink_to(content)
    else:
        (root / "annot/valid.json").write_text(content if isinstance(content, str) else json.dumps(content))
    if isinstance(heads, Path):
        (root / "annot/gt_valid.mat").symlink_to(heads)
    elif heads is not None:
        scipy_io.savemat(root / "annot/gt_valid.mat", {"headboxes_src": heads})
    for name in pictures:
        (root / "images" / name).touch()
    return f"mpii:{root}"


def test_a_person_is_read_by_value(tmp_path):
    data = load_data(make_root(tmp_path, [PERSON, {**PERSON, "image": "b.jpg"}, PERSON], "a.jpg", "b.jpg"), "val")
    assert (data.kind, data.skeleton, data.skipped) == ("mpii", "mpii16", {})
    assert data.annotations == tmp_path / "annot/valid.json"
    assert [s.image_id for s in data.samples] == [0, 1, 0]
    assert data.pictures == {0: tmp_path / "images/a.jpg", 1: tmp_path / "images/b.jpg"}
    person = data.samples[0]
    assert person.box.tolist() == [0, 0, 200, 200]  # down by 15 px and one to the first pixel's 0
    assert person.joints[0].tolist() == [30, 40]
    assert person.visible.tolist() == [True] + [False] * 15
    assert np.isnan(person.head_size)


def test_persons_equal_hrnet(reference, tmp_path):
    content = reference.load("mpii_synth_valid.json")
    names = {person["image"] for person in content}
    files = [reference.folder / name for name in ("mpii_synth_valid.json", "mpii_synth_gt_valid.mat")]
    data = load_data(make_root(tmp_path, files[0], *names, heads=files[1]), "val")

    file, golden = "hrnet_mpii_eval.npz", reference.load("hrnet_mpii_eval.npz")
    regions = crop_regions(np.stack([s.box for s in data.samples]), (256, 256))
    reference.match(file, regions[:, :2], golden["db_center"], atol=1e-9)
    reference.match(file, regions[:, 2:] / 200, golden["db_scale"], atol=1e-9)
    joints = golden["db_joints_3d"]
    reference.match(file, [s.joints for s in data.samples], joints[..., :2], atol=1e-9)
    visible = [s.visible for s in data.samples]
    reference.match(file, visible, golden["db_joints_3d_vis"][..., 0])
    reference.match("mpii_synth_valid.json", visible, [person["joints_vis"] for person in content])

    corners = golden["headboxes_src"]
    sizes = float(golden["SC_BIAS"]) * np.hypot(*(corners[1] - corners[0]))
    reference.match("mpii_synth_gt_valid.mat", [s.head_size for s in data.samples], sizes, atol=1e-9)


def test_real_samples_are_read(shared, tmp_path):
    sample = shared / "data/dataset_samples/mpii"
    spec = make_root(tmp_path, sample / "test_mpii.json")
    (tmp_path / "images").rmdir()
    (tmp_path / "images").symlink_to(sample)
    data = load_data(spec, "val")
    assert (len(data.samples), len(data.pictures), data.skipped) == (5, 5, {})
    first = data.samples[0]  # centre (966, 340), scale 4.718488
    assert first.image.name == "005808361.jpg"
    np.testing.assert_allclose((first.box[:2] + first.box[2:]) / 2, [965, 339 + 15 * 4.718488])
    np.testing.assert_allclose(first.box[2:] - first.box[:2], 200 * 4.718488)
    assert ((first.joints > first.box[:2]) & (first.joints < first.box[2:])).all()


def test_mpii_in_another_layout_and_its_missing_pictures(shared, tmp_path):
    """168 real persons of 100 pictures, which are not at hand: as they come, and brought into the common layout."""
    file = shared / "data/mpii_json/mpii_annotations_168.json"
    with pytest.raises(UsageError, match=r"MPII persons in another layout, expected MPII's list of image, center"):
        load_data(make_root(tmp_path / "raw", file), "val")
    common = [
        {
            "image": person["img_paths"],
            "center": person["objpos"],
            "scale": person["scale_provided"],
            "joints": [joint[:2] for joint in person["joint_self"]],
            "joints_vis": [int(joint[2] > 0) for joint in person["joint_self"]],
        }
        for person in json.loads(file.read_text())
    ]
    names = list(dict.fromkeys(person["image"] for person in common))
    with pytest.raises(
        UsageError, match=rf"none of the {len(names)} pictures .* such as {', '.join(names[:5])}, \.\.\."
    ):
        load_data(make_root(tmp_path / "none", common), "val")
    data = load_data(make_root(tmp_path / "some", common, *names[:60]), "val")
    assert data.skipped["picture missing"] == names[60:]
    labelled = [p for p in common if p["image"] in names[:60] and any(p["joints_vis"])]
    assert len(data.samples) == len(labelled)
    assert sum(s.visible.sum() for s in data.samples) == sum(sum(p["joints_vis"]) for p in labelled)


BROKEN = {
    "no labelled joint": {"joints_vis": [0] * 16},
    "wrong number of joints (expected 16)": {"joints": [[1, 2]] * 14},
    "no area": {"scale": 0},
    "smaller than a pixel": {"joints": [[0.4, 0.6]] * 16},
    "smaller than a pixel: the body": {"scale": 0.0049},
    "damaged annotation": {"center": [3.0]},
    "damaged annotation: text": {"joints": "none"},
    "damaged annotation: no joints_vis": {"joints_vis": None},  # left out
    "damaged annotation: huge": {"joints": [[1e30, 1.0]] * 16},
    "damaged annotation: NaN": {"scale": float("nan")},
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_persons_are_named_and_not_fatal(tmp_path, name):
    broken = {key: value for key, value in {**PERSON, **BROKEN[name]}.items() if value is not None}
    data = load_data(make_root(tmp_path, [PERSON, broken], "a.jpg"), "val")
    assert len(data.samples) == 1
    assert data.skipped == {name.split(":")[0]: ["a.jpg: person 1"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"images": [], "annotations": [{"keypoints": []}]}, "a file of COCO joints, expected MPII's list"),
        ([1], "a file of another kind, expected MPII's list"),
        ([], "no person that can be used with mpii16, it lists none"),
        (json.dumps([PERSON])[:50], "not readable JSON or was cut short"),
    ],
)
def test_files_of_another_kind_are_refused(tmp_path, content, message):
    with pytest.raises(UsageError, match=message):
        load_data(make_root(tmp_path, content, "a.jpg"), "val")


def test_a_missing_split_names_what_is_there(tmp_path):
    spec = make_root(tmp_path, [PERSON], "a.jpg")
    with pytest.raises(UsageError, match=r"annot/train.json is missing \(found valid.json\)"):
        load_data(spec, "train")


def test_head_boxes_of_other_persons_are_refused(tmp_path):
    spec = make_root(tmp_path / "a", [PERSON], "a.jpg", heads=np.zeros((2, 2, 3)))
    with pytest.raises(UsageError, match=r"shape \(2, 2, 3\), expected \(2, 2, 1\)"):
        load_data(spec, "val")
    file = tmp_path / "a/annot/gt_valid.mat"
    file.write_bytes(file.read_bytes()[:150])
    with pytest.raises(UsageError, match=r"gt_valid\.mat is not a readable annotation file"):
        load_data(spec, "val")
    scipy_io.savemat(file, {"other": np.zeros(1)})
    with pytest.raises(UsageError, match="has no array 'headboxes_src'"):
        load_data(spec, "val")
    scipy_io.savemat(file, {"headboxes_src": "text"})
    with pytest.raises(UsageError, match="holds <U4, expected numbers"):
        load_data(spec, "val")


def test_the_reference_length_is_six_tenths_of_the_head(tmp_path):
    """SC_BIAS of MPII's evaluation: a head box of 30 x 40 px has a diagonal of 50. An empty one has no length."""
    heads = np.zeros((2, 2, 2))
    heads[:, :, 0] = [[100, 50], [130, 90]]
    data = load_data(make_root(tmp_path, [PERSON, PERSON], "a.jpg", heads=heads), "val")
    np.testing.assert_allclose([person.head_size for person in data.samples], [30, np.nan], atol=1e-12)
