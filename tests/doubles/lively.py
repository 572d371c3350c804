"""Networks with random weights that behave as trained ones."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import nn

from edgepose.models.pose_graph import normalise


def liven(network: nn.Module, crops: np.ndarray) -> nn.Module:
    """Give a network random weights whose heat-maps have distinct peaks, as trained ones do; in eval mode.

    Every weight depends on its name alone. Batch norms learn their statistics from ``crops`` (N, H, W, 3) uint8, so
    every layer's outputs have the spread that its next layer expects, and no part fades to zero.
    """
    with torch.no_grad():
        for name, value in network.named_parameters():
            noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(value.shape)
            if value.ndim > 1:
                noise *= 0.8 / np.sqrt(np.prod(value.shape[1:]))
            else:
                noise = 0.1 * noise + name.endswith("weight")
            value.copy_(torch.from_numpy(noise))
        norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over the batches
        network.train()(normalise(torch.from_numpy(crops)))
        for norm in norms:
            norm.momentum = 0.1
    return network.eval()
