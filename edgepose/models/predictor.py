"""A PyTorch network as a function of NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from .pose_graph import normalise


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
