"""Targets and decoding against HRNet's reference numbers, and bone targets by hand."""

import numpy as np
import pytest

from edgepose.core.geometry import invert_affine, region_affine, transform_points
from edgepose.core.heatmaps import (
    decode,
    decode_dark,
    encode_bones,
    encode_bones_gaussian,
    encode_joints,
    encode_segmentation,
    merge_flipped,
)
from edgepose.core.skeletons import COCO17, MPII16

TAGS = [("coco_48x64_s2", (64, 48), 2), ("mpii_64x64_s2", (64, 64), 2), ("coco_72x96_s3", (96, 72), 3)]


def joint_map(mean, shape, sigma):
    """HRNet's Gaussian around a whole heat-map pixel, pixel by pixel."""
    target = np.zeros(shape)
    for y, x in np.ndindex(shape):
        if abs(x - mean[0]) <= 3 * sigma and abs(y - mean[1]) <= 3 * sigma:
            target[y, x] = np.exp(-((x - mean[0]) ** 2 + (y - mean[1]) ** 2) / (2 * sigma**2))
    return target


@pytest.mark.parametrize("sigma", [2, 3])
def test_joint_targets_by_hand(sigma):
    """HRNet: int(x / 4 + 0.5), towards zero; no weight if the window of three sigma lies outside the map."""
    edge = 3 * sigma
    cases = [  # x in crop pixels, its heat-map pixel, and the weight
        *((21.9, 5, 1), (22, 6, 1), (0, 0, 1), (-1.9, 0, 1), (-2, 0, 1), (-5.9, 0, 1), (-6, -1, 1)),
        *((4 * (24 + edge - 1), 24 + edge - 1, 1), (4 * (24 + edge), 24 + edge, 0)),
        *((-4 * (edge + 1), -edge, 1), (-4 * (edge + 1) - 2, -edge - 1, 1), (-4 * (edge + 2) - 2, -edge - 2, 0)),
    ]
    for place, mean, weight in cases:
        for axis in (0, 1):
            joint, centre = [40.0, 40.0], [10, 10]
            joint[axis], centre[axis] = place, mean
            targets, weights = encode_joints([joint], [1], (24, 24), sigma)
            assert weights.tolist() == [weight], place
            np.testing.assert_allclose(targets[0], weight * joint_map(centre, (24, 24), sigma), atol=1e-7)
    targets, weights = encode_joints([[40, 40], [40, 40]], [0, 1], (24, 24), sigma)
    assert weights.tolist() == [0, 1]
    assert not targets[0].any()


@pytest.mark.parametrize(("tag", "shape", "sigma"), TAGS)
def test_joint_targets_equal_hrnet(reference, tag, shape, sigma):
    golden = reference.load("hrnet_targets.npz")
    for person in range(4):
        joints, visible = golden[f"{tag}_joints"][person, :, :2], golden[f"{tag}_vis"][person, :, 0]
        targets, weights = encode_joints(joints, visible, shape, sigma)
        reference.match("hrnet_targets.npz", targets, golden[f"{tag}_target"][person], atol=1e-6)
        reference.match("hrnet_targets.npz", weights, golden[f"{tag}_weight"][person, :, 0])


def test_decoding_equals_hrnet(reference):
    golden = reference.load("hrnet_decode.npz")
    got = decode(golden["heatmaps"])
    reference.match("hrnet_decode.npz", got[..., 2:], golden["maxvals"])
    reference.match("hrnet_decode.npz", got[..., :2] / 4, golden["heatmap_space_coords_with_quarter"], atol=1e-3)


def test_keypoints_in_the_image_equal_hrnet(reference):
    golden = reference.load("hrnet_decode.npz")
    for sample, keypoints in enumerate(decode(golden["heatmaps"])):
        width = 200 * float(golden["scale"][sample, 0])
        matrix = region_affine([*golden["center"][sample], width, width * 4 / 3], (256, 192))
        got = transform_points(keypoints[:, :2], invert_affine(matrix))
        reference.match("hrnet_decode.npz", got, golden["final_preds"][sample], atol=1e-3)


