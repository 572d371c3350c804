"""Crops and transforms against HRNet's reference numbers and by hand."""

import numpy as np
import pytest

from edgepose.core import geometry
from edgepose.core.errors import UsageError
from edgepose.core.geometry import (
    crop_boxes,
    crop_regions,
    invert_affine,
    keypoint_box,
    region_affine,
    transform_points,
    warp_crop,
)
from edgepose.core.skeletons import COCO17, MPII16


def test_region_grows_the_short_side_then_both():
    # 40 x 80 at (100, 200): the height rules at aspect 3/4, so 60 x 80, times 1.25.
    assert crop_regions([80, 160, 120, 240], (256, 192)).tolist() == [[100, 200, 75, 100]]
    # 80 x 40: the width rules.
    assert crop_regions([60, 180, 140, 220], (256, 192), padding=1.0).tolist() == [[100, 200, 80, 80 / 0.75]]


def test_regions_equal_hrnet(reference):
    name = "hrnet_box2cs.npz"
    golden = reference.load(name)
    boxes = golden["boxes_xywh"]
    xyxy = np.column_stack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
    for size in ((256, 192), (384, 288), (256, 256)):
        centre, scale = (golden[f"{size[1]}x{size[0]}_{part}"] for part in ("center", "scale"))
        # HRNet leaves out the padding where the centre's x is -1, its mark of a missing one.
        marked = centre[:, 0] == -1
        assert marked.any()
        regions = np.where(marked[:, None], crop_regions(xyxy, size, padding=1.0), crop_regions(xyxy, size))
        reference.match(name, regions[:, :2], centre, atol=1e-5, rtol=1e-7)  # float32 has no more digits
        reference.match(name, regions[:, 2:] / 200, scale, atol=1e-5)


def reference_regions(golden):
    """Size (h, w) of the crop, region and rotation of every case."""
    for centre, scale, rotation, (width, height) in zip(
        golden["center"], golden["scale"], golden["rot"], golden["output_size"], strict=True
    ):
        region = np.concatenate([centre.astype(np.float64), scale.astype(np.float64) * 200])
        yield (int(height), int(width)), region, float(rotation)


def test_affine_equals_hrnet(reference):
    name = "hrnet_affine.npz"
    golden = reference.load(name)
    for i, (size, region, rotation) in enumerate(reference_regions(golden)):
        matrix = region_affine(region, size, rotation=rotation)
        reference.match(name, matrix, golden["analytic_fp64"][i], atol=1e-9, rtol=1e-9)
        # HRNet solves for the matrix from three points in float32.
        reference.match(name, matrix[:, :2], golden["trans"][i][:, :2], atol=1e-6)
        reference.match(name, transform_points(golden["points"][i], matrix), golden["points_transformed"][i], atol=5e-4)
        back = transform_points(golden["points_transformed"][i], invert_affine(matrix))
        # A crop pixel is this many of the picture's.
        reference.match(name, back, golden["points_back"][i], atol=5e-4 * max(1.0, region[2] / size[1]))
        region[:2] += golden["shift"] * region[2:]
        points = transform_points(golden["points"][i], region_affine(region, size, rotation=rotation))
        reference.match(name, points, transform_points(golden["points"][i], golden["trans_shift"][i]), atol=5e-4)


@pytest.mark.parametrize(
    ("rotation", "want"),
    [(0, (58, 74)), (90, (58, 54)), (-90, (38, 74)), (180, (38, 54)), (30, (61.6602540, 67.6602540))],
)
def test_a_crop_turns_counter_clockwise(rotation, want):
    """A point 10 px to the right of the centre and 10 px below it, at scale 1; y points down."""
    matrix = region_affine((50, 40, 96, 128), (128, 96), rotation=rotation)
    np.testing.assert_allclose(transform_points([60, 50], matrix)[0], want, atol=1e-6)


#: Centre, scale, rotation, output (width, height) and the matrix of HRNet's lib/utils/transforms.py
#: get_affine_transform, which computes in float32.
HRNET_MATRICES = [
    (
        (512.6942, 112.16012),
        3.837372,
        -45.0,
        (192, 256),
        ((0.1768977, -0.1768977, 25.14642), (0.1768977, 0.1768977, 17.46468)),
    ),
    (
        (41.361652, 90.32112),
        3.692759,
        -52.72916,
        (256, 256),
        ((0.2099099, -0.2758373, 144.23171), (0.2758373, 0.2099099, 97.63161)),
    ),
    (
        (138.28987, 202.73076),
        1.623721,
        0.0,
        (288, 384),
        ((0.8868520, 0, 21.357347), (0, 0.8868520, 12.207815)),
    ),
]


