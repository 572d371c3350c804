"""Augmentation, targets and loading: image and joints go the same way, and nothing depends on who makes a batch."""

from __future__ import annotations

import os
import re
import warnings
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("scipy.io")

from edgepose.core.errors import UsageError
from edgepose.core.geometry import crop_regions, region_affine, transform_points
from edgepose.core.heatmaps import decode, encode_bones, encode_bones_gaussian, encode_joints, encode_segmentation
from edgepose.core.skeletons import LSP14
from edgepose.data import load_data
from edgepose.data.samples import PoseSample
from edgepose.train.augment import Augmentation
from edgepose.train.loader import EpochSampler, PoseDataset, make_loader
from edgepose.train.recipes import get_recipe
from tests.doubles.mirrored_bones import bone_flip_order
from tests.doubles.small_lsp import make_lsp

RECIPE = get_recipe("ditn_lite_lsp", {"height": "128", "width": "96", "batch": "4"})


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> list[PoseSample]:
    """Six persons; the second one's left hip is not labelled."""
    return load_data(f"lsp:{make_lsp(tmp_path_factory.mktemp('lsp') / 'data')}", "train").samples


@pytest.fixture
def dataset(samples) -> PoseDataset:
    return PoseDataset(samples, RECIPE)


AUGMENTATIONS = [
    Augmentation(),
    Augmentation(mirror=True),
    Augmentation(rotation=30),
    Augmentation(rotation=-25, scale=1.4, mirror=True),
    Augmentation(part="upper", mirror=True),
    Augmentation(part="lower", scale=0.9, rotation=10),
    Augmentation(part="close-up", mirror=True),
]


@pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=str)
def test_targets_sit_on_the_joints_of_the_crop(dataset, augmentation):
    """The crop is bright where the targets peak: image and joints went through the same transform."""
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


def test_targets_are_those_of_the_readable_functions(dataset):
    """Sigma, radius and kind of the bone target are the recipe's."""
    dataset.recipe = replace(RECIPE, sigma=1.5, segmentation_radius=3.0)
    sample = dataset.samples[1]
    item = dataset.make(sample, Augmentation(rotation=20))
    matrix = region_affine(crop_regions(sample.box, (128, 96))[0], (128, 96), rotation=20)
    labels = transform_points(sample.joints, matrix), sample.visible
    joints, weights = encode_joints(*labels, (32, 24), 1.5)
    wanted = {
        "joints": joints,
        "weights": weights,
        "bones": encode_bones(*labels, LSP14.bones, (32, 24)),
        "segmentation": encode_segmentation(*labels, (32, 24), 3.0),
    }
    for name, array in wanted.items():
        assert item[name].dtype == torch.float32
        np.testing.assert_array_equal(item[name].numpy(), array, err_msg=name)
    assert item["crop"].dtype == torch.uint8
    assert item["crop"].shape == (128, 96, 3)
    dataset.recipe = replace(dataset.recipe, bone_target="gaussian")
    smooth = dataset.make(sample, Augmentation(rotation=20))["bones"]
    np.testing.assert_array_equal(smooth.numpy(), encode_bones_gaussian(*labels, LSP14.bones, (32, 24), 1.5))


def test_targets_of_the_papers_recipes_have_their_constants(dataset):
    """Sigma 2, a disc of radius 5, and the line of a bone, without more options."""
    sample = replace(dataset.samples[0], visible=np.arange(14) == 2)
    sizes = {"skeleton": "lsp14", "height": "512", "width": "384"}
    for name in ("ditn_coco", "ditn_mpii", "sg_hrnet_coco", "sg_hrnet_mpii"):
        dataset.recipe = get_recipe(name, sizes)
        item = dataset.make(sample, Augmentation())
        assert float(item["segmentation"].sum()) == pytest.approx(25 * np.pi, abs=8), name
        y, x = divmod(int(item["joints"][2].argmax()), 96)
        assert float(item["joints"][2, y, x + 2]) == pytest.approx(np.exp(-0.5)), name
        assert float(item["joints"][2, y + 4, x]) == pytest.approx(np.exp(-2)), name
        bones = dataset.make(replace(sample, visible=np.ones(14, bool)), Augmentation())["bones"]
        assert float(bones[bones > 0].min()) > 0.25, name  # a Gaussian falls to 0


def test_mirroring_exchanges_left_and_right(dataset):
    plain = dataset.make(dataset.samples[1], Augmentation())
    mirrored = dataset.make(dataset.samples[1], Augmentation(mirror=True))
    assert plain["weights"].tolist() == [float(j != 3) for j in range(14)]  # the left hip is not labelled
    assert mirrored["weights"].tolist() == [float(j != 2) for j in range(14)]
    order, bones = list(LSP14.flip_order), bone_flip_order(LSP14)
    # The region's centre lands on column w / 2 of either crop, so the two pictures are mirrors but for one map pixel.
    assert torch.equal(mirrored["joints"][..., 1:], plain["joints"][order].flip(2)[..., :-1])
    # Pixels halfway between two are rounded to the even one, also in a mirror; Gaussian targets are not rounded.
    dataset.recipe = replace(dataset.recipe, bone_target="gaussian")
    plain, mirrored = (dataset.make(dataset.samples[1], Augmentation(mirror=m))["bones"] for m in (False, True))
    torch.testing.assert_close(mirrored[..., 1:], plain[bones].flip(2)[..., :-1])


def test_colour_changes_the_crop_not_the_targets(dataset):
    plain = dataset.make(dataset.samples[0], Augmentation())
    brighter = dataset.make(dataset.samples[0], Augmentation(gain=(1.0, 1.0, 0.5), shift=10.0))
    want = np.clip(plain["crop"].numpy() * np.array([1.0, 1.0, 0.5]) + 10, 0, 255)
    assert np.abs(brighter["crop"].numpy() - want).max() <= 1
    assert torch.equal(plain["joints"], brighter["joints"])


