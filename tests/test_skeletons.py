import pytest

from edgepose.errors import UsageError
from edgepose.skeletons import COCO17, LSP14, MPII16, SKELETONS, Skeleton, get_skeleton


def test_counts():
    assert [(len(s.joints), len(s.bones)) for s in (COCO17, MPII16, LSP14)] == [(17, 19), (16, 15), (14, 13)]


@pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=lambda s: s.name)
def test_flip_exchanges_left_and_right_names(skeleton):
    swap = {"left": "right", "right": "left"}
    for joint, other in zip(skeleton.joints, skeleton.flip_order, strict=True):
        side, _, rest = joint.partition("_")
        assert skeleton.joints[other] == (f"{swap[side]}_{rest}" if side in swap else joint)


@pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=lambda s: s.name)
def test_flipping_bones_twice_is_nothing(skeleton):
    order = skeleton.bone_flip_order
    assert [order[i] for i in order] == list(range(len(skeleton.bones)))


def test_every_joint_needs_a_bone():
    with pytest.raises(ValueError, match=r"joints \[2\] belong to no bone"):
        Skeleton("bad", ("a", "b", "c"), ((0, 1),), ())


def test_unknown_skeleton_names_the_known():
    with pytest.raises(UsageError, match="expected one of coco17, mpii16, lsp14"):
        get_skeleton("coco")
