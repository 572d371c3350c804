"""Metrics by hand, and against the reference numbers of HRNet's evaluation and of pycocotools."""

import numpy as np
import pytest

from edgepose.accuracy.metrics import (
    correct_keypoints,
    keypoint_similarity,
    mean_pck,
    mean_pckh,
    mpii_rows,
    oks,
    oks_nms,
    percent_by_joint,
    person_scores,
    pose_oks,
    torso_size,
)
from edgepose.core.boxes import nms
from edgepose.core.skeletons import COCO17, CROWDPOSE14, LSP14, MPII16
from tests.doubles.hrnet_variants import pose_oks_of_sure_joints, soft_oks_nms

LIMITS = (0.3, 0.5, 0.7, 0.9)


def pck(predicted, labelled, visible, reference, threshold=0.2):
    return percent_by_joint(correct_keypoints(predicted, labelled, reference, threshold), visible)


def test_pck_by_hand():
    labelled = np.zeros((3, 2, 2))
    predicted = np.array([[[2, 0], [0, 0]], [[0, 2.01], [9, 9]], [[0, 0], [0, 3]]], float)
    visible = [[1, 1], [1, 0], [1, 1]]
    # Reference 10 and threshold 0.2: errors up to exactly 2 count; the third person is 20 px large.
    per_joint = pck(predicted, labelled, visible, [10, 10, 20])
    np.testing.assert_allclose(per_joint, [200 / 3, 100])
    assert mean_pck(per_joint) == (200 / 3 + 100) / 2


def test_a_joint_without_labels_is_left_out():
    per_joint = pck(np.zeros((1, 2, 2)), np.zeros((1, 2, 2)), [[1, 0]], [10])
    assert per_joint[0] == 100
    assert np.isnan(per_joint[1])
    assert mean_pck(per_joint) == 100


def test_torso_is_right_hip_to_left_shoulder():
    joints = np.zeros((1, 14, 2))
    joints[0, LSP14.joints.index("right_hip")] = [10, 50]
    joints[0, LSP14.joints.index("left_shoulder")] = [40, 10]
    assert torso_size(joints, LSP14).tolist() == [50]


def test_pckh_equals_hrnet(reference):
    golden = reference.load("hrnet_mpii_eval.npz")
    labelled = golden["pos_gt_src"].transpose(2, 0, 1) - 1  # 1-based in the file
    visible = 1 - golden["jnt_missing"].T
    corners = golden["headboxes_src"]
    heads = 0.6 * np.linalg.norm(corners[1] - corners[0], axis=0)

    def percent(threshold):
        return pck(golden["preds_0based"][..., :2], labelled, visible, heads, threshold)

    # What HRNet's evaluation calls Mean@0.1 is taken at 0.11.
    means = [mean_pckh(percent(threshold), visible, MPII16) for threshold in (0.5, 0.11)]
    reference.match(
        "hrnet_mpii_eval.npz", [*mpii_rows(percent(0.5), MPII16).values(), *means], golden["values"], atol=1e-9
    )


def test_mpii_rows_without_a_head():
    # LSP-14 names its head joint as MPII does, its shoulders count as a pair, and its neck has no row.
    percent = np.arange(14.0)
    rows = mpii_rows(percent, LSP14)
    assert rows == {"head_top": 13, "shoulder": 8.5, "elbow": 8.5, "wrist": 8.5, "hip": 2.5, "knee": 2.5, "ankle": 2.5}
    assert list(mpii_rows(np.arange(17.0), COCO17)) == ["shoulder", "elbow", "wrist", "hip", "knee", "ankle"]


def test_mean_pckh_weighs_joints_by_their_labels():
    percent, visible = np.full(16, 50.0), np.zeros((2, 16))
    visible[:, 0], visible[0, 1], visible[:, 6] = 1, 1, 1
    percent[:2], percent[6] = (100, 10), 0  # the pelvis does not count
    percent[2] = np.nan  # never labelled
    assert mean_pckh(percent, visible, MPII16) == pytest.approx((2 * 100 + 10) / 3)


