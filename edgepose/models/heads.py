"""Define the outputs of a network in train mode."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Heads(NamedTuple):
    """Outputs of every head, float (N, channels, H/4, W/4).

    Attributes:
        joints: joint heat-maps.
        bones: bone heat-maps (DITN), or None where the network has no bone branch.
        segmentation: maps after the sigmoid, one per segmentation guided module (SG-HRNet), or None.
    """

    joints: Tensor
    bones: Tensor | None = None
    segmentation: Tensor | None = None