def test_torch_decoding_equals_the_reference(shared):
    torch = pytest.importorskip("torch")
    from edgepose.models.pose_graph import decode as torch_decode

    maps = np.load(shared / "goldens/hrnet_decode.npz")["heatmaps"]
    np.testing.assert_array_equal(torch_decode(torch.from_numpy(maps)).numpy(), decode(maps))


def test_the_usual_targets_have_sigma_2_and_radius_5():
    """The published constants are the defaults; 81 points of a grid lie within 5 of one of them (Gauss's circle)."""
    targets, weights = encode_joints([[40, 80]], [1], (48, 32))  # heat-map pixel (10, 20)
    assert weights.tolist() == [1]
    row = [0, *(np.exp(-(d**2) / 8) for d in range(-6, 7)), 0]  # three sigma, and 0 beyond
    np.testing.assert_allclose(targets[0, 20, 3:18], row, atol=1e-7)
    np.testing.assert_allclose(targets[0, 13:28, 10], row, atol=1e-7)
    assert targets[0, 22, 12] == pytest.approx(np.exp(-1))
    assert encode_segmentation([[40, 80]], [1], (48, 32)).sum() == 81


def test_decoding_by_hand():
    maps = np.zeros((1, 4, 8, 6), np.float32)
    maps[0, 0, 3, 2], maps[0, 0, 3, 3], maps[0, 0, 2, 2] = 1.0, 0.5, 0.25  # right and upper neighbours are higher
    maps[0, 1, 3, 1] = 1.0  # x = 1 gets no offset
    maps[0, 2] = -1.0  # nothing positive
    maps[0, 3, 3, 4], maps[0, 3, 3, 5] = 1.0, 0.5  # x = w - 2 does get one
    want = [[9, 11, 1], [4, 12, 1], [0, 0, -1], [17, 12, 1]]
    np.testing.assert_array_equal(decode(maps)[0], want)


def gaussians(centres, shape, sigma=2.0):
    """Heat-maps (1, J, h, w) with one Gaussian each around ``centres`` (J, 2), x and y in map pixels."""
    dx, dy = np.arange(shape[1]) - centres[:, :1], np.arange(shape[0]) - centres[:, 1:]
    maps = np.exp(-(dy[:, :, None] ** 2 + dx[:, None, :] ** 2) / (2 * sigma**2))
    return maps[None].astype(np.float32)


def off_by(keypoints, centres):
    """Distances (J,) in map pixels."""
    return np.linalg.norm(keypoints[0, :, :2] / 4 - centres, axis=1)


def test_dark_decoding_finds_the_centre_between_pixels():
    rng = np.random.default_rng(0)
    centres = rng.uniform(10, 36, size=(500, 2))
    maps = gaussians(centres, (64, 48))
    assert off_by(decode(maps), centres).mean() > 0.15
    assert off_by(decode_dark(maps), centres).max() < 1e-4
    # Noise of 2 % of the peak moves the plain maximum, and the smoothed centre by hundredths of a pixel.
    noisy = maps + 0.02 * rng.standard_normal(maps.shape).astype(np.float32)
    assert off_by(decode(noisy), centres).mean() > 0.2
    assert off_by(decode_dark(noisy), centres).mean() < 0.03
    # A map that is sharper or wider than the targets has its centre at the same place.
    for sigma in (1.0, 3.0):
        assert off_by(decode_dark(gaussians(centres, (64, 48), sigma)), centres).max() < 0.02


@pytest.mark.parametrize(("place", "steps"), [(1, False), (2, True), (9, True), (10, False)])
def test_dark_decoding_has_a_step_from_two_pixels_inside_the_border(place, steps):
    for centre in ([place + 0.2, 6.2], [6.2, place + 0.2]):
        maps = gaussians(np.array([centre]), (12, 12))
        assert np.array_equal(decode_dark(maps), decode(maps)) is not steps


