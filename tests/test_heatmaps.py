"""Targets and decoding against HRNet's reference numbers, and bone targets by hand."""

import numpy as np
import pytest

from edgepose.heatmaps import decode, encode_bones, encode_joints, encode_segmentation, merge_flipped
from edgepose.skeletons import COCO17, MPII16

TAGS = [("coco_48x64_s2", (64, 48), 2), ("mpii_64x64_s2", (64, 64), 2), ("coco_72x96_s3", (96, 72), 3)]


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


def test_torch_decoding_equals_the_reference(shared):
    torch = pytest.importorskip("torch")
    from edgepose.train.models.contract import decode as torch_decode

    maps = np.load(shared / "goldens/hrnet_decode.npz")["heatmaps"]
    np.testing.assert_array_equal(torch_decode(torch.from_numpy(maps)).numpy(), decode(maps))


def test_decoding_by_hand():
    maps = np.zeros((1, 4, 8, 6), np.float32)
    maps[0, 0, 3, 2], maps[0, 0, 3, 3], maps[0, 0, 2, 2] = 1.0, 0.5, 0.25  # right and upper neighbours are higher
    maps[0, 1, 3, 1] = 1.0  # x = 1 gets no offset
    maps[0, 2] = -1.0  # nothing positive
    maps[0, 3, 3, 4], maps[0, 3, 3, 5] = 1.0, 0.5  # x = w - 2 does get one
    want = [[9, 11, 1], [4, 12, 1], [0, 0, -1], [17, 12, 1]]
    np.testing.assert_array_equal(decode(maps)[0], want)


@pytest.mark.parametrize(("tag", "skeleton"), [("coco", COCO17), ("mpii", MPII16)])
def test_flip_merge_equals_hrnet(reference, tag, skeleton):
    golden = reference.load("hrnet_flip_test.npz")
    got = merge_flipped(golden[f"{tag}_output"], golden[f"{tag}_output_flipped"], skeleton.flip_order)
    reference.match("hrnet_flip_test.npz", got, golden[f"{tag}_avg_shift"], atol=1e-7)


def test_bone_targets_by_hand():
    # Bone 0 from heat-map (2, 5) to (10, 5): distances are those to a horizontal segment.
    joints = np.array([[8, 20], [40, 20], [0, 0]])
    target = encode_bones(joints, [1, 1, 0], [(0, 1), (1, 2)], (12, 16), sigma=2.0)
    assert target.shape == (2, 12, 16)
    assert target[0, 5, 2] == target[0, 5, 6] == target[0, 5, 10] == 1.0
    assert target[0, 8, 6] == pytest.approx(np.exp(-9 / 8))
    assert target[0, 5, 13] == pytest.approx(np.exp(-9 / 8))  # beyond the end: distance to the end point
    assert target[0, 9, 13] == pytest.approx(np.exp(-25 / 8))
    assert not target[1].any()  # one end is unlabelled


def test_a_bone_of_no_length_is_a_joint():
    target = encode_bones([[8, 8], [8, 8]], [1, 1], [(0, 1)], (6, 6))
    assert target[0, 2, 2] == 1.0
    assert target[0, 2, 4] == pytest.approx(np.exp(-4 / 8))


def test_segmentation_target_by_hand():
    # One labelled joint at heat-map (3, 4), one unlabelled in the corner: a disc of radius 2, its edge included.
    target = encode_segmentation([[12, 16], [0, 0]], [1, 0], (9, 8), radius=2.0)
    want = np.zeros((9, 8), np.float32)
    want[2, 3] = want[6, 3] = 1
    want[3, 2:5] = want[5, 2:5] = 1
    want[4, 1:6] = 1
    np.testing.assert_array_equal(target, want)
    np.testing.assert_array_equal(encode_segmentation([[12, 16]], [0], (9, 8)), np.zeros((9, 8)))
