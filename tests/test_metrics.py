import numpy as np

from edgepose.metrics import mean_pck, pck, torso_size
from edgepose.skeletons import LSP14


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