@pytest.mark.parametrize(("centre", "scale", "rotation", "size", "want"), HRNET_MATRICES)
def test_matrices_are_hrnets(centre, scale, rotation, size, want):
    got = region_affine((*centre, 200 * scale, 0), size[::-1], rotation=rotation)
    np.testing.assert_allclose(got, want, rtol=4e-6, atol=2e-6)


def test_a_mirrored_crop_has_its_first_column_last():
    """The left neighbour of the centre is its right one, and column 0 is column width - 1."""
    matrix = region_affine((50, 40, 96, 128), (128, 96), mirror=True)
    assert transform_points([[50, 40], [49, 41], [2, 40]], matrix).tolist() == [[47, 64], [48, 65], [95, 64]]
    turned = region_affine((50, 40, 96, 128), (128, 96), rotation=90, mirror=True)
    np.testing.assert_allclose(transform_points([60, 50], turned)[0], [95 - 58, 54])


def test_heat_map_points_return_to_the_picture_as_in_hrnet(reference):
    name = "hrnet_affine.npz"
    golden = reference.load(name)
    for i, (size, region, _) in enumerate(reference_regions(golden)):
        back = transform_points(golden["heatmap_coords"][i], invert_affine(region_affine(region, size)))
        reference.match(name, back, golden["transform_preds"][i], atol=5e-4 * max(1.0, region[2] / size[1]))


def test_mirrored_joints_equal_hrnet(reference):
    name = "hrnet_fliplr_joints.npz"
    golden = reference.load(name)
    width = int(golden["width"])
    matrix = region_affine((width / 2, 100, width, 200), (200, width), mirror=True)
    for skeleton in (COCO17, MPII16):
        tag = skeleton.name[:4]
        joints, visible = golden[f"{tag}_joints"], golden[f"{tag}_vis"]
        assert {frozenset(pair) for pair in golden[f"{tag}_pairs"].tolist()} == set(map(frozenset, skeleton.flip_pairs))
        order = list(skeleton.flip_order)
        points = transform_points(joints[:, :2], matrix)[order] * visible[order, :2]  # HRNet sets the others to 0
        reference.match(name, points, golden[f"{tag}_out_joints"][:, :2], atol=1e-12, rtol=1e-12)
        reference.match(name, visible[order], golden[f"{tag}_out_vis"])


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


@pytest.mark.parametrize("shape", [(40, 40_000, 3), (40_000, 40, 3)])
def test_a_long_picture_gives_the_crop_of_its_part(shape: tuple[int, int, int]) -> None:
    """OpenCV 4 refuses sides of more than 32,766 pixels."""
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    rows, columns = (slice(max(0, side - 60), side) for side in shape[:2])
    part = image[rows, columns]
    box = np.array([columns.stop - 30, rows.stop - 35, columns.stop - 5, rows.stop - 2])
    moved = box - np.array([columns.start, rows.start] * 2)
    crops, inverses = crop_boxes(image, [box], (64, 48))
    want, inverses_of_part = crop_boxes(part, [moved], (64, 48))
    assert want[0].std() > 20
    np.testing.assert_allclose(crops[0].astype(int), want[0], atol=2)  # bilinear weights are rounded
    np.testing.assert_allclose(inverses[0][:, 2] - inverses_of_part[0][:, 2], box[:2] - moved[:2])


def test_a_part_of_a_huge_picture_is_the_crop_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    boxes = [(10, 20, 40, 70), (-30, -30, 20, 20), (100, 70, 150, 120), (0, 0, 120, 90), (-90, -90, -80, -80)]
    want, _ = crop_boxes(image, boxes, (64, 48))
    monkeypatch.setattr(geometry, "_too_large", lambda part: part.shape == image.shape and part.base is None)
    got, _ = crop_boxes(image, boxes, (64, 48))
    np.testing.assert_allclose(got.astype(int), want, atol=1)
    assert not want[-1].any()
    assert not got[-1].any()


@pytest.mark.slow
def test_more_of_a_huge_picture_than_opencv_takes_is_refused() -> None:
    """OpenCV 5.0 crashes on more than 2**31 bytes. The picture takes no memory until somebody reads it."""
    image = np.zeros((24_000, 30_000, 3), np.uint8)
    image[11_000:13_000, 14_000:16_000] = 200
    crops, _ = crop_boxes(image, [(14_200, 11_200, 14_800, 11_800)], (64, 48))
    assert (crops == 200).all()
    message = (
        "cannot cut 30000x24000 pixels out of a picture of 30000x24000: OpenCV takes at most 32766 pixels per side"
    )
    with pytest.raises(UsageError, match=message):
        crop_boxes(image, [(0, 0, 30_000, 24_000)], (64, 48))
