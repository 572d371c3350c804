"""The detector behind its graph contract: uint8 RGB pictures in, boxes and scores out."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..models.contract import normalise
from .losses import all_boxes
from .model import PersonLite, Prediction

#: Boxes that the graph returns.
PEAKS = 100


def decode(predictions: list[Prediction], peaks: int = PEAKS) -> tuple[Tensor, Tensor]:
    """The best persons: cells that are the maximum of the 3x3 cells around them on their grid (CenterNet, section 4).

    Args:
        predictions: of N pictures, one for each grid.
        peaks: persons a picture, K, or as many as there are cells.

    Returns:
        boxes (N, K, 4) xyxy in input pixels and scores (N, K) in 0..1, the most certain first.
    """
    scores = torch.cat([_peaks(p.scores.sigmoid()) for p in predictions], dim=1)
    best, index = scores.topk(min(peaks, scores.shape[1]), dim=1)
    return all_boxes(predictions).gather(1, index[:, :, None].expand(-1, -1, 4)), best


def _peaks(scores: Tensor) -> Tensor:
    """(N, 1, h, w) to (N, h * w), 0 where a neighbour is larger."""
    return (scores * (F.max_pool2d(scores, 3, stride=1, padding=1) == scores)).flatten(1)


class DetectorGraph(nn.Module):
    """uint8 (N, H, W, 3) RGB to boxes (N, K, 4) xyxy in pixels of the input and scores (N, K), both float32."""

    def __init__(self, network: PersonLite) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return decode(self.network(normalise(images)))
