"""LSP reading, augmentation and loading."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")
scipy_io = pytest.importorskip("scipy.io")

from edgepose.errors import UsageError  # noqa: E402
from edgepose.geometry import crop_regions, keypoint_box, region_affine, transform_points  # noqa: E402
from edgepose.heatmaps import decode  # noqa: E402
from edgepose.skeletons import LSP14  # noqa: E402
from edgepose.train.data import load_data, load_samples  # noqa: E402
from edgepose.train.data.loader import Augmentation, EpochSampler, PoseDataset, make_loader  # noqa: E402
from edgepose.train.recipes import get_recipe  # noqa: E402

PERSONS = 8
RECIPE = get_recipe("ditn_lite_lsp", {"height": "128", "width": "96", "batch": "4"})


def make_lsp(root: Path, *, extended: bool = True) -> Path:
    """A small data set in LSP's layout: noise pictures with a white dot on every joint."""
    rng = np.random.default_rng(0)
    joints = rng.uniform(20, 100, size=(PERSONS, 14, 2))
    visible = np.ones((PERSONS, 14))
    visible[1, 3] = 0
    (root / "images").mkdir(parents=True)
    for number, points in enumerate(joints, 1):
        image = rng.integers(0, 60, (120, 120, 3), dtype=np.uint8)
        for x, y in points:
            cv2.circle(image, (round(x), round(y)), 2, (255, 255, 255), -1)
        cv2.imwrite(str(root / "images" / f"im{number:05d}.jpg"), image)
    if extended:
        stored = np.concatenate([joints, visible[..., None]], axis=2).transpose(1, 2, 0)
    else:  # the original LSP stores 0 for visible
        stored = np.concatenate([joints, 1 - visible[..., None]], axis=2).transpose(2, 1, 0)
    scipy_io.savemat(root / "joints.mat", {"joints": stored})
    (root / "train.txt").write_text("\n".join(str(n) for n in range(1, 7)))
    (root / "test.txt").write_text("7\n8\n")
    return root


@pytest.fixture(scope="module")
def lsp(tmp_path_factory) -> str:
    return f"lsp:{make_lsp(tmp_path_factory.mktemp('lsp') / 'data')}"


@pytest.mark.parametrize("extended", [True, False])
def test_both_layouts_of_lsp_read_alike(tmp_path, extended):
    samples = load_samples(f"lsp:{make_lsp(tmp_path / 'x', extended=extended)}", "train")
    assert len(samples) == 6
    assert samples[0].joints.shape == (14, 2)
    assert samples[1].visible.tolist() == [j != 3 for j in range(14)]
    assert samples[0].image.name == "im00001.jpg"
    low, high = samples[0].joints.min(0), samples[0].joints.max(0)
    assert (samples[0].box[:2] < low).all()
    assert (samples[0].box[2:] > high).all()


def test_without_lists_the_first_half_trains(tmp_path):
    root = make_lsp(tmp_path / "x")
    (root / "train.txt").unlink()
    (root / "test.txt").unlink()
    assert [s.image.name for s in load_samples(f"lsp:{root}", "test")] == [f"im0000{n}.jpg" for n in (5, 6, 7, 8)]


def test_real_lsp_has_the_documented_split(shared):
    spec = f"lsp:{shared / 'data/lspet14'}"
    assert (len(load_samples(spec, "train")), len(load_samples(spec, "test"))) == (3500, 445)


AUGMENTATIONS = [
    Augmentation(),
    Augmentation(mirror=True),
    Augmentation(rotation=30),
    Augmentation(rotation=-25, scale=0.7, mirror=True),
    Augmentation(half_body=True, mirror=True),
]


@pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=str)
def test_targets_sit_on_the_joints_of_the_crop(lsp, augmentation):
    """The crop is bright where the targets peak: image and joints went through the same transform."""
    dataset = PoseDataset(load_samples(lsp, "train"), RECIPE)
    item = dataset.make(dataset.samples[0], augmentation)
    points = decode(item["joints"][None].numpy())[0]
    crop = item["crop"].numpy()
    inside = [
        (int(x), int(y), score)
        for (x, y, score), weight in zip(points, item["weights"], strict=True)
        if weight and 4 < x < 92 and 4 < y < 124
    ]
    assert len(inside) >= 8
    for x, y, score in inside:
        assert score == 1
        assert crop[y - 3 : y + 4, x - 3 : x + 4].max() > 150