def test_a_damaged_picture_is_a_black_crop_without_labels(dataset, tmp_path, capfd):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(dataset.samples[0].image.read_bytes()[:500])
    for _ in range(2):
        item = dataset.make(replace(dataset.samples[0], image=broken), Augmentation(gain=(1.0, 1.0, 0.5), shift=9.0))
        assert not any(tensor.any() for tensor in item.values())
    said = capfd.readouterr()
    assert said.out == ""
    assert re.fullmatch(r"a training picture is left out: image .*broken\.jpg is truncated .*\n", said.err), said.err


@pytest.mark.slow
def test_samples_depend_on_seed_epoch_and_index_alone(samples):
    """Not on the workers, nor on an epoch that was left in the middle."""
    recipe, batches = replace(RECIPE, batch=2), {}
    for workers in (0, 2):
        loader, sampler = make_loader(PoseDataset(samples, recipe), workers)
        sampler.epoch = 2
        next(iter(loader))
        sampler.epoch = 3
        batches[workers] = list(loader)
        keys = list(sampler)
        sampler.start = 1
        batches[workers] += list(loader)
    assert len(batches[0]) == len(batches[2]) == 3 + 2
    for one, other in zip(batches[0], batches[2], strict=True):
        assert one.keys() == {"crop", "joints", "weights", "bones", "segmentation", "index"}
        assert all(torch.equal(one[name], other[name]) for name in one)
    for whole, rest in zip(batches[0][1:3], batches[0][3:], strict=True):
        assert all(torch.equal(whole[name], rest[name]) for name in whole)
    batch = batches[0][1]
    assert batch["index"].tolist() == [index for _, index in keys[2:4]]
    alone = PoseDataset(samples, recipe)[keys[3]]
    assert all(torch.equal(batch[name][1], alone[name]) for name in batch)
    assert not torch.equal(alone["crop"], PoseDataset(samples, replace(recipe, seed=1))[keys[3]]["crop"])


def test_every_epoch_has_its_own_order_of_all_samples():
    sampler = EpochSampler(20, seed=0, batch=4)
    first = list(sampler)
    sampler.epoch = 1
    second = list(sampler)
    assert sorted(i for _, i in first) == sorted(i for _, i in second) == list(range(20))
    assert [i for _, i in first] != [i for _, i in second]
    assert {e for e, _ in second} == {1}


@pytest.mark.parametrize("world", [1, 2, 4])
def test_processes_share_the_batches_of_one(world):
    whole = EpochSampler(30, seed=5, batch=8)
    parts = [EpochSampler(30, seed=5, batch=8, rank=rank, world=world) for rank in range(world)]
    share = 8 // world
    for epoch, start in ((0, 0), (1, 0), (1, 2)):
        for sampler in (whole, *parts):
            sampler.epoch, sampler.start = epoch, start
        keys = [list(part) for part in parts]
        together = [
            key for step in range(3 - start) for part in keys for key in part[step * share : (step + 1) * share]
        ]
        assert together == list(whole)
        assert {len(part) for part in parts} == {3 * share}  # of a whole epoch, wherever it starts


def test_two_processes_load_the_batch_of_one(samples):
    dataset = PoseDataset(samples, RECIPE)
    (whole,), *halves = (list(make_loader(dataset, 0, rank=r, world=w)[0]) for r, w in ((0, 1), (0, 2), (1, 2)))
    for name, tensor in whole.items():
        assert torch.equal(tensor, torch.cat([half[0][name] for half in halves]))


def test_few_samples_are_one_batch(samples):
    dataset = PoseDataset(samples[:3], RECIPE)
    assert [len(batch["index"]) for batch in make_loader(dataset, 0)[0]] == [3]
    halves = [list(make_loader(dataset, 0, rank=rank, world=2)[0]) for rank in range(2)]
    assert [len(half[0]["index"]) for half in halves] == [1, 1]


@pytest.mark.parametrize(("count", "world"), [(6, 3), (1, 2)])
def test_batches_that_processes_cannot_share_are_refused(samples, count, world):
    with pytest.raises(UsageError, match=f"{world} processes cannot share batches of {min(count, 4)} evenly"):
        make_loader(PoseDataset(samples[:count], RECIPE), 0, world=world)


def test_more_workers_than_cores_are_one_line(samples, monkeypatch, capfd):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PyTorch checks when the loader is made, and the same with each iterator
        loader, _ = make_loader(PoseDataset(samples, RECIPE), 2)
        loader.check_worker_number_rationality()
        make_loader(PoseDataset(samples, RECIPE), 2, rank=1, world=2)  # another process says nothing
    assert capfd.readouterr() == ("", "2 workers share 1 cores: --workers 1 is enough\n")


def test_another_skeleton_is_refused(samples):
    with pytest.raises(UsageError, match="the data label 14 joints, the recipe's skeleton coco17 has 17"):
        PoseDataset(samples, replace(RECIPE, skeleton="coco17"))


def test_a_picture_of_another_size_is_left_out_as_a_damaged_one_is(dataset, capsys):
    dataset.samples = [replace(dataset.samples[0], size=(1, 2))]
    for _ in range(2):
        item = dataset.make(dataset.samples[0], Augmentation())
        assert not item["crop"].any() and not item["weights"].any() and not item["joints"].any()
    line = capsys.readouterr().err
    assert line.count("a training picture is left out: picture ") == line.count("\n") == 1
    assert "the labels are for 2x1: give the pictures that were labelled" in line
