"""Joints are found by the names that public data sets and labelling tools give them."""

from __future__ import annotations

import pytest

from edgepose.core.errors import UsageError
from edgepose.core.skeletons import COCO17, CROWDPOSE14, SKELETONS
from edgepose.data.joint_names import joint_order, spellings

# The names in the files of these data sets, in their order.
COCO = [
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow"),
    *("right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee"),
    *("left_ankle", "right_ankle"),
]
CROWDPOSE = [
    *("left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip"),
    *("right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle", "head", "neck"),
]
AIC = [
    *("Right Shoulder", "Right Elbow", "Right Wrist", "Left Shoulder", "Left Elbow", "Left Wrist", "Right Hip"),
    *("Right Knee", "Right Ankle", "Left Hip", "Left Knee", "Left Ankle", "Head top", "Neck"),
]
POSETRACK18 = ["nose", "head_bottom", "head_top", *COCO[3:]]
AP10K = [
    *("L_Eye", "R_Eye", "Nose", "Neck", "Root of tail", "L_Shoulder", "L_Elbow", "L_F_Paw", "R_Shoulder", "R_Elbow"),
    *("R_F_Paw", "L_Hip", "L_Knee", "L_B_Paw", "R_Hip", "R_Knee", "R_B_Paw"),
]


def test_official_names_are_in_order():
    assert joint_order(COCO, COCO17) == list(range(17))
    assert joint_order(CROWDPOSE, CROWDPOSE14) == list(range(14))


def test_another_order_is_taken_by_name():
    assert joint_order(COCO[::-1], COCO17) == list(range(16, -1, -1))
    # By hand: AIC has the right arm, the left arm, the right leg, the left leg, each from the trunk, head and neck.
    assert joint_order(AIC, CROWDPOSE14) == [3, 0, 4, 1, 5, 2, 9, 6, 10, 7, 11, 8, 12, 13]


def test_other_joints_are_left_out():
    assert joint_order(["left_big_toe", *COCO, "neck"], COCO17) == list(range(1, 18))


@pytest.mark.parametrize(
    "spelling",
    ["left_eye", "LEFT_EYE", "Left eye", "leftEye", "left-eye", "LEye", "l_eye", "L.Eye", "leye", "eye_left", "Eye.L"],
)
def test_usual_spellings(spelling):
    assert joint_order([spelling if name == "left_eye" else name for name in COCO], COCO17) == list(range(17))


@pytest.mark.parametrize("name", ["left eyes", "left_eye_1", "1", "eye", "links_auge", "左眼", "", "right_eye"])
def test_other_names_are_no_spellings(name):
    with pytest.raises(UsageError, match="left_eye"):
        joint_order([name if joint == "left_eye" else joint for joint in COCO], COCO17)


@pytest.mark.parametrize("head", ["head", "head_top", "top_head", "HeadTop", "top of head"])
def test_heads(head):
    assert joint_order([head if name == "head" else name for name in CROWDPOSE], CROWDPOSE14) == list(range(14))


def test_the_exact_name_goes_before_another():
    assert joint_order([*CROWDPOSE, "head_top"], CROWDPOSE14)[12] == 14


@pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=lambda s: s.name)
def test_no_spelling_is_of_two_joints(skeleton):
    every = [spelling for joint in skeleton.joints for spelling in spellings(joint)]
    assert len(every) == len(set(every))


@pytest.mark.parametrize(
    ("names", "skeleton", "message"),
    [
        (
            POSETRACK18,
            COCO17,
            r"the joints nose, head_bottom, .*, expected those of coco17 \(missing: left_eye, right_eye",
        ),
        (POSETRACK18, CROWDPOSE14, r"expected those of crowdpose14 \(missing: neck\)"),
        (AP10K, COCO17, r"\(missing: left_ear, right_ear, left_wrist, right_wrist, left_ankle, right_ankle\)$"),
        (CROWDPOSE, COCO17, r"\(missing: nose, left_eye, right_eye, left_ear, right_ear\)$"),
        ([*COCO, "Nose"], COCO17, r"\(twice: nose\)$"),
        ([*COCO[1:], "L_eye", "left eye"], COCO17, r"\(missing: nose; twice: left_eye\)$"),
        ([f"point {i}" for i in range(1000)], COCO17, r"point 38, point 39, \.\.\., expected those of coco17"),
    ],
)
def test_joints_that_are_not_there_are_named(names, skeleton, message):
    with pytest.raises(UsageError, match=message):
        joint_order(names, skeleton)
