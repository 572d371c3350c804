"""A PyTorch network as a function of NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from .pose_graph import normalise


def torch_predictor(network: nn.Module) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """``network`` as a function of uint8 crops, in eval mode and on the device of its weights, in float32."""
    device = next(network.parameters()).device
    network.eval()

    def predictor(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return network(normalise(torch.from_numpy(crops).to(device))).float().cpu().numpy()

    return predictor
