import pytest

from edgepose.core.errors import UsageError
from edgepose.core.skeletons import COCO17, CROWDPOSE14, LSP14, MPII16, SKELETONS, Skeleton, get_skeleton
from tests.doubles.mirrored_bones import bone_flip_order


def test_counts():
    counts = {name: (len(s.joints), len(s.bones)) for name, s in SKELETONS.items()}
    assert counts == {"coco17": (17, 19), "mpii16": (16, 15), "lsp14": (14, 13), "crowdpose14": (14, 13)}


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
