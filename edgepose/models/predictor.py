"""Call a PyTorch network with NumPy arrays."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..accuracy.scoring import Predictor
from .pose_graph import normalise


def torch_predictor(network: nn.Module) -> Predictor:
    """Return a function that maps uint8 crops to float32 heat-maps, on the device of the weights, in eval mode."""
    device = next(network.parameters()).device
    network.eval()

    def predictor(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return network(normalise(torch.from_numpy(crops).to(device))).float().cpu().numpy()

    return predictor