def test_similarity_by_hand():
    # Distance 5, area 100, sigma 0.5: exp(-25 / (2 * 100 * 1)).
    got = keypoint_similarity([[3, 4], [0, 0]], [[0, 0], [0, 0]], 100, [0.5, 0.1])
    np.testing.assert_allclose(got, [np.exp(-0.125), 1])
    assert oks([[[3, 4], [9, 9]]], [[[0, 0], [0, 0]]], [[1, 0]], [100], [0.5, 0.1]) == pytest.approx(np.exp(-0.125))
    assert oks(np.zeros((2, 1, 2)), np.zeros((1, 1, 2)), [[0]], [100], [0.5]).tolist() == [[0], [0]]


def test_oks_of_labelled_persons_equals_pycocotools(reference):
    truth, found = reference.load("coco_synth_gt.json"), reference.load("coco_synth_dt.json")
    compared = 0
    for image_id, want in reference.load("coco_synth_eval.json")["ious"].items():
        persons = [a for a in truth["annotations"] if a["image_id"] == int(image_id)]
        poses = sorted((d for d in found if d["image_id"] == int(image_id)), key=lambda d: -d["score"])[:20]
        if not want:
            assert not persons or not poses
            continue
        labels = np.reshape([a["keypoints"] for a in persons], (-1, 17, 3))
        points = np.reshape([d["keypoints"] for d in poses], (-1, 17, 3))[..., :2]
        got = oks(points, labels[..., :2], labels[..., 2] > 0, [a["area"] for a in persons], COCO17.sigmas)
        labelled = (labels[..., 2] > 0).any(axis=1)
        reference.match("coco_synth_eval.json", got[:, labelled], np.array(want)[:, labelled], atol=1e-9)
        compared += labelled.sum()
    assert compared == 68


@pytest.mark.parametrize(
    ("name", "sigmas", "score_above"),
    [
        ("oks_matrix", COCO17.sigmas, -np.inf),
        ("oks_matrix_in_vis_0p3", COCO17.sigmas, 0.3),
        ("oks_matrix_sigmas_custom", None, -np.inf),
    ],
)
def test_oks_between_poses_equals_hrnet(reference, name, sigmas, score_above):
    golden = reference.load("hrnet_oks_nms.npz")
    sigmas = golden["sigmas_custom"] if sigmas is None else sigmas
    poses, areas = golden["keypoints"], golden["areas"]
    got = pose_oks_of_sure_joints(poses, areas, sigmas, score_above)
    reference.match("hrnet_oks_nms.npz", got, golden[name], atol=1e-12)
    if score_above == -np.inf:  # the rule that edgepose uses
        reference.match("hrnet_oks_nms.npz", pose_oks(poses[..., :2], areas, sigmas), golden[name], atol=1e-12)


@pytest.mark.parametrize("limit", LIMITS)
def test_suppression_equals_hrnet(reference, limit):
    golden = reference.load("hrnet_oks_nms.npz")
    poses, areas, scores = golden["keypoints"], golden["areas"], golden["scores"]
    similarity = pose_oks(poses[..., :2], areas, COCO17.sigmas)
    sure = pose_oks_of_sure_joints(poses, areas, COCO17.sigmas, 0.3)
    for name, got in (
        (f"oks_nms_keep_{limit}", oks_nms(similarity, scores, limit)),
        (f"oks_nms_vis0p3_keep_{limit}", oks_nms(sure, scores, limit)),
        (f"soft_oks_nms_keep_{limit}", soft_oks_nms(similarity, scores, limit)),
    ):
        reference.match("hrnet_oks_nms.npz", got, golden[name])


@pytest.mark.parametrize("limit", LIMITS[:3])
def test_suppression_of_boxes_equals_hrnet(reference, limit):
    golden = reference.load("hrnet_oks_nms.npz")
    boxes = golden["box_dets"][:, :4] + [0, 0, 1, 1]  # HRNet's boxes include their last pixel
    got = nms(boxes, golden["box_dets"][:, 4], limit)
    reference.match("hrnet_oks_nms.npz", got, golden[f"box_nms_keep_{limit}"])


def test_nothing_to_suppress():
    nobody = pose_oks(np.zeros((0, 17, 2)), np.zeros(0), COCO17.sigmas), np.zeros(0)
    assert oks_nms(*nobody) == soft_oks_nms(*nobody) == []
    assert oks_nms(pose_oks(np.zeros((1, 17, 2)), np.ones(1), COCO17.sigmas), [0.5]) == [0]