def dark_reference(heatmap, sigma):
    """Decoding of one map (h, w), point by point; None where there is no Newton step."""
    height, width = heatmap.shape
    y, x = divmod(int(heatmap.argmax()), width)
    if heatmap[y, x] <= 0 or not (1 < x < width - 2 and 1 < y < height - 2):
        return None
    logs = np.zeros((3, 3))
    for i, j in np.ndindex(3, 3):
        smooth = 0.0
        for v, u in np.ndindex(height, width):
            distance2 = (v - (y + i - 1)) ** 2 + (u - (x + j - 1)) ** 2
            smooth += float(heatmap[v, u]) * np.exp(-distance2 / (2 * sigma**2))
        logs[i, j] = np.log(max(smooth, 1e-10))
    gradient = np.array([logs[1, 2] - logs[1, 0], logs[2, 1] - logs[0, 1]]) / 2
    xy = (logs[2, 2] - logs[0, 2] - logs[2, 0] + logs[0, 0]) / 4
    xx, yy = logs[1, 2] - 2 * logs[1, 1] + logs[1, 0], logs[2, 1] - 2 * logs[1, 1] + logs[0, 1]
    hessian = np.array([[xx, xy], [xy, yy]])
    if not (np.linalg.eigvalsh(hessian) < 0).all():
        return None
    step = -np.linalg.inv(hessian) @ gradient
    return np.array([x, y]) + step if np.abs(step).max() <= 1 else None


def test_dark_decoding_equals_a_readable_one(shared):
    maps = np.load(shared / "goldens/hrnet_decode.npz")["heatmaps"][1:, :, ::2, ::2]
    plain, got, stepped = decode(maps), decode_dark(maps), 0
    np.testing.assert_array_equal(got[..., 2], plain[..., 2])
    for sample, joint in np.ndindex(maps.shape[:2]):
        want = dark_reference(maps[sample, joint], 2.0)
        stepped += want is not None
        want = plain[sample, joint, :2] if want is None else 4 * want
        np.testing.assert_allclose(got[sample, joint, :2], want, atol=1e-3)
    assert 10 < stepped < got[..., 0].size


def test_dark_decoding_of_noise_equals_a_readable_one():
    """Peaks of all shapes, slanted ones too, which need every derivative, and saddles, which have no step."""
    rng, stepped = np.random.default_rng(0), 0
    y, x = np.mgrid[:12, :9]
    maps = np.empty((1, 40, 12, 9), np.float32)
    for heatmap in maps[0]:
        dx, dy = x - rng.uniform(3, 5), y - rng.uniform(3, 8)
        slant = rng.uniform(-1.2, 1.2)
        heatmap[:] = np.exp(-(dx**2 + dy**2 + slant * dx * dy) / 4) + 0.3 * rng.random((12, 9))
    plain, got = decode(maps)[0], decode_dark(maps)[0]
    for heatmap, before, after in zip(maps[0], plain, got, strict=True):
        want = dark_reference(heatmap, 2.0)
        stepped += want is not None
        np.testing.assert_allclose(after[:2], before[:2] if want is None else 4 * want, atol=1e-3)
    assert 10 < stepped < 40


