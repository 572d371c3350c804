"""The skeletons of COCO, MPII, LSP and CrowdPose: joints, bones, left-right pairs and OKS sigmas.

Every joint belongs to at least one bone, because DITN's bone branch passes its information to the joints along bones.
"""

from __future__ import annotations

from dataclasses import dataclass

from .errors import UsageError


@dataclass(frozen=True)
class Skeleton:
    """Names and structure of one keypoint set.

    Attributes:
        name: the identifier used in manifests and on the command line.
        joints: joint names, in output order; left and right are the person's own.
        bones: pairs of joint indices.
        flip_pairs: pairs of left and right joint indices, which are exchanged when the image is mirrored.
        sigmas: OKS fall-off of each joint, by COCO's definition; a comment at each skeleton names their source.
    """

    name: str
    joints: tuple[str, ...]
    bones: tuple[tuple[int, int], ...]
    flip_pairs: tuple[tuple[int, int], ...]
    sigmas: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        missing = set(range(len(self.joints))) - {j for bone in self.bones for j in bone}
        if missing:
            raise ValueError(f"skeleton {self.name}: joints {sorted(missing)} belong to no bone")
        if self.sigmas and len(self.sigmas) != len(self.joints):
            raise ValueError(f"skeleton {self.name}: {len(self.sigmas)} sigmas for {len(self.joints)} joints")

    @property
    def flip_order(self) -> tuple[int, ...]:
        """Joint order after mirroring: ``mirrored[:, j] = original[:, flip_order[j]]``."""
        order = list(range(len(self.joints)))
        for a, b in self.flip_pairs:
            order[a], order[b] = b, a
        return tuple(order)


COCO17 = Skeleton(
    name="coco17",
    joints=(
        *("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder"),
        *("left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip"),
        *("left_knee", "right_knee", "left_ankle", "right_ankle"),
    ),
    bones=(
        *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8)),
        *((7, 9), (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
    ),
    flip_pairs=((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)),
    sigmas=(
        *(0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062),
        *(0.107, 0.107, 0.087, 0.087, 0.089, 0.089),
    ),
)

# MPII and LSP publish no sigmas, but NMS between persons and COCO export need some. Here each joint has the sigma of
# COCO's joint of the same name; head top has the ear's, neck and thorax the shoulder's, pelvis the hip's. MPII's bones
# are those of DITN's first author (github.com/onerow2star/cplusplus_primer, revison/lib/dataset/JointsDataset.py): the
# shoulders are joined to the upper neck.
MPII16 = Skeleton(
    name="mpii16",
    joints=(
        *("right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "pelvis", "thorax"),
        *("upper_neck", "head_top", "right_wrist", "right_elbow", "right_shoulder"),
        *("left_shoulder", "left_elbow", "left_wrist"),
    ),
    bones=(
        *((0, 1), (1, 2), (2, 6), (3, 6), (3, 4), (4, 5), (6, 7), (7, 8), (8, 9)),
        *((10, 11), (11, 12), (12, 8), (13, 8), (13, 14), (14, 15)),
    ),
    flip_pairs=((5, 0), (4, 1), (3, 2), (15, 10), (14, 11), (13, 12)),
    sigmas=(
        *(0.089, 0.087, 0.107, 0.107, 0.087, 0.089, 0.107, 0.079),
        *(0.079, 0.035, 0.062, 0.072, 0.079, 0.079, 0.072, 0.062),
    ),
)

LSP14 = Skeleton(
    name="lsp14",
    joints=(
        *("right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle"),
        *("right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist"),
        *("neck", "head_top"),
    ),
    bones=(
        *((13, 12), (12, 8), (12, 9), (8, 7), (7, 6), (9, 10), (10, 11)),
        *((12, 2), (12, 3), (2, 1), (1, 0), (3, 4), (4, 5)),
    ),
    flip_pairs=((5, 0), (4, 1), (3, 2), (11, 6), (10, 7), (9, 8)),
    sigmas=(0.089, 0.087, 0.107, 0.107, 0.087, 0.089, 0.062, 0.072, 0.079, 0.079, 0.072, 0.062, 0.079, 0.035),
)

# LSP's bones. The sigmas of CrowdPose's evaluation code: COCO's, with the shoulder's for head top and neck.
CROWDPOSE14 = Skeleton(
    name="crowdpose14",
    joints=(
        *("left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist"),
        *("left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle", "head_top", "neck"),
    ),
    bones=(
        *((12, 13), (13, 1), (13, 0), (1, 3), (3, 5), (0, 2), (2, 4)),
        *((13, 7), (13, 6), (7, 9), (9, 11), (6, 8), (8, 10)),
    ),
    flip_pairs=((0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (10, 11)),
    sigmas=(0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089, 0.079, 0.079),
)

SKELETONS = {s.name: s for s in (COCO17, MPII16, LSP14, CROWDPOSE14)}


def get_skeleton(name: str) -> Skeleton:
    """Return the skeleton of a name; raise UsageError if none has it."""
    if name not in SKELETONS:
        raise UsageError(f"unknown skeleton {name!r}: expected one of {', '.join(SKELETONS)}")
    return SKELETONS[name]