def test_suppression_leaves_its_scores_alone():
    points, scores = np.zeros((3, 17, 2)), np.array([0.9, 0.8, 0.1])
    points[2] += 1000
    similarity = pose_oks(points, np.full(3, 100.0), COCO17.sigmas)
    # The second is the first again: it falls behind the third, which is far away.
    assert soft_oks_nms(similarity, scores, 0.3) == [0, 2, 1]
    assert oks_nms(similarity, scores) == [0, 2]
    assert scores.tolist() == [0.9, 0.8, 0.1]


def test_persons_score_by_their_sure_joints():
    poses = np.zeros((3, 3, 3))
    poses[..., 2] = np.array([[0.2, 0.5, 0.7], [0.2, 0.1, -1.0], [1, 1, 1]])  # exactly 0.2 does not count
    np.testing.assert_allclose(person_scores(poses, [0.5, 1, 0.25]), [0.3, 0, 0.25])


def test_sigmas_are_the_published():
    """COCO's, as pycocotools writes them, and CrowdPose's, as its evaluation code does."""
    coco = [0.26, 0.25, 0.25, 0.35, 0.35, 0.79, 0.79, 0.72, 0.72, 0.62, 0.62, 1.07, 1.07, 0.87, 0.87, 0.89, 0.89]
    crowdpose = [0.79, 0.79, 0.72, 0.72, 0.62, 0.62, 1.07, 1.07, 0.87, 0.87, 0.89, 0.89, 0.79, 0.79]
    np.testing.assert_allclose(COCO17.sigmas, np.array(coco) / 10, atol=1e-12)
    np.testing.assert_allclose(CROWDPOSE14.sigmas, np.array(crowdpose) / 10, atol=1e-12)


def test_oks_by_cocos_formula():
    """exp(-d^2 / (2 s^2 k^2)) with k = 2 sigma and s^2 = area (cocodataset.org): a nose 5 px off, area 50 x 100."""
    nose = np.zeros((1, 17, 2))
    nose[0, 0] = (3, 4)
    want = np.exp(-25 / (2 * 5000 * 0.052**2))
    assert want == pytest.approx(0.39671, abs=1e-5)
    labelled = np.arange(17) == 0
    assert oks(nose, np.zeros((1, 17, 2)), [labelled], [5000], COCO17.sigmas) == pytest.approx(want, rel=1e-9)


def test_oks_between_poses_takes_the_mean_area():
    """HRNet's oks_iou: with the areas 80 and 120 the similarity is that of 100, over all joints."""
    points = np.zeros((2, 2, 2))
    points[1, 0] = (3, 4)
    got = pose_oks(points, np.array([80.0, 120.0]), [0.5, 0.1])
    np.testing.assert_allclose(got, [[1, (np.exp(-0.125) + 1) / 2], [(np.exp(-0.125) + 1) / 2, 1]], rtol=1e-12)


def test_poses_are_doubles_above_hrnets_limit():
    """OKS_THRE 0.9 of HRNet's experiments: 0.9 itself stays."""
    for similar, kept in ((0.9, [1, 0]), (0.9001, [1]), (0.89, [1, 0])):
        assert oks_nms(np.array([[1, similar], [similar, 1]]), [0.5, 0.6]) == kept


def test_joints_count_above_hrnets_limit():
    """IN_VIS_THRE 0.2 of HRNet's experiments: 0.2 itself does not count."""
    poses = np.zeros((1, 3, 3))
    poses[0, :, 2] = (0.2, 0.21, 0.5)
    np.testing.assert_allclose(person_scores(poses, [0.8]), [0.8 * 0.71 / 2])


def test_the_mean_without_any_label_is_none():
    assert mean_pckh(np.full(16, np.nan), np.zeros((2, 16)), MPII16) is None
    only_pelvis = np.arange(16) == MPII16.joints.index("pelvis")
    assert mean_pckh(np.where(only_pelvis, 100, np.nan), only_pelvis[None], MPII16) is None
    assert mean_pckh([], np.zeros((0, 16)), MPII16) is None
    assert mean_pck(np.full(14, np.nan)) is None
