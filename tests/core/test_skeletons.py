import pytest

from edgepose.core.errors import UsageError
from edgepose.core.skeletons import COCO17, CROWDPOSE14, LSP14, MPII16, SKELETONS, Skeleton, get_skeleton
from tests.doubles.mirrored_bones import bone_flip_order


def test_counts():
    counts = {name: (len(s.joints), len(s.bones)) for name, s in SKELETONS.items()}
    assert counts == {"coco17": (17, 19), "mpii16": (16, 15), "lsp14": (14, 13), "crowdpose14": (14, 13)}


#: The skeleton in the "person" category of COCO's person_keypoints_val2017.json, whose joints count from 1.
COCO_BONES = [
    *([16, 14], [14, 12], [17, 15], [15, 13], [12, 13], [6, 12], [7, 13], [6, 7], [6, 8], [7, 9]),
    *([8, 10], [9, 11], [2, 3], [1, 2], [1, 3], [2, 4], [3, 5], [4, 6], [5, 7]),
]
#: limbs_links of DITN's first author (github.com/onerow2star/cplusplus_primer, revison/lib/dataset/JointsDataset.py).
MPII_BONES = [
    *([0, 1], [1, 2], [2, 6], [3, 6], [4, 3], [5, 4], [6, 7], [7, 8], [8, 9]),
    *([10, 11], [11, 12], [12, 8], [13, 8], [14, 13], [15, 14]),
]


def ends(bones):
    return [frozenset(bone) for bone in bones]


def test_bones_of_coco_and_mpii_are_the_published_ones_in_their_order():
    assert ends(COCO17.bones) == [frozenset((a - 1, b - 1)) for a, b in COCO_BONES]
    assert ends(MPII16.bones) == ends(MPII_BONES)


def test_bones_of_lsp_are_the_usual_ones():
    """Head top-neck, neck-shoulders, arms, neck-hips, legs, by LSP's published order of joints."""
    arms, legs = [(8, 7), (7, 6), (9, 10), (10, 11)], [(2, 1), (1, 0), (3, 4), (4, 5)]
    assert set(ends(LSP14.bones)) == set(ends([(13, 12), (12, 8), (12, 9), *arms, (12, 2), (12, 3), *legs]))


#: Which bone takes the place of each in a mirrored picture, by hand.
MIRRORED = {
    "coco17": [2, 3, 0, 1, 4, 6, 5, 7, 9, 8, 11, 10, 12, 14, 13, 16, 15, 18, 17],
    "mpii16": [5, 4, 3, 2, 1, 0, 6, 7, 8, 14, 13, 12, 11, 10, 9],
    "lsp14": [0, 2, 1, 5, 6, 3, 4, 8, 7, 11, 12, 9, 10],
}


@pytest.mark.parametrize("name", MIRRORED)
def test_mirroring_exchanges_the_bones_of_both_sides(name):
    assert bone_flip_order(get_skeleton(name)) == MIRRORED[name]


@pytest.mark.parametrize("skeleton", [MPII16, LSP14, CROWDPOSE14], ids=lambda s: s.name)
def test_sigmas_are_cocos_by_joint_name(skeleton):
    coco = dict(zip(COCO17.joints, COCO17.sigmas, strict=True))
    extra = {joint: s for joint, s in zip(skeleton.joints, skeleton.sigmas, strict=True) if joint not in coco}
    for joint, sigma in zip(skeleton.joints, skeleton.sigmas, strict=True):
        assert sigma == coco.get(joint, extra.get(joint))
    nearest = {"pelvis": "left_hip", "thorax": "left_shoulder", "upper_neck": "left_shoulder", "neck": "left_shoulder"}
    nearest["head_top"] = "left_shoulder" if skeleton is CROWDPOSE14 else "left_ear"
    assert extra == {joint: coco[nearest[joint]] for joint in extra}


def test_lsp_and_crowdpose_are_joined_alike():
    named = [{frozenset((s.joints[a], s.joints[b])) for a, b in s.bones} for s in (LSP14, CROWDPOSE14)]
    assert named[0] == named[1]


@pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=lambda s: s.name)
def test_flip_exchanges_left_and_right_names(skeleton):
    swap = {"left": "right", "right": "left"}
    for joint, other in zip(skeleton.joints, skeleton.flip_order, strict=True):
        side, _, rest = joint.partition("_")
        assert skeleton.joints[other] == (f"{swap[side]}_{rest}" if side in swap else joint)


@pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=lambda s: s.name)
def test_flipping_bones_twice_is_nothing(skeleton):
    order = bone_flip_order(skeleton)
    assert [order[i] for i in order] == list(range(len(skeleton.bones)))


def test_every_joint_needs_a_bone():
    with pytest.raises(ValueError, match=r"joints \[2\] belong to no bone"):
        Skeleton("bad", ("a", "b", "c"), ((0, 1),), ())


def test_unknown_skeleton_names_the_known():
    with pytest.raises(UsageError, match="expected one of coco17, mpii16, lsp14, crowdpose14"):
        get_skeleton("coco")
