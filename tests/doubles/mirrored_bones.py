"""The order of a skeleton's bones in a mirrored picture."""

from __future__ import annotations

from edgepose.core.skeletons import Skeleton


def bone_flip_order(skeleton: Skeleton) -> list[int]:
    """Bone order after mirroring, found by mapping both ends of each bone."""
    order = skeleton.flip_order
    position = {frozenset(bone): i for i, bone in enumerate(skeleton.bones)}
    return [position[frozenset((order[a], order[b]))] for a, b in skeleton.bones]
