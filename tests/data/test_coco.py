"""COCO keypoints, CrowdPose and detected boxes: read as HRNet reads them; what is broken is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgepose.core.errors import UsageError
from edgepose.core.geometry import crop_regions
from edgepose.data import load_data
from edgepose.data.detections import detected_samples
from edgepose.data.samples import PoseData, describe_skipped
from tests.doubles.coco_root import BROKEN, CONTENT, PERSON, make_root, with_person


def test_a_person_is_read_by_value(tmp_path):
    data = load_data(make_root(tmp_path, CONTENT, "a.jpg"), "val")
    (person,) = data.samples
    assert (data.kind, data.skeleton, data.skipped) == ("coco", "coco17", {})
    assert data.annotations == tmp_path / "annotations/person_keypoints_val2017.json"
    assert data.pictures == {1: tmp_path / "val2017/a.jpg"}
    assert person.joints[0].tolist() == [30, 40]
    assert person.visible.tolist() == [True] + [False] * 16
    assert person.box.tolist() == [10, 20, 49, 69]  # the last pixel, as HRNet
    assert (person.image, person.image_id, person.score) == (tmp_path / "val2017/a.jpg", 1, 1.0)


def test_persons_and_boxes_equal_hrnet(reference, tmp_path):
    content = reference.load("coco_synth_gt.json")
    names = [picture["file_name"] for picture in content["images"]]
    data = load_data(make_root(tmp_path, reference.folder / "coco_synth_gt.json", *names), "val")

    file, golden = "hrnet_coco_pipeline.npz", reference.load("hrnet_coco_pipeline.npz")
    reference.match(file, len(data.samples), golden["n_selected_by_select_data"])
    reference.match(file, [s.image_id for s in data.samples], golden["db_image_id"])
    assert data.samples[0].image.name == str(golden["db_image_path_example"]).split("/")[-1]
    regions = crop_regions(np.stack([s.box for s in data.samples]), (256, 192))
    reference.match(file, regions[:, :2], golden["db_center"], atol=1e-5, rtol=1e-7)  # float32 has no more digits
    reference.match(file, regions[:, 2:] / 200, golden["db_scale"], atol=1e-5)
    reference.match(file, [s.joints for s in data.samples], golden["db_joints_3d"][..., :2])
    reference.match(file, [s.visible for s in data.samples], golden["db_joints_3d_vis"][..., 0])

    # What the README of the references says is broken in this file.
    counts = [len(data.skipped[reason]) for reason in ("crowd", "no labelled joint", "no area")]
    reference.match("coco_synth_gt.json", counts, [5, 7, 1])
    labelled = [a["num_keypoints"] for a in content["annotations"] if a["num_keypoints"] and a["area"]]
    reference.match("coco_synth_gt.json", sorted(s.visible.sum() for s in data.samples), sorted(labelled))
    assert len(data.pictures) == 30  # two of them empty


@pytest.mark.parametrize("name", BROKEN)
def test_broken_annotations_are_named_and_not_fatal(tmp_path, name):
    data = load_data(make_root(tmp_path, BROKEN[name], "a.jpg"), "val")
    assert len(data.samples) == 1
    reason = name if name.endswith("(expected 17)") else name.split(" (")[0]
    assert data.skipped == {reason: ["a.jpg: annotation 8"]}
    assert describe_skipped(data) == f"skipped 1 (1 {reason}): a.jpg: annotation 8"


@pytest.mark.parametrize(
    ("categories", "person"),
    [
        ([{"id": 1, "name": "dog"}, {"id": 3, "name": "person"}], 3),
        ([{"id": "0", "name": "person"}, {"id": 1, "name": "dog"}], 0),
        ([{"id": 3, "name": "pedestrian"}], 1),
        ("none", 1),
    ],
)
def test_the_category_of_persons_is_the_one_of_that_name(tmp_path, categories, person):
    content = with_person(category_id=person, keypoints=[31, 41, 2] * 17)
    content["annotations"][0]["category_id"] = person + 1
    content["annotations"].append({k: v for k, v in PERSON.items() if k != "category_id"})
    data = load_data(make_root(tmp_path, {**content, "categories": categories}, "a.jpg"), "val")
    assert [s.visible.sum() for s in data.samples] == [17, 1]
    assert data.skipped == {"another category than person": ["picture 1: annotation 7"]}


def test_ids_may_be_text(tmp_path):
    content = with_person(image_id=1.0)
    content["images"] = [{"id": "0001", "file_name": "a.jpg"}, {"id": 2.5, "file_name": "b.jpg"}]
    content["annotations"][0]["image_id"] = "1"
    data = load_data(make_root(tmp_path, content, "a.jpg", "b.jpg"), "val")
    assert [s.image_id for s in data.samples] == [1, 1]
    assert data.skipped == {"damaged picture entry": ["b.jpg"]}


def test_broken_entries_of_pictures_are_named(tmp_path):
    content = with_person(image_id=[2])
    content["images"] += [{"file_name": "nameless.jpg"}, {"id": 3, "file_name": "gone.jpg"}]
    content["images"] += [{"id": float("inf"), "file_name": "endless.jpg"}]
    data = load_data(make_root(tmp_path, content, "a.jpg"), "val")
    assert len(data.samples) == 1
    assert data.skipped == {
        "damaged picture entry": ["nameless.jpg", "endless.jpg"],
        "picture missing": ["gone.jpg"],
        "annotation of an unlisted picture": ["picture [2]: annotation 8"],
    }
    assert describe_skipped(data).startswith(
        "skipped 4 (2 damaged picture entry, 1 picture missing, 1 annotation of an unlisted picture): nameless.jpg, "
    )


def test_a_line_names_five_of_many():
    data = PoseData("coco", "coco17", [], Path("x.json"), {"crowd": list("abc"), "no area": list("defg")})
    assert describe_skipped(data) == "skipped 7 (3 crowd, 4 no area): a, b, c, d, e, ..."


def test_one_id_for_two_pictures_is_refused(tmp_path):
    content = {**CONTENT, "images": [*CONTENT["images"], {"id": "1", "file_name": "b.jpg"}]}
    message = r"val2017\.json gives the id 1 to two pictures, 'a\.jpg' and 'b\.jpg': number them anew$"
    with pytest.raises(UsageError, match=message):
        load_data(make_root(tmp_path, content, "a.jpg", "b.jpg"), "val")


def test_no_picture_at_all_is_refused(tmp_path):
    content = {**CONTENT, "images": [{"id": i, "file_name": f"{i}.jpg"} for i in range(8)]}
    with pytest.raises(
        UsageError, match=r"none of the 8 pictures .* such as 0.jpg, 1.jpg, 2.jpg, 3.jpg, 4.jpg, \.\.\.:"
    ):
        load_data(make_root(tmp_path, content), "val")


OTHER_FILES = {
    "a file of COCO boxes without joints": {**CONTENT, "annotations": [{"image_id": 1, "bbox": [1, 2, 3, 4]}]},
    "a file of COCO captions": {**CONTENT, "annotations": [{"image_id": 1, "caption": "a man"}]},
    "a file of MPII persons": [{"image": "a.jpg", "joints": [], "joints_vis": []}],
    "a file of detected boxes": [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}],
    "a file of another kind": {"annotations": "none"},
    "COCO joints, expected COCO's lists of images": {"images": [1], "annotations": [PERSON]},
    "is a file of another kind": None,
    "not readable JSON or was cut short": json.dumps(CONTENT)[:200],
    "not readable JSON": "\x00\x01",
    "was cut short": "[" * 100_000,
    "no person that can be used with coco17, it lists none": {**CONTENT, "annotations": []},
    r"2 wrong number of joints \(expected 17\)": {
        **CONTENT,
        "annotations": [{**PERSON, "keypoints": [30, 40, 2] * 14}] * 2,
    },
}


@pytest.mark.parametrize("message", OTHER_FILES)
def test_files_of_another_kind_are_refused(tmp_path, message):
    with pytest.raises(UsageError, match=message):
        load_data(make_root(tmp_path, OTHER_FILES[message], "a.jpg"), "val")


def test_a_missing_file_names_those_beside_it(tmp_path):
    spec = make_root(tmp_path, CONTENT, "a.jpg", file="instances_val2017.json")
    with pytest.raises(UsageError, match=r"person_keypoints_train.json is missing \(found instances_val2017.json\)"):
        load_data(spec, "train")


@pytest.mark.parametrize("folder", ["val2017", "images/val2017", "val", "images/val", "images"])
def test_pictures_are_found_in_every_layout(tmp_path, folder):
    spec = make_root(tmp_path, CONTENT, file="person_keypoints_val.json")
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    (tmp_path / folder / "a.jpg").touch()
    assert load_data(spec, "val").samples[0].image == tmp_path / folder / "a.jpg"


@pytest.mark.parametrize(("split", "pictures", "persons", "skipped"), [("train", 62, 143, 128), ("val", 92, 219, 204)])
def test_real_coco_has_the_documented_persons(shared, split, pictures, persons, skipped):
    data = load_data(f"coco:{shared / 'data/coco_mix'}", split)
    assert (len(data.pictures), len(data.samples)) == (pictures, persons)
    assert sum(map(len, data.skipped.values())) == skipped


def test_repeated_entries_of_pictures_do_not_repeat_persons(shared, tmp_path):
    """A real file with one image entry per annotation, of which only some pictures are at hand."""
    mix = shared / "data/coco_mix"
    make_root(tmp_path, mix / "annotations/person_keypoints_val2017_first538.json")
    (tmp_path / "val").symlink_to(mix / "val")
    data = load_data(f"coco:{tmp_path}", "val")
    content = json.loads(data.annotations.read_text())
    at_hand = {p["id"] for p in content["images"] if (mix / "val" / p["file_name"]).exists()}
    usable = [a for a in content["annotations"] if a["image_id"] in at_hand and a["num_keypoints"] and not a["iscrowd"]]
    assert len(data.samples) == len(usable) > 50
    assert sorted(s.joints[:, 0].sum() for s in data.samples) == sorted(sum(a["keypoints"][::3]) for a in usable)
    assert len(data.skipped["picture missing"]) == len({p["id"] for p in content["images"]} - at_hand)


def make_crowdpose(root: Path, shared: Path, folder: str) -> PoseData:
    sample = shared / "data/dataset_samples/crowdpose"
    (root / folder).mkdir(parents=True)
    (root / folder / "crowdpose_val.json").symlink_to(sample / "test_crowdpose.json")
    (root / "images").symlink_to(sample)
    return load_data(f"crowdpose:{root}", "val")


@pytest.mark.parametrize("folder", ["json", "annotations"])
def test_crowdpose_reads_real_samples(shared, tmp_path, folder):
    data = make_crowdpose(tmp_path, shared, folder)
    assert (data.kind, data.skeleton, len(data.samples)) == ("crowdpose", "crowdpose14", 4)
    assert data.skipped == {"no labelled joint": ["106848.jpg: annotation 131039"]}
    first = next(s for s in data.samples if s.image_id == 106848)
    assert first.joints[12].tolist() == [256, 27]  # the head
    assert first.visible.tolist() == [False, True, False, True, True, True, False, True, *[False] * 4, True, True]
    np.testing.assert_allclose(first.box, [106.01, 13.43, 378.16, 364.85])  # no area is given, the box has one


def test_joints_of_another_data_set_are_refused(shared, tmp_path):
    sample = shared / "data/dataset_samples/crowdpose"
    content = json.loads((sample / "test_crowdpose.json").read_text())
    spec = make_root(tmp_path / "named", content, "103319.jpg", "106848.jpg")
    with pytest.raises(
        UsageError, match=r"right_ankle, head, neck, expected those of coco17 \(missing: nose, left_eye"
    ):
        load_data(spec, "val")
    content["categories"] = [{"id": 1, "name": "person"}]
    spec = make_root(tmp_path / "nameless", content, "103319.jpg", "106848.jpg")
    with pytest.raises(UsageError, match=r"coco17, skipped 5 \(4 wrong number of joints \(expected 17\), 1 no"):
        load_data(spec, "val")


def test_detected_boxes_replace_the_labelled(shared, tmp_path):
    boxes = shared / "data/dataset_samples/crowdpose/test_crowdpose_det_AP_40.json"
    labelled = make_crowdpose(tmp_path, shared, "json")
    found = detected_samples(labelled, boxes)
    entries = json.loads(boxes.read_text())
    assert len(found.samples) == len(entries) == 6
    assert (found.annotations, found.pictures) == (labelled.annotations, labelled.pictures)
    for sample, entry in zip(found.samples, entries, strict=True):
        x, y, width, height = entry["bbox"]
        assert sample.box.tolist() == [x, y, x + width, y + height]
        assert (sample.score, sample.image_id) == (entry["score"], entry["image_id"])
        assert sample.image.stem == str(entry["image_id"])
        assert sample.joints.shape == (14, 2)
        assert not sample.visible.any()


def test_detected_boxes_of_no_use_are_named(tmp_path):
    labelled = load_data(make_root(tmp_path, CONTENT, "a.jpg"), "val")
    good = {"image_id": 1, "category_id": 1, "bbox": [-5, 2, 30, 40], "score": 0.5}
    entries = [
        {**good, "category_id": 3},
        good,
        {**good, "image_id": 2},
        {**good, "bbox": [1, 2, 0, 4]},
        {**good, "bbox": [1, 2]},
        {**good, "bbox": [0.1, 0.2, 0.3, 0.9]},
        {**good, "score": "high"},
    ]
    (tmp_path / "boxes.json").write_text(json.dumps(entries))
    found = detected_samples(labelled, tmp_path / "boxes.json")
    assert [s.box.tolist() for s in found.samples] == [[-5, 2, 25, 42]]  # HRNet does not clip these
    assert found.skipped == {
        "picture not in the data": ["entry 2"],
        "no area": ["entry 3"],
        "damaged entry": ["entry 4", "entry 6"],
        "smaller than a pixel": ["entry 5"],
    }


@pytest.mark.parametrize("kind", ["lsp", "mpii"])
def test_a_measure_without_use_for_detections_says_so_before_it_reads_them(kind):
    labelled = PoseData(kind, "lsp14", [], Path("labels"))
    with pytest.raises(UsageError, match=f"^{kind} is scored on labelled boxes: leave the detected boxes out"):
        detected_samples(labelled, Path("none.json"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (CONTENT, "is a file of COCO joints, expected COCO's list"),
        ([{"image_id": 1, "keypoints": [9] * 51, "score": 1}], "is a file of found joints, expected COCO's list"),
        ([1, 2], "a file of another kind, expected COCO's list"),
        ([], r"has no person in the pictures of .* \(0 entries\)"),
        ([{"image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 1}], r"\(1 entries, none of category 1\)"),
        (
            [{"image_id": 5, "category_id": "1", "bbox": [1, 2, 3, 4], "score": 1}],
            r"\(skipped 1 \(1 picture not in the data\): entry 0\)",
        ),
    ],
)
def test_detections_of_another_kind_are_refused(tmp_path, content, message):
    labelled = load_data(make_root(tmp_path, CONTENT, "a.jpg"), "val")
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=message):
        detected_samples(labelled, tmp_path / "boxes.json")
    with pytest.raises(UsageError, match=r"cannot read .*none.json: No such file"):
        detected_samples(labelled, tmp_path / "none.json")