def test_mirroring_exchanges_left_and_right(lsp):
    dataset = PoseDataset(load_samples(lsp, "train"), RECIPE)
    plain = dataset.make(dataset.samples[1], Augmentation())
    mirrored = dataset.make(dataset.samples[1], Augmentation(mirror=True))
    assert plain["weights"].tolist() == [float(j != 3) for j in range(14)]  # the left hip is not labelled
    assert mirrored["weights"].tolist() == [float(j != 2) for j in range(14)]
    order, bones = list(LSP14.flip_order), list(LSP14.bone_flip_order)
    # A joint's centre is rounded to whole heat-map pixels before and after mirroring: at most one pixel apart.
    width = plain["joints"].shape[2]
    for j, other in enumerate(order):
        if mirrored["weights"][j] and plain["joints"][other].max() == 1:
            column = int(plain["joints"][other].max(0).values.argmax())
            assert abs(width - 1 - column - int(mirrored["joints"][j].max(0).values.argmax())) <= 1
    # Bones are not rounded; the mirror of pixel centres moves them by a quarter of a heat-map pixel each way.
    difference = mirrored["bones"][:, :, :] - plain["bones"][bones].flip(2)
    assert float(difference.abs().max()) < 0.3


def test_half_body_crops_around_the_hips_and_up(lsp):
    dataset = PoseDataset(load_samples(lsp, "train"), RECIPE)
    upper = [j for j, name in enumerate(LSP14.joints) if not name.endswith(("knee", "ankle"))]
    joints = np.full((14, 2), [60.0, 115.0])
    joints[upper] = np.random.default_rng(1).uniform(20, 60, (len(upper), 2))
    sample = replace(dataset.samples[0], joints=joints, visible=np.ones(14, bool))
    item = dataset.make(sample, Augmentation(half_body=True))
    matrix = region_affine(crop_regions(keypoint_box(joints[upper]), RECIPE.input_size)[0], RECIPE.input_size)
    wanted = transform_points(joints[upper], matrix)
    assert np.abs(decode(item["joints"][None].numpy())[0, upper, :2] - wanted).max() <= 2  # rounded to map pixels
    assert not item["weights"][LSP14.joints.index("left_ankle")]  # outside the crop


def test_colour_changes_the_crop_not_the_targets(lsp):
    dataset = PoseDataset(load_samples(lsp, "train"), RECIPE)
    plain = dataset.make(dataset.samples[0], Augmentation())
    brighter = dataset.make(dataset.samples[0], Augmentation(gain=(1.0, 1.0, 0.5), shift=10.0))
    want = np.clip(plain["crop"].numpy() * np.array([1.0, 1.0, 0.5]) + 10, 0, 255)
    assert np.abs(brighter["crop"].numpy() - want).max() <= 1
    assert torch.equal(plain["joints"], brighter["joints"])


def test_samples_depend_on_seed_epoch_and_index_alone(lsp):
    samples = load_samples(lsp, "train")
    batches = {}
    for workers in (0, 2):
        loader, sampler = make_loader(PoseDataset(samples, RECIPE), workers)
        sampler.epoch = 3
        batches[workers] = list(loader)
    assert len(batches[0]) == len(batches[2]) == 1  # 6 persons in full batches of 4
    assert all(torch.equal(batches[0][0][k], batches[2][0][k]) for k in batches[0][0])
    other = PoseDataset(samples, replace(RECIPE, seed=1))[3, 0]
    assert not torch.equal(PoseDataset(samples, RECIPE)[3, 0]["crop"], other["crop"])


def test_every_epoch_has_its_own_order_of_all_samples():
    sampler = EpochSampler(20, seed=0, batch=4)
    first = list(sampler)
    sampler.epoch = 1
    second = list(sampler)
    assert sorted(i for _, i in first) == sorted(i for _, i in second) == list(range(20))
    assert [i for _, i in first] != [i for _, i in second]
    assert {e for e, _ in second} == {1}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("lsp", "expected KIND:ROOT"),
        ("voc:/x", "KIND one of coco, crowdpose, lsp, mpii"),
        ("lsp:/no/such/folder", r"is not a folder"),
    ],
)
def test_wrong_data_is_refused(spec, message):
    with pytest.raises(UsageError, match=message):
        load_samples(spec, "train")


def test_damaged_annotations_are_refused(tmp_path):
    root = make_lsp(tmp_path / "x")
    (root / "images" / "im00002.jpg").unlink()
    assert load_data(f"lsp:{root}", "train").skipped == {"picture missing": ["im00002.jpg"]}
    (root / "train.txt").write_text("one")
    with pytest.raises(UsageError, match="one image number a line"):
        load_samples(f"lsp:{root}", "train")
    scipy_io.savemat(root / "joints.mat", {"joints": np.zeros((14, 2, 3))})
    with pytest.raises(UsageError, match=r"shape \(14, 2, 3\)"):
        load_samples(f"lsp:{root}", "test")
    (root / "joints.mat").write_bytes((root / "joints.mat").read_bytes()[:150])
    with pytest.raises(UsageError, match="not a readable annotation file"):
        load_samples(f"lsp:{root}", "test")
