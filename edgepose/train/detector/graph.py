"""The detector behind its graph contract: uint8 RGB pictures in, boxes and scores out."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ..models.contract import normalise
from .losses import sides_to_boxes
from .model import PersonLite, Prediction

#: Boxes that the graph returns: the best peaks of the heat-map.
PEAKS = 100


def decode(predicted: Prediction, peaks: int = PEAKS) -> tuple[Tensor, Tensor]:
    """The best persons: cells that are the maximum of their 3x3 cells (CenterNet, section 4).

    Args:
        predicted: of N pictures.
        peaks: persons a picture, K, or as many as there are cells.

    Returns:
        boxes (N, K, 4) xyxy in input pixels and scores (N, K) in 0..1, the most certain first.
    """
    scores = predicted.heat.sigmoid()
    is_peak = F.max_pool2d(scores, 3, stride=1, padding=1) == scores
    cells = (scores * is_peak).flatten(1)
    best, index = cells.topk(min(peaks, cells.shape[1]), dim=1)
    boxes = sides_to_boxes(predicted.sides).flatten(2).transpose(1, 2)
    return boxes.gather(1, index[:, :, None].expand(-1, -1, 4)), best


class DetectorGraph(nn.Module):
    """uint8 (N, H, W, 3) RGB to boxes (N, K, 4) xyxy in pixels of the input and scores (N, K), both float32."""

    def __init__(self, network: PersonLite) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return decode(self.network(normalise(images)))