def test_dark_decoding_keeps_to_the_plain_one_where_it_has_no_step():
    rng = np.random.default_rng(0)
    border = gaussians(np.array([[0, 5], [1.2, 7], [14.9, 3], [6, 0.4], [8, 14.2], [-3, 8]]), (16, 16))
    flat = np.stack([np.zeros((16, 16)), np.ones((16, 16)), -np.ones((16, 16)), rng.uniform(-2, -1, (16, 16))])
    saddle = np.full((16, 16), 0.1)
    saddle[8, :] = np.abs(np.arange(16) - 8) + 1  # the smoothed map rises to both sides of its middle
    saddle[8, 8] = 9
    upright = np.full((16, 16), 0.1)
    upright[[*range(6), *range(11, 16)], 8] = 10  # smoothed, it rises upwards and downwards of its middle
    upright[8, 8], upright[9, 8] = 10.5, 0.5
    for maps in (border, *(m.astype(np.float32) for m in (flat[None], saddle[None, None], upright[None, None]))):
        got = decode_dark(maps)
        np.testing.assert_array_equal(got, decode(maps))
        assert np.isfinite(got).all()
    # One hot pixel is a peak; negative surroundings do not matter.
    hot = np.full((1, 1, 16, 16), -0.01, np.float32)
    hot[0, 0, 6, 9] = 5
    np.testing.assert_allclose(decode_dark(hot)[0, 0], [36, 24, 5], atol=0.01)
    assert decode_dark(np.zeros((0, 17, 16, 12), np.float32)).shape == (0, 17, 3)
    tiny = rng.uniform(size=(2, 3, 2, 2)).astype(np.float32)
    np.testing.assert_array_equal(decode_dark(tiny), decode(tiny))


def test_the_offset_stays_within_hrnets_bounds():
    """lib/core/inference.py: only if 1 < x < w - 1 and 1 < y < h - 1, towards the higher neighbour."""
    height, width = 7, 6
    for y, x in np.ndindex(height, width):
        maps = np.zeros((1, 1, height, width), np.float32)
        maps[0, 0, :, x + 1 :] = 0.5  # the right and lower neighbours are higher
        maps[0, 0, y + 1 :, x] = 0.5
        maps[0, 0, y, x] = 0.75
        moved = 0.25 if x in (2, 3, 4) and y in (2, 3, 4, 5) else 0.0
        assert decode(maps)[0, 0].tolist() == [4 * (x + moved), 4 * (y + moved), 0.75], (y, x)


def test_a_mirrored_map_is_mirrored_back_and_moved_to_the_right():
    """HRNet's flip_back and SHIFT_HEATMAP: column 0 keeps its value."""
    plain = np.zeros((1, 3, 1, 4), np.float32)
    mirrored = np.array([[[[1, 2, 3, 4]], [[5, 6, 7, 8]], [[0, 0, 0, 2]]]], np.float32)
    got = merge_flipped(plain, mirrored, (1, 0, 2))
    assert got[0, :, 0].tolist() == [[4, 4, 3.5, 3], [2, 2, 1.5, 1], [1, 1, 0, 0]]
    assert merge_flipped(plain + 2, mirrored, (1, 0, 2))[0, 2, 0].tolist() == [2, 2, 1, 1]
    assert mirrored[0, 0, 0].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(("tag", "skeleton"), [("coco", COCO17), ("mpii", MPII16)])
def test_flip_merge_equals_hrnet(reference, tag, skeleton):
    golden = reference.load("hrnet_flip_test.npz")
    got = merge_flipped(golden[f"{tag}_output"], golden[f"{tag}_output_flipped"], skeleton.flip_order)
    reference.match("hrnet_flip_test.npz", got, golden[f"{tag}_avg_shift"], atol=1e-7)


def test_gaussian_bone_targets_by_hand():
    # Bone 0 from heat-map (2, 5) to (10, 5): distances are those to a horizontal segment.
    joints = np.array([[8, 20], [40, 20], [0, 0]])
    target = encode_bones_gaussian(joints, [1, 1, 0], [(0, 1), (1, 2)], (12, 16), sigma=2.0)
    assert target.shape == (2, 12, 16)
    assert target[0, 5, 2] == target[0, 5, 6] == target[0, 5, 10] == 1.0
    assert target[0, 8, 6] == pytest.approx(np.exp(-9 / 8))
    assert target[0, 5, 13] == pytest.approx(np.exp(-9 / 8))  # beyond the end: distance to the end point
    assert target[0, 9, 13] == pytest.approx(np.exp(-25 / 8))
    assert not target[1].any()  # one end is unlabelled


