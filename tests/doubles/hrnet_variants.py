"""Rules of HRNet's evaluation that edgepose does not offer, but that HRNet's reference numbers also cover."""

from __future__ import annotations

import numpy as np

from edgepose.accuracy.metrics import keypoint_similarity

#: Most poses per picture that the soft suppression keeps, as COCO's evaluation does.
MOST_POSES = 20


def pose_oks_of_sure_joints(poses, areas, sigmas, score_above):
    """OKS (N, N) of poses (N, J, 3): only the joints of the second pose with a score above the limit count."""
    points, counted = poses[..., :2], poses[..., 2] > score_above
    similarity = keypoint_similarity(points[None], points[:, None], (areas[:, None] + areas) / 2, sigmas)
    return (similarity * counted).sum(axis=-1) / np.maximum(counted.sum(axis=-1), 1)


def soft_oks_nms(similarity, scores, limit=0.9):
    """Rank the poses of one picture: each pose taken multiplies the remaining ones' scores by exp(-OKS^2 / limit)."""
    ranks = np.array(scores, np.float64)
    order, keep = np.argsort(-ranks, kind="stable"), []
    while order.size and len(keep) < MOST_POSES:
        best, rest = int(order[0]), order[1:]
        keep.append(best)
        ranks[rest] *= np.exp(-(similarity[best, rest] ** 2) / limit)
        order = rest[np.argsort(-ranks[rest], kind="stable")]
    return keep
