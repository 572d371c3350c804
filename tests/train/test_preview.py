"""The picture of augmented samples: every target lies over the crop at its place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("scipy.io")

from edgepose.core.errors import UsageError
from edgepose.core.images import read_image
from edgepose.core.pictures import bone_colours, joint_colours
from edgepose.core.skeletons import LSP14
from edgepose.data import load_data
from edgepose.data.samples import PoseData
from edgepose.train.loader import PoseDataset
from edgepose.train.preview import draw_check, lay_over
from edgepose.train.recipes import get_recipe
from tests.doubles.small_lsp import make_lsp

RECIPE = get_recipe("ditn_lite_lsp", {"height": "128", "width": "96"})


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> PoseData:
    return load_data(f"lsp:{make_lsp(tmp_path_factory.mktemp('lsp') / 'data')}", "train")


def test_a_map_colours_the_crop_pixels_it_is_about():
    """Heat-map pixel (x, y) = (2, 1) is crop pixel (8, 4), and half way to the next it has half its colour."""
    maps = np.zeros((3, 4, 5), np.float32)
    maps[0, 1, 2] = maps[1, 3, 0] = 1
    red, blue = (250, 0, 0), (0, 0, 250)
    picture = lay_over(np.full((16, 20, 3), 100, np.uint8), maps, [red, blue, red], strength=0.8)
    assert picture[4, 8].tolist() == [220, 20, 20]
    assert picture[12, 0].tolist() == [20, 20, 220]
    assert picture[4, 10].tolist() == [160, 60, 60]
    assert picture[8, 8].tolist() == [100, 100, 100]


def test_the_picture_shows_every_sample_under_its_targets(data, tmp_path):
    draw_check(data, RECIPE, tmp_path / "check.png")
    sheet = read_image(tmp_path / "check.png")
    assert sheet.shape == (2 * (128 + 20) + 8, 4 * 3 * 96 + 3 * 8, 3)  # six persons in two rows
    second = sheet[:128, 3 * 96 + 8 : 2 * 3 * 96 + 8].astype(int)
    item = PoseDataset(data.samples, RECIPE)[0, 1]
    crop = item["crop"].numpy().astype(int)
    colours = {
        "joints": (joint_colours(LSP14),),
        "bones": (bone_colours(LSP14),),
        "segmentation": ([(255, 60, 200)], 0.5),
    }
    for view, name in enumerate(colours):
        target = item[name].numpy().reshape(-1, 32, 24).max(axis=0)
        changed = np.abs(second[::4, view * 96 : (view + 1) * 96 : 4] - crop[::4, ::4]).max(axis=2)
        assert changed[target < 1e-3].max(initial=0) <= 1, name
        assert (changed[target > 0.5] > 2).all(), name
        want = lay_over(item["crop"].numpy(), item[name].numpy().reshape(-1, 32, 24), *colours[name])
        np.testing.assert_array_equal(second[:, view * 96 : (view + 1) * 96], want, err_msg=name)


def test_the_first_samples_of_a_few(data, tmp_path):
    draw_check(data, RECIPE, tmp_path / "check.jpg", count=2)
    assert read_image(tmp_path / "check.jpg").shape == (148, 2 * 3 * 96 + 8, 3)


def test_what_cannot_be_drawn_is_refused(data, tmp_path):
    with pytest.raises(UsageError, match="the data label 14 joints"):
        draw_check(data, replace(RECIPE, skeleton="mpii16"), tmp_path / "check.png")
    with pytest.raises(UsageError, match=r"its name must end in one of .jpg"):
        draw_check(data, RECIPE, tmp_path / "check.gif")