def test_a_gaussian_bone_of_no_length_is_a_joint():
    target = encode_bones_gaussian([[8, 8], [8, 8]], [1, 1], [(0, 1)], (6, 6))
    assert target[0, 2, 2] == 1.0
    assert target[0, 2, 4] == pytest.approx(np.exp(-4 / 8))


def test_bone_targets_by_hand():
    """A level bone of 10 pixels: the pixel at either end is left out, but for the 3x3 square around the next one."""
    joints = np.array([[7.9, 21], [48, 18], [0, 0]])  # rounded to heat-map pixels (2, 5) and (12, 5)
    target = encode_bones(joints, [1, 1, 0], [(0, 1), (1, 2)], (12, 16))
    beside = (3 - 10 / 10.01) / 3  # one pixel from the line; the length counts 0.01 more
    want = np.zeros((12, 16))
    want[5, 2:13] = 1
    want[[4, 6], 2:13] = beside
    np.testing.assert_allclose(target[0], want, atol=1e-6)
    assert not target[1].any()  # one end is unlabelled


#: Values of the rule's source, ``generate_target`` in JointsDataset.py (see :func:`encode_bones`), for the bone from
#: heat-map pixel (1, 1) to (6, 4): rows are y 0..5, columns x 0..7, in hundredths.
SLANTED = [
    [0, 71, 54, 37, 0, 0, 0, 0],
    [0, 100, 83, 66, 49, 0, 0, 0],
    [0, 71, 89, 94, 77, 60, 43, 0],
    [0, 43, 60, 77, 94, 89, 71, 0],
    [0, 0, 0, 49, 66, 83, 100, 0],
    [0, 0, 0, 0, 37, 54, 71, 0],
]


def test_slanted_bone_targets_equal_the_authors_code():
    target = encode_bones([[4, 4], [24, 16]], [1, 1], [(0, 1)], (6, 8))
    np.testing.assert_allclose(target[0], np.array(SLANTED) / 100, atol=0.005)


def test_bones_of_no_length_and_outside_the_map():
    same = encode_bones([[8, 8], [8, 8]], [1, 1], [(0, 1)], (6, 6))[0]
    want = np.zeros((6, 6))
    want[1:4, 1:4] = 1
    np.testing.assert_array_equal(same, want)
    assert not encode_bones([[-80, -80], [-40, 400]], [1, 1], [(0, 1)], (6, 6)).any()
    for far in (1e12, np.nan):  # no label
        assert not encode_bones([[8, 8], [far, 8]], [1, 1], [(0, 1)], (6, 6)).any()
    # From (2, 2) to (100, 2): 5 % of 98 pixels are left out, 4.9, so that the first square is around x = 7.
    cut = encode_bones([[8, 8], [400, 8]], [1, 1], [(0, 1)], (6, 12))[0]
    assert cut[2].tolist() == [0] * 6 + [1] * 6
    assert encode_bones([[8, 8], [80, 8]], [1, 1], [(0, 1)], (6, 6))[0, 2].tolist() == [0, 0, 1, 1, 1, 1]


def test_segmentation_target_by_hand():
    # One labelled joint at heat-map (3, 4), one unlabelled in the corner: a disc of radius 2, its edge included.
    target = encode_segmentation([[12, 16], [0, 0]], [1, 0], (9, 8), radius=2.0)
    want = np.zeros((9, 8), np.float32)
    want[2, 3] = want[6, 3] = 1
    want[3, 2:5] = want[5, 2:5] = 1
    want[4, 1:6] = 1
    np.testing.assert_array_equal(target, want)
    np.testing.assert_array_equal(encode_segmentation([[12, 16]], [0], (9, 8)), np.zeros((9, 8)))
