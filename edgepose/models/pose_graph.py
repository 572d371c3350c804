"""Wrap heat-map networks in the graph contract: uint8 RGB crops in, keypoints and heat-maps out.

Normalisation and decoding are inside every exported graph, so no runtime can get them wrong. Training and evaluation
normalise with the same function.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ..bundle.contract import BONES, HEATMAPS, KEYPOINTS, SEGMENTATION
from ..core.heatmaps import STRIDE
from .ditn import DITN
from .layers import Heads
from .sg_hrnet import SGHRNet

#: ImageNet statistics of RGB in 0..1.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def normalise(crops: Tensor) -> Tensor:
    """Normalise uint8 (N, H, W, 3) RGB with ImageNet's statistics to float32 (N, 3, H, W)."""
    scale = torch.tensor([255.0 * s for s in STD], device=crops.device)
    mean = torch.tensor([255.0 * m for m in MEAN], device=crops.device)
    return ((crops.float() - mean) / scale).permute(0, 3, 1, 2)


def decode(heatmaps: Tensor) -> Tensor:
    """Decode heat-maps (N, J, h, w) into keypoints (N, J, 3) float32, with operations that export to ONNX.

    The reference is :func:`edgepose.core.heatmaps.decode`.
    """
    joints, height, width = heatmaps.shape[1:]
    # The border of one repeated pixel keeps every neighbour index valid; the offset there is masked out below.
    padded_width = width + 2
    flat = F.pad(heatmaps, (1, 1, 1, 1), mode="replicate").reshape(-1, joints, (height + 2) * padded_width)
    score, index = heatmaps.reshape(-1, joints, height * width).max(dim=2, keepdim=True)
    y = index // width
    x = index - y * width
    centre = (y + 1) * padded_width + x + 1
    inside = (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)
    shift_x = torch.sign(flat.gather(2, centre + 1) - flat.gather(2, centre - 1))
    shift_y = torch.sign(flat.gather(2, centre + padded_width) - flat.gather(2, centre - padded_width))
    points = torch.cat([x, y], dim=2).float() + 0.25 * torch.cat([shift_x, shift_y], dim=2) * inside
    return torch.cat([STRIDE * points * (score > 0), score], dim=2)


class PoseGraph(nn.Module):
    """A network in eval mode, normalised (N, 3, H, W) to heat-maps (N, J, H/4, W/4), as a graph of the contract.

    ``with_maps`` adds DITN's bone maps, or the maps of SG-HRNet's segmentation guided modules, to the outputs; a
    network without such maps is left as it is.

    Attributes:
        outputs: names of the outputs in their order, see :mod:`edgepose.bundle.contract`.
    """

    def __init__(self, network: nn.Module, *, with_maps: bool = False) -> None:
        super().__init__()
        self.network = network
        self.outputs = (KEYPOINTS, HEATMAPS, *(_map_names(network) if with_maps else ()))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map uint8 (N, H, W, 3) RGB crops to keypoints (N, J, 3) in crop pixels and maps, all float32."""
        normalised = normalise(images)
        heads = Heads(self.network(normalised)) if len(self.outputs) == 2 else _all_heads(self.network, normalised)
        maps = [m.float() for m in heads if m is not None]
        return decode(maps[0]), *maps


def _map_names(network: nn.Module) -> tuple[str, ...]:
    """Return the names of the outputs that a network can give besides keypoints and joint heat-maps."""
    if isinstance(network, DITN) and network.bone_decoder is not None:
        return (BONES,)
    return (SEGMENTATION,) if isinstance(network, SGHRNet) else ()


def _all_heads(network: nn.Module, images: Tensor) -> Heads:
    """Run a network in eval mode, but return every head."""
    # This flag of the outermost module decides on the outputs; batch norms inside have flags of their own.
    network.training = True
    try:
        heads: Heads = network(images)
    finally:
        network.training = False
    return heads


def torch_predictor(network: nn.Module) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """Return a function from crops (N, H, W, 3) uint8 to heat-maps (N, J, h, w) float32.

    The network is put into eval mode, and runs on the device of its weights.
    """
    device = next(network.parameters()).device
    network.eval()

    def predictor(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return network(normalise(torch.from_numpy(crops).to(device))).float().cpu().numpy()

    return predictor
