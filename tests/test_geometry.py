"""Crops and transforms against HRNet's reference numbers and by hand."""

import numpy as np
import pytest

from edgepose.geometry import (
    crop_boxes,
    crop_regions,
    invert_affine,
    keypoint_box,
    region_affine,
    transform_points,
    warp_crop,
)


def test_region_grows_the_short_side_then_both():
    # 40 x 80 at (100, 200): the height rules at aspect 3/4, so 60 x 80, times 1.25.
    assert crop_regions([80, 160, 120, 240], (256, 192)).tolist() == [[100, 200, 75, 100]]
    # 80 x 40: the width rules.
    assert crop_regions([60, 180, 140, 220], (256, 192), padding=1.0).tolist() == [[100, 200, 80, 80 / 0.75]]


def test_regions_equal_hrnet(shared):
    golden = np.load(shared / "goldens/hrnet_box2cs.npz")
    boxes = golden["boxes_xywh"]
    xyxy = np.column_stack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
    for size in ((256, 192), (384, 288), (256, 256)):
        width, height = size[1], size[0]
        centre, scale = golden[f"{width}x{height}_center"], golden[f"{width}x{height}_scale"]
        regions = crop_regions(xyxy, size)
        usual = centre[:, 0] != -1  # HRNet leaves out the padding for this one centre, a sentinel of its own
        assert usual.sum() >= 5
        np.testing.assert_allclose(regions[:, :2], centre, atol=1e-3)
        np.testing.assert_allclose(regions[usual, 2:] / 200, scale[usual], rtol=1e-5)


def test_affine_equals_hrnet(shared):
    golden = np.load(shared / "goldens/hrnet_affine.npz")
    for i, analytic in enumerate(golden["analytic_fp64"]):
        width, height = (int(v) for v in golden["output_size"][i])
        scale = golden["scale"][i].astype(np.float64) * 200
        region = (*golden["center"][i].astype(np.float64), scale[0], scale[1])
        matrix = region_affine(region, (height, width), rotation=float(golden["rot"][i]))
        np.testing.assert_allclose(matrix, analytic, rtol=1e-9, atol=1e-9)


def test_inverse_brings_points_back():
    matrix = region_affine((70, 50, 96, 128), (256, 192), rotation=33, mirror=True)
    points = np.array([[0.0, 0.0], [70.0, 50.0], [12.5, -3.0]])
    there = transform_points(points, matrix)
    np.testing.assert_allclose(transform_points(there, invert_affine(matrix)), points, atol=1e-9)


def test_mirror_is_the_mirrored_crop():
    image = np.random.default_rng(0).integers(0, 256, (60, 40, 3), dtype=np.uint8)
    region = (20, 30, 24, 32)
    plain = warp_crop(image, region_affine(region, (64, 48)), (64, 48))
    mirrored = warp_crop(image, region_affine(region, (64, 48), mirror=True), (64, 48))
    assert np.abs(plain[:, ::-1].astype(int) - mirrored).max() <= 1


def test_crop_shows_what_the_matrix_says():
    image = np.zeros((100, 100, 3), np.uint8)
    image[40:44, 60:64] = 255
    crops, inverse = crop_boxes(image, [[50, 30, 74, 54]], (64, 64), padding=1.0)
    ys, xs = np.nonzero(crops[0, :, :, 0] > 127)
    centre = transform_points([[xs.mean(), ys.mean()]], inverse[0])
    np.testing.assert_allclose(centre, [[61.5, 41.5]], atol=0.3)


def test_no_boxes_no_crops():
    crops, inverse = crop_boxes(np.zeros((10, 10, 3), np.uint8), np.zeros((0, 4)), (256, 192))
    assert crops.shape == (0, 256, 192, 3)
    assert inverse.shape == (0, 2, 3)


def test_points_per_leading_index():
    matrices = np.stack([region_affine((10, 10, s, s), (8, 8)) for s in (8, 4)])
    points = np.full((2, 3, 2), 11.0)
    np.testing.assert_allclose(transform_points(points, matrices), [[[5, 5]] * 3, [[6, 6]] * 3])


def test_keypoint_box_margin():
    assert keypoint_box([[10, 20], [30, 120]]).tolist() == [0, 10, 40, 130]


@pytest.mark.parametrize("box", [[5, 5, 5, 5], [9, 9, 3, 3]])
def test_a_box_without_area_still_makes_a_crop(box):
    assert crop_regions(box, (256, 192))[0, 2] == pytest.approx(1.25)
