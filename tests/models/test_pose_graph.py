"""The contract's two ends by value: normalised pixels, and keypoints from heat-maps."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn

from edgepose.core import heatmaps
from edgepose.models.pose_graph import PoseGraph, decode, normalise, torch_predictor

#: What torchvision documents for its ImageNet weights, of red, green and blue in 0..1; HRNet's tools/train.py has the
#: same.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: One pixel each of mixed colours, (1, 1, 3, 3) RGB.
PIXELS = np.array([[[[255, 0, 51], [0, 102, 255], [124, 116, 104]]]], np.uint8)


def by_hand(crops: np.ndarray) -> np.ndarray:
    """(N, 3, H, W), channel by channel."""
    return np.stack([(crops[..., c] / 255 - MEAN[c]) / STD[c] for c in range(3)], axis=1)


def test_pixels_are_normalised_with_imagenets_statistics():
    got = normalise(torch.from_numpy(PIXELS))
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), by_hand(PIXELS), rtol=1e-6, atol=1e-6)
    # White red, black green, a fifth of blue: (1 - 0.485) / 0.229, -0.456 / 0.224, (0.2 - 0.406) / 0.225.
    np.testing.assert_allclose(got[0, :, 0, 0], [2.2489083, -2.0357143, -0.9155556], rtol=1e-6)


class Colours(nn.Module):
    """Heat-maps that are the normalised colours of every fourth pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.none = nn.Parameter(torch.zeros(()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images[..., ::4, ::4] + self.none


def test_graph_and_predictor_feed_the_network_normalised_pixels():
    crops = np.random.default_rng(0).integers(0, 256, (2, 16, 12, 3), dtype=np.uint8)
    want = by_hand(crops)[..., ::4, ::4]
    keypoints, maps = PoseGraph(Colours())(torch.from_numpy(crops))
    np.testing.assert_allclose(maps.detach(), want, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(torch_predictor(Colours())(crops), want, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(keypoints.detach(), heatmaps.decode(want.astype(np.float32)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(8, 6), (6, 9), (3, 3), (2, 5)])
def test_decoding_equals_the_readable_one(shape):
    """Peaks everywhere, on the borders too; equal neighbours, ties, and maps that are not positive."""
    rng = np.random.default_rng(0)
    height, width = shape
    peaks = rng.choice([0.25, 0.5, 0.75], (height * width, *shape)).astype(np.float32)
    peaks[np.arange(height * width), np.arange(height * width) // width, np.arange(height * width) % width] = 1
    negative = rng.choice([-0.5, 0.0], (2, *shape)).astype(np.float32)
    maps = np.concatenate([peaks, negative, rng.choice([0.5, 1.0], (4, *shape)).astype(np.float32)])
    for batch in (maps[None], maps[:, None]):
        np.testing.assert_array_equal(decode(torch.from_numpy(batch)).numpy(), heatmaps.decode(batch))
