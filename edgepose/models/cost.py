"""Count the multiply-accumulates of a network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..plugins.torch_op import DynamicDepthwiseConv2d

_COUNTED = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, DynamicDepthwiseConv2d)


def macs(model: nn.Module, input_size: tuple[int, int]) -> int:
    """Count the multiply-accumulates of all convolutions and linear layers for one image of (height, width)."""
    return sum(macs_by_layer(model, input_size).values())


def macs_by_layer(model: nn.Module, input_size: tuple[int, int]) -> dict[str, int]:
    """Count multiply-accumulates by the layer's name, by running the network once; also works on the meta device.

    A deconvolution counts one per weight and **input** position. The per-sample dynamic convolution counts like the
    static depthwise convolution that it replaces.
    """
    found: dict[str, int] = {}

    def count(name: str, layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(layer, nn.ConvTranspose2d):
            cost = args[0][0].numel() * layer.weight[0].numel()
        elif isinstance(layer, DynamicDepthwiseConv2d):
            cost = output[0].numel() * args[1][0, 0].numel()
        else:
            cost = output[0].numel() * layer.weight[0].numel()
        found[name] = found.get(name, 0) + cost

    handles = [
        layer.register_forward_hook(lambda *seen, name=name: count(name, *seen))
        for name, layer in model.named_modules()
        if isinstance(layer, _COUNTED)
    ]
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, 3, *input_size, device=next(model.parameters()).device))
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return found
