"""The person detector ``person_lite``: a narrow residual network with three output grids.

Each cell near a person's centre predicts the distances to the four sides of the box, and the IoU that it expects that
box to have (FCOS, Tian et al., ICCV 2019; GFL, Li et al., NeurIPS 2020); there are no anchors. The length of a person
decides the grid. CenterNet's single peak per person was tried first; it learned several times slower.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgepose.models.layers import BasicBlock, conv_bn
from edgepose.models.pose_graph import normalise

#: Pixels of the input per cell of each output grid, both ways.
STRIDES = (8, 16, 32)
#: Channels of the backbone at strides 2, 4, 8, 16, 32.
WIDTHS = (16, 24, 40, 96, 160)
#: Channels of the features that the head reads.
NECK = 48

#: Score of every cell before training; a higher one would make the focal loss huge at the start.
_PRIOR = 0.01
#: A distance is the stride times exp(x) with x limited to this magnitude, so it is positive and finite.
_LOG_LIMIT = 4.0


class Prediction(NamedTuple):
    """The network's output for one grid of cells.

    Attributes:
        scores: (N, 1, h, w) logits of the expected IoU of the cell's box with a person's box; low without a person.
        sides: (N, 4, h, w) distances in input pixels from the cell's centre to the left, top, right and bottom of the
            person's box; positive.
    """

    scores: Tensor
    sides: Tensor


class PoolingPyramid(nn.Module):
    """Adds maxima over 5x5 and 9x9 cells to the features, so that a cell on a large person sees the whole person."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fuse = nn.Sequential(*conv_bn(3 * channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        near = F.max_pool2d(x, 5, stride=1, padding=2)
        far = F.max_pool2d(near, 5, stride=1, padding=2)
        return self.fuse(torch.cat([x, near, far], dim=1))


class Head(nn.Module):
    """Predicts scores and sides from the features of a grid; the grids share it, as sides are counted in cells."""

    def __init__(self) -> None:
        super().__init__()
        self.scores_tower = nn.Sequential(*conv_bn(NECK, NECK, 3))
        self.sides_tower = nn.Sequential(*conv_bn(NECK, NECK, 3))
        self.scores, self.sides = nn.Conv2d(NECK, 1, 1), nn.Conv2d(NECK, 4, 1)
        for layer, start in ((self.scores, -math.log(1 / _PRIOR - 1)), (self.sides, 1.0)):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.constant_(layer.bias, start)

    def forward(self, x: Tensor, stride: int) -> Prediction:
        scores, sides = self.scores_tower(x), self.sides_tower(x)
        with torch.autocast(x.device.type, enabled=False):  # bfloat16's eight bits are too few for a box
            raw = self.sides(sides.float()).clamp(-_LOG_LIMIT, _LOG_LIMIT)
            return Prediction(self.scores(scores.float()), stride * raw.exp())


class PersonLite(nn.Module):
    """Maps normalised pictures (N, 3, H, W), H and W multiples of 32, to one :class:`Prediction` per grid."""

    def __init__(self) -> None:
        super().__init__()
        stem, c4, c8, c16, c32 = WIDTHS
        self.stem = nn.Sequential(*conv_bn(3, stem, 3, stride=2), *conv_bn(stem, c4, 3, stride=2))
        self.stage8 = nn.Sequential(*conv_bn(c4, c8, 3, stride=2), BasicBlock(c8))
        self.stage16 = nn.Sequential(*conv_bn(c8, c16, 3, stride=2), BasicBlock(c16))
        self.stage32 = nn.Sequential(*conv_bn(c16, c32, 3, stride=2), BasicBlock(c32), PoolingPyramid(c32))
        self.lateral8, self.lateral16, self.lateral32 = (
            nn.Sequential(*conv_bn(c, NECK, 1, relu=False)) for c in (c8, c16, c32)
        )
        self.smooth16 = nn.Sequential(*conv_bn(NECK, NECK, 3))
        self.head = Head()

    def forward(self, images: Tensor) -> list[Prediction]:
        fine = self.stage8(self.stem(images))
        middle = self.stage16(fine)
        coarse = F.relu(self.lateral32(self.stage32(middle)))
        middle = self.smooth16(F.relu(self.lateral16(middle) + _twice(coarse)))
        fine = F.relu(self.lateral8(fine) + _twice(middle))
        return [self.head(x, stride) for x, stride in zip((fine, middle, coarse), STRIDES, strict=True)]


def _twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


#: Number of boxes that the graph returns per picture.
PEAKS = 100


def decode(predictions: list[Prediction], peaks: int = PEAKS) -> tuple[Tensor, Tensor]:
    """Return the best boxes: of cells with the highest score of the 3x3 cells around them (CenterNet, section 4).

    Args:
        predictions: of N pictures, one per grid.
        peaks: boxes per picture, K; as many as there are cells if those are fewer.

    Returns:
        boxes (N, K, 4) xyxy in input pixels and scores (N, K) in 0..1, the most certain first.
    """
    scores = torch.cat([_peaks(p.scores.sigmoid()) for p in predictions], dim=1)
    best, index = scores.topk(min(peaks, scores.shape[1]), dim=1)
    return all_boxes(predictions).gather(1, index[:, :, None].expand(-1, -1, 4)), best


def _peaks(scores: Tensor) -> Tensor:
    """Return the scores (N, 1, h, w) as (N, h * w), with 0 where a neighbour is larger."""
    return (scores * (F.max_pool2d(scores, 3, stride=1, padding=1) == scores)).flatten(1)


class DetectorGraph(nn.Module):
    """Maps uint8 (N, H, W, 3) RGB to boxes (N, K, 4) xyxy in input pixels and scores (N, K), both float32."""

    def __init__(self, network: PersonLite) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return decode(self.network(normalise(images)))


def all_boxes(predictions: list[Prediction]) -> Tensor:
    """Return the boxes (N, cells, 4) of the cells of all grids, in the order of the targets."""
    return torch.cat([sides_to_boxes(p.sides, s) for p, s in zip(predictions, STRIDES, strict=True)], dim=1)


def sides_to_boxes(sides: Tensor, stride: int) -> Tensor:
    """Turn distances (N, 4, h, w) from the centres of a grid's cells into boxes (N, h * w, 4) xyxy, in input pixels."""
    height, width = sides.shape[2:]
    y = ((torch.arange(height, device=sides.device) + 0.5) * stride)[:, None].expand(height, width)
    x = ((torch.arange(width, device=sides.device) + 0.5) * stride)[None].expand(height, width)
    left, top, right, bottom = sides.unbind(1)
    return torch.stack([x - left, y - top, x + right, y + bottom], dim=-1).flatten(1, 2)
