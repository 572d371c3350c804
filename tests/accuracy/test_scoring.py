"""Scores of predictors whose answers are known: by hand, and as pycocotools and HRNet's evaluation give them."""

import io
import itertools
import json
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("scipy")
pytest.importorskip("pycocotools")

from edgepose.accuracy import scoring as accuracy
from edgepose.accuracy.coco import FIGURES
from edgepose.accuracy.scoring import predict, score, shared_skeleton
from edgepose.core.errors import CheckError, UsageError
from edgepose.core.geometry import crop_boxes, crop_regions, region_affine, transform_points
from edgepose.core.images import read_image
from edgepose.core.skeletons import COCO17, LSP14, MPII16, SKELETONS, get_skeleton
from edgepose.data import load_data
from edgepose.data.detections import detected_samples
from edgepose.data.samples import PoseData, PoseSample

SIZE = (128, 96)


class KnowingPredictor:
    """Answers crop after crop with Gaussians around given joints (N, J, 2) in image pixels."""

    def __init__(self, samples, joints, padding=1.25):
        matrices = [region_affine(region, SIZE) for region in crop_regions([s.box for s in samples], SIZE, padding)]
        self.centres = [transform_points(points, matrix) / 4 for points, matrix in zip(joints, matrices, strict=True)]
        self.done = 0

    def __call__(self, crops):
        centres = np.stack(self.centres[self.done : self.done + len(crops)])
        self.done += len(crops)
        dx = np.arange(SIZE[1] // 4) - centres[..., :1]
        dy = np.arange(SIZE[0] // 4) - centres[..., 1:]
        return np.exp(-(dy[..., :, None] ** 2 + dx[..., None, :] ** 2) / 8).astype(np.float32)


def knowing(data):
    return KnowingPredictor(data.samples, [s.joints for s in data.samples])


PEOPLE = [  # picture, left, top, width, height
    *((1, 10, 10, 80, 120), (1, 120, 20, 70, 100), (2, 30, 5, 100, 130), (3, 5, 40, 40, 60), (3, 60, 40, 90, 90)),
]


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    """COCO's layout: three pictures with persons, one empty; large and medium persons; one is not labelled."""
    root, rng = tmp_path_factory.mktemp("coco"), np.random.default_rng(0)
    annotations = []
    for number, (image, left, top, width, height) in enumerate(PEOPLE, start=1):
        low, span = np.array([left, top]), np.array([width, height])
        points = (low + span * rng.uniform(0.2, 0.8, size=(17, 2))).round(2)
        keypoints = np.column_stack([points, np.full(17, 2)])
        keypoints[3] = 0  # no left ear anywhere
        entry = {"id": number, "image_id": image, "category_id": 1, "iscrowd": 0, "bbox": [left, top, width, height]}
        entry |= {"area": 0.9 * width * height, "num_keypoints": 16, "keypoints": keypoints.ravel().tolist()}
        annotations.append(entry)
    annotations.append({**annotations[0], "id": 99, "image_id": 2, "keypoints": [0] * 51, "num_keypoints": 0})
    images = [{"id": i, "file_name": f"{i:012}.jpg", "width": 200, "height": 150} for i in range(1, 5)]
    (root / "annotations").mkdir()
    (root / "val2017").mkdir()
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}
    (root / "annotations/person_keypoints_val2017.json").write_text(json.dumps(content))
    for listed in images:
        picture = rng.integers(0, 256, (150, 200, 3), dtype=np.uint8)
        cv2.imwrite(str(root / "val2017" / str(listed["file_name"])), picture)
    return root


def by_hand(annotations: Path, results: list, tmp_path: Path, sigmas=None):
    """Percent by name as pycocotools itself gives them for a result file."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    (tmp_path / "results.json").write_text(json.dumps(results))
    with redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        evaluation = COCOeval(truth, truth.loadRes(str(tmp_path / "results.json")), "keypoints")
        if sigmas:
            evaluation.params.kpt_oks_sigmas = np.array(sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(FIGURES, (100 * evaluation.stats).tolist(), strict=True))


def test_who_knows_has_an_ap_of_100(coco):
    data = load_data(f"coco:{coco}", "val")
    scores = score(knowing(data), data, COCO17, SIZE, decode="dark")
    assert (scores.name, scores.value) == ("AP", pytest.approx(100))
    assert scores.headline == "AP 100.0 %"
    assert scores.figures == pytest.approx(dict.fromkeys(FIGURES[1:], 100))
    assert scores.per_joint == {name: None if name == "left_ear" else 100 for name in COCO17.joints}
    assert len(scores.persons) == len(scores.results) == len(PEOPLE)
    assert min(person.score for person in scores.persons) > 99.9
    for person, sample in zip(scores.persons, data.samples, strict=True):
        np.testing.assert_array_equal(person.sample.joints, sample.joints)
        np.testing.assert_allclose(
            person.keypoints[person.sample.visible, :2], sample.joints[sample.visible], atol=0.02
        )


def test_the_quarter_offset_costs_similarity_that_dark_decoding_keeps(coco):
    data = load_data(f"coco:{coco}", "val")
    means = {
        decode: np.mean([p.score for p in score(knowing(data), data, COCO17, SIZE, decode=decode).persons])
        for decode in ("quarter", "dark")
    }
    assert means["quarter"] < 99.6 < 99.999 < means["dark"]


def test_coco_figures_are_those_of_pycocotools(coco, tmp_path):
    data, rng = load_data(f"coco:{coco}", "val"), np.random.default_rng(1)
    joints = [s.joints + rng.normal(0, spread, size=(17, 2)) for s, spread in zip(data.samples, range(5), strict=True)]
    scores = score(KnowingPredictor(data.samples, joints), data, COCO17, SIZE)
    assert 0 < scores.value < 100
    want = by_hand(data.annotations, scores.results, tmp_path)
    assert {"AP": scores.value, **scores.figures} == pytest.approx(want, abs=1e-9)


def test_ids_of_text_and_other_categories_change_nothing(coco, tmp_path):
    content = json.loads((coco / "annotations/person_keypoints_val2017.json").read_text())
    dogs = [{**annotation, "category_id": 1} for annotation in content["annotations"]]
    for annotation in content["annotations"]:
        annotation.update(id=str(annotation["id"]), image_id=str(annotation["image_id"]), category_id="5")
    for image in content["images"]:
        image["id"] = f"{image['id']:012}"
    content["annotations"] += dogs
    content["categories"] = [{"id": 1, "name": "dog"}, {"id": "5", "name": "person"}]
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/person_keypoints_val2017.json").write_text(json.dumps(content))
    (tmp_path / "val2017").symlink_to(coco / "val2017")
    results = []
    for root in (coco, tmp_path):
        data = load_data(f"coco:{root}", "val")
        joints = [s.joints + shift for shift, s in enumerate(data.samples)]
        results.append(score(KnowingPredictor(data.samples, joints), data, COCO17, SIZE))
    plain, text = results
    assert len(data.skipped["another category than person"]) == len(dogs)
    assert (text.value, text.figures, text.per_joint) == (plain.value, plain.figures, plain.per_joint)
    assert text.results == plain.results


def test_detected_boxes_are_scored_with_their_pictures(coco, tmp_path):
    data = load_data(f"coco:{coco}", "val")
    entries = [
        {"image_id": image, "category_id": 1, "bbox": [left - 3, top - 3, width + 6, height + 6], "score": 0.9}
        for image, left, top, width, height in PEOPLE[:4]
    ]
    entries += [{**entries[0], "bbox": [8, 8, 84, 124], "score": 0.3}]  # the first person once more
    entries += [{"image_id": 4, "category_id": 1, "bbox": [20, 20, 90, 120], "score": 0.95}]  # nobody is there
    (tmp_path / "boxes.json").write_text(json.dumps(entries))
    detected = detected_samples(data, tmp_path / "boxes.json")
    joints = [s.joints for s in data.samples[:4]] + [data.samples[0].joints] * 2
    predictor = KnowingPredictor(detected.samples, joints)
    scores = score(predictor, data, COCO17, SIZE, detected=detected, decode="dark")
    # The double is suppressed; of five persons the last is not found, and the first place goes to a false alarm.
    assert [r["image_id"] for r in scores.results] == [1, 1, 2, 3, 4]
    assert scores.figures["AR"] == pytest.approx(80)
    assert scores.value == pytest.approx(100 * 81 / 101 * 4 / 5)
    assert {"AP": scores.value, **scores.figures} == pytest.approx(by_hand(data.annotations, scores.results, tmp_path))
    assert [round(person.score) for person in scores.persons[:4]] == [100] * 4
    assert scores.persons[4].score < 50
    assert scores.per_joint["nose"] == 80


def test_a_damaged_picture_is_named_with_the_way_on(coco, tmp_path):
    data = load_data(f"coco:{coco}", "val")
    (tmp_path / "cut.jpg").write_bytes(data.samples[0].image.read_bytes()[:500])
    damaged = replace(data, samples=[replace(data.samples[0], image=tmp_path / "cut.jpg")])
    message = r"image .*cut\.jpg is truncated .*: copy it again \(to evaluate without .* and its persons, remove it\)$"
    with pytest.raises(UsageError, match=message):
        score(knowing(damaged), damaged, COCO17, SIZE)


def test_a_picture_without_any_result_has_missed_its_persons(coco, tmp_path):
    data = load_data(f"coco:{coco}", "val")
    entry = {"image_id": 1, "category_id": 1, "bbox": PEOPLE[0][1:], "score": 1}
    (tmp_path / "boxes.json").write_text(json.dumps([entry]))
    detected = detected_samples(data, tmp_path / "boxes.json")
    scores = score(KnowingPredictor(detected.samples, [data.samples[0].joints]), data, COCO17, SIZE, detected=detected)
    assert [person.score for person in scores.persons[2:]] == [0, 0, 0]
    assert np.isnan(scores.persons[2].keypoints).all()
    assert scores.per_joint["nose"] == pytest.approx(20)


def test_crowdpose_takes_its_own_joints_and_figures(coco, tmp_path):
    skeleton, content = (
        get_skeleton("crowdpose14"),
        json.loads((coco / "annotations/person_keypoints_val2017.json").read_text()),
    )
    for annotation in content["annotations"]:
        annotation["keypoints"] = annotation["keypoints"][9:]  # 14 joints, seen as soon as they are labelled
        del annotation["area"]
    for image, crowd in zip(content["images"], (0.05, 0.5, 0.9, 0.5), strict=True):
        image["crowdIndex"] = crowd
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/crowdpose_val.json").write_text(json.dumps(content))
    (tmp_path / "images").symlink_to(coco / "val2017")
    data = load_data(f"crowdpose:{tmp_path}", "val")
    scores = score(knowing(data), data, skeleton, SIZE, decode="dark")
    assert scores.value == pytest.approx(100)
    assert scores.figures == pytest.approx(
        dict.fromkeys(("AP50", "AP75", "AR", "AR50", "AR75", "AP easy", "AP medium", "AP hard"), 100)
    )
    assert list(scores.per_joint) == list(skeleton.joints)


def lsp_data(tmp_path, persons=6):
    cv2.imwrite(str(tmp_path / "x.png"), np.zeros((100, 100, 3), np.uint8))
    rng = np.random.default_rng(0)
    samples = []
    for number in range(persons):
        joints = rng.uniform(20, 80, size=(14, 2))
        joints[LSP14.joints.index("right_hip")], joints[LSP14.joints.index("left_shoulder")] = (30, 70), (60, 30)
        box = np.array([10.0, 10, 90, 90])
        samples.append(PoseSample(tmp_path / "x.png", joints, np.ones(14, bool), box, number))
    return PoseData("lsp", "lsp14", samples, tmp_path / "joints.mat", pictures={0: tmp_path / "x.png"})


def test_pck_of_single_persons_and_joints(tmp_path):
    data, knee = lsp_data(tmp_path), LSP14.joints.index("left_knee")
    joints = np.stack([s.joints for s in data.samples])
    joints[:3, knee] += (11, 0)  # the torso is 50 px long
    joints[3:, knee] += (9, 0)
    joints[0] = 0
    hidden = data.samples[1].visible
    hidden[LSP14.joints.index("right_hip")] = False  # no torso: the person is not counted
    scores = score(KnowingPredictor(data.samples, joints), data, LSP14, SIZE, decode="dark")
    assert scores.name == "PCK@0.2 of the torso"
    assert scores.per_joint["left_knee"] == 60
    assert scores.per_joint["neck"] == 80
    assert scores.value == pytest.approx((13 * 80 + 60) / 14)
    assert [person.score for person in scores.persons] == pytest.approx([0, 100 * 13 / 14, 100, 100, 100])
    assert len(scores.results) == 6
    assert scores.results[2]["image_id"] == 2
    for sample in data.samples:
        sample.visible[LSP14.joints.index("left_shoulder")] = False
    with pytest.raises(UsageError, match=r"joints\.mat has no person with a torso \(right hip and left shoulder\)"):
        score(KnowingPredictor(data.samples, joints), data, LSP14, SIZE)


def test_mpii_is_scored_as_by_hrnet(reference, monkeypatch):
    golden = reference.load("hrnet_mpii_eval.npz")
    corners = golden["headboxes_src"]
    heads = 0.6 * np.linalg.norm(corners[1] - corners[0], axis=0)
    labelled, visible = golden["pos_gt_src"].transpose(2, 0, 1) - 1, golden["jnt_missing"].T == 0
    rows = zip(labelled, visible, heads, strict=True)
    samples = [PoseSample(Path("x"), p, v, np.zeros(4), head_size=float(h)) for p, v, h in rows]
    data = PoseData("mpii", "mpii16", samples, Path("valid.json"))
    monkeypatch.setattr(accuracy, "predict", lambda *_, **__: golden["preds_0based"].astype(np.float64))
    scores = score(lambda _: None, data, MPII16, SIZE)
    *parts, mean, _ = golden["values"]
    *got, loose = scores.figures.values()
    assert scores.name == "PCKh@0.5"
    reference.match("hrnet_mpii_eval.npz", [*got, scores.value], [*parts, mean], atol=1e-9)
    assert loose == pytest.approx(28.6, abs=0.05)  # a true 0.1
    data = replace(data, samples=[replace(sample, head_size=float("nan")) for sample in samples])
    with pytest.raises(UsageError, match=r"valid\.json has no person with a head size \(annot/gt_valid\.mat\)"):
        score(lambda _: None, data, MPII16, SIZE)


def test_only_shared_joints_are_scored(coco, tmp_path):
    """A predictor of LSP's joints on COCO's pictures, and pycocotools on COCO's labels of those joints."""
    data, rng = load_data(f"coco:{coco}", "val"), np.random.default_rng(1)
    shared = [name for name in COCO17.joints if name in LSP14.joints]
    theirs, ours = ([s.joints.index(name) for name in shared] for s in (COCO17, LSP14))
    joints = np.zeros((len(PEOPLE), 14, 2))  # neck and head top are wrong, and not asked for
    for i, sample in enumerate(data.samples):
        joints[i, ours] = sample.joints[theirs] + rng.normal(0, 2 * i, size=(12, 2))
    scores = score(KnowingPredictor(data.samples, joints), data, LSP14, SIZE, decode="dark", shared_joints=True)
    assert (scores.name, list(scores.per_joint)) == ("AP (12 shared joints)", shared)
    assert scores.skeleton.sigmas == COCO17.sigmas[5:]
    assert scores.skeleton.bones[:2] == ((10, 8), (8, 6))
    assert scores.skeleton.flip_pairs[0] == (0, 1)
    labels = json.loads(data.annotations.read_text())
    for annotation in labels["annotations"]:
        annotation["keypoints"] = np.reshape(annotation["keypoints"], (17, 3))[theirs].ravel().tolist()
        annotation["num_keypoints"] = int(np.count_nonzero(annotation["keypoints"][2::3]))
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    want = by_hand(tmp_path / "labels.json", scores.results, tmp_path, scores.skeleton.sigmas)
    assert 0 < scores.value < 100
    assert {"AP": scores.value, **scores.figures} == pytest.approx(want, abs=1e-9)


@pytest.mark.parametrize(("a", "b"), list(itertools.permutations(SKELETONS.values(), 2)))
def test_any_two_skeletons_share_joints(a, b):
    shared = shared_skeleton(a, b)
    assert len(shared.joints) in (12, 14)
    assert set(shared.joints) <= set(a.joints) & set(b.joints)
    for i, name in enumerate(shared.joints):
        assert shared.sigmas[i] == b.sigmas[b.joints.index(name)]
    names = {frozenset((shared.joints[i], shared.joints[j])) for i, j in shared.bones}
    assert names <= {frozenset((b.joints[i], b.joints[j])) for i, j in b.bones}
    mirrored = [(shared.joints[i].partition("_"), shared.joints[j].partition("_")) for i, j in shared.flip_pairs]
    assert len(mirrored) == 6
    assert all({one[0], other[0]} == {"left", "right"} and one[2] == other[2] for one, other in mirrored)


def test_pck_of_shared_joints(tmp_path):
    data = lsp_data(tmp_path)
    joints = np.zeros((6, 17, 2))
    for name in COCO17.joints:
        if name in LSP14.joints:
            joints[:, COCO17.joints.index(name)] = [s.joints[LSP14.joints.index(name)] for s in data.samples]
    scores = score(KnowingPredictor(data.samples, joints), data, COCO17, SIZE, decode="dark", shared_joints=True)
    assert (scores.name, scores.value) == ("PCK@0.2 of the torso (12 shared joints)", 100)
    assert list(scores.per_joint) == list(LSP14.joints[:12])
    assert [person.keypoints.shape for person in scores.persons] == [(12, 3)] * 6


def test_what_does_not_fit_is_refused(coco):
    data = load_data(f"coco:{coco}", "val")
    message = (
        "the network predicts the 14 joints of lsp14, the data label the 17 of coco17: evaluate on data of the same "
        r"skeleton, or only the 12 joints of both with shared_joints \(--shared-joints\)"
    )
    with pytest.raises(UsageError, match=f"^{message}$"):
        score(knowing(data), data, LSP14, SIZE)
    with pytest.raises(UsageError, match=r"decode 'darker': expected one of quarter, dark"):
        score(knowing(data), data, COCO17, SIZE, decode="darker")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(coco, bad):
    data = load_data(f"coco:{coco}", "val")
    maps = np.full((5, 17, 32, 24), bad, np.float32)
    with pytest.raises(CheckError, match="the network gave NaN or infinity"):
        score(lambda _: maps, data, COCO17, SIZE)


def test_predicting_in_batches_changes_nothing(coco):
    data = load_data(f"coco:{coco}", "val")
    want = predict(knowing(data), data.samples, COCO17, SIZE)
    assert want.shape == (5, 17, 3)
    for batch in (1, 2, 5):
        np.testing.assert_array_equal(predict(knowing(data), data.samples, COCO17, SIZE, batch=batch), want)
    assert predict(knowing(data), [], COCO17, SIZE).shape == (0, 17, 3)


def test_real_pictures_give_pycocotools_figures(shared, tmp_path):
    data, rng = load_data(f"coco:{shared / 'data/coco_mix'}", "val"), np.random.default_rng(0)
    spread = [rng.normal(0, 0.02 * (s.box[2:] - s.box[:2]).max(), size=(17, 2)) for s in data.samples]
    joints = [s.joints + noise for s, noise in zip(data.samples, spread, strict=True)]
    scores = score(KnowingPredictor(data.samples, joints), data, COCO17, SIZE, decode="dark")
    assert 20 < scores.value < 95
    want = by_hand(data.annotations, scores.results, tmp_path)
    assert {"AP": scores.value, **scores.figures} == pytest.approx(want, abs=1e-9)


def edited(coco, root, edit):
    """The data set with ``edit`` applied to the content of its file."""
    content = json.loads((coco / "annotations/person_keypoints_val2017.json").read_text())
    edit(content)
    (root / "annotations").mkdir(parents=True)
    (root / "annotations/person_keypoints_val2017.json").write_text(json.dumps(content))
    (root / "val2017").symlink_to(coco / "val2017")
    return load_data(f"coco:{root}", "val")


@pytest.mark.parametrize("fault", [{"area": 0}, {"area": float("nan")}, {"keypoints": [5, 5, 2]}, {"bbox": "none"}])
def test_who_is_not_run_is_no_miss(coco, tmp_path, fault):
    data = edited(coco, tmp_path, lambda content: content["annotations"][0].update(fault))
    assert len(data.samples) == len(PEOPLE) - 1
    scores = score(knowing(data), data, COCO17, SIZE, decode="dark")
    assert (scores.value, scores.figures["AR"]) == (pytest.approx(100), pytest.approx(100))
    assert len(scores.persons) == len(data.samples)


@pytest.mark.parametrize("field", ["iscrowd", "num_keypoints", "area"])
def test_who_is_run_is_scored_with_null_flags(coco, tmp_path, field):
    data = edited(coco, tmp_path, lambda content: [a.update({field: None}) for a in content["annotations"]])
    joints = [s.joints + (number == 0) * 500 for number, s in enumerate(data.samples)]
    scores = score(KnowingPredictor(data.samples, joints), data, COCO17, SIZE, decode="dark")
    assert len(scores.persons) == len(data.samples) == len(PEOPLE)
    assert scores.figures["AR"] == pytest.approx(80)  # the first of five is missed


def test_who_is_not_run_may_be_found_by_a_detector(coco, tmp_path):
    """A pose on a person without an area is neither right nor wrong, as COCO's rule is for persons without joints."""
    data = edited(coco, tmp_path, lambda content: content["annotations"][0].update(area=0))
    entries = [
        {"image_id": image, "category_id": 1, "bbox": [left, top, width, height], "score": 1 - image / 10}
        for image, left, top, width, height in PEOPLE
    ]
    (tmp_path / "boxes.json").write_text(json.dumps(entries))
    detected = detected_samples(data, tmp_path / "boxes.json")
    whole = load_data(f"coco:{coco}", "val")
    predictor = KnowingPredictor(detected.samples, [s.joints for s in whole.samples])
    assert score(predictor, data, COCO17, SIZE, detected=detected, decode="dark").value == pytest.approx(100)


def test_a_picture_of_another_size_is_refused_when_it_is_read(coco, tmp_path):
    """The second of five persons'; the first, the middle and the last person's are looked at before."""

    def edit(content):
        first, _, second, *_ = content["annotations"]
        content["annotations"] = [first, second, *({**first, "image_id": 3, "id": 50 + i} for i in range(3))]
        content["images"][1].update(width=150, height=200)

    data = edited(coco, tmp_path, edit)
    assert [s.image_id for s in data.samples] == [1, 2, 3, 3, 3]
    message = r"2\.jpg is 200x150 pixels .* the labels are for 150x200: .* \(to evaluate without this picture"
    with pytest.raises(UsageError, match=message):
        score(knowing(data), data, COCO17, SIZE)
    (tmp_path / "boxes.json").write_text(json.dumps([{"image_id": 2, "bbox": PEOPLE[2][1:], "score": 1}]))
    detected = detected_samples(data, tmp_path / "boxes.json")
    with pytest.raises(UsageError, match=message):
        score(knowing(detected), data, COCO17, SIZE, detected=detected)


def mpii_data(*visible, head_size=30.0):
    samples = [
        PoseSample(Path("x"), np.full((16, 2), 50.0), np.isin(MPII16.joints, names), np.zeros(4), head_size=head_size)
        for names in visible
    ]
    return PoseData("mpii", "mpii16", samples, Path("valid.json"))


def test_pckh_by_hand(monkeypatch):
    """Half a head of 30 px is 15 px, and PCKh@0.1 means 3 px; pelvis and thorax are left out of the mean."""
    errors = {"left_hip": 15.0, "right_hip": 15.1, "head_top": 3.0, "left_knee": 3.1, "thorax": 99.0}
    data, poses = mpii_data(list(errors)), np.full((1, 16, 3), 50.0)
    for name, error in errors.items():
        poses[0, MPII16.joints.index(name), 0] += error
    monkeypatch.setattr(accuracy, "predict", lambda *_, **__: poses)
    scores = score(lambda _: None, data, MPII16, SIZE)
    assert (scores.name, scores.value, scores.figures["PCKh@0.1"]) == ("PCKh@0.5", 75, 25)
    assert {name: scores.per_joint[name] for name in errors} == {
        **dict.fromkeys(("left_hip", "head_top", "left_knee"), 100),
        **dict.fromkeys(("right_hip", "thorax"), 0),
    }


def test_pckh_without_a_joint_that_counts_is_refused(monkeypatch):
    monkeypatch.setattr(accuracy, "predict", lambda *_, **__: np.full((1, 16, 3), 50.0))
    message = r"^valid\.json has no labelled joint that counts: PCKh@0\.5 needs at least one$"
    with pytest.raises(UsageError, match=message):
        score(lambda _: None, mpii_data(["pelvis", "thorax"]), MPII16, SIZE)


def test_every_crop_is_of_its_own_picture(coco):
    data, seen = load_data(f"coco:{coco}", "val"), []
    known = knowing(data)

    def predictor(crops):
        seen.extend(crops.copy())
        return known(crops)

    predict(predictor, data.samples, COCO17, SIZE, batch=3)
    for crop, sample in zip(seen, data.samples, strict=True):
        np.testing.assert_array_equal(crop, crop_boxes(read_image(sample.image), sample.box[None], SIZE)[0][0])
