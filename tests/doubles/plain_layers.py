"""Layers written with loops in NumPy, and how a module is compared with a twin made of them."""

from __future__ import annotations

import numpy as np
import torch


def conv(x, weight, bias=None, *, stride=1, padding=0, groups=1, dilation=1):
    """A convolution of (N, C, H, W), one output value at a time."""
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    out_channels, group_in, kh, kw = weight.shape
    reach_y, reach_x = dilation * (kh - 1) + 1, dilation * (kw - 1) + 1
    height, width = (x.shape[2] - reach_y) // stride + 1, (x.shape[3] - reach_x) // stride + 1
    y = np.zeros((len(x), out_channels, height, width))
    for o in range(out_channels):
        first = o // (out_channels // groups) * group_in
        for i, j in np.ndindex(height, width):
            top, left = i * stride, j * stride
            patch = x[:, first : first + group_in, top : top + reach_y : dilation, left : left + reach_x : dilation]
            y[:, o, i, j] = (patch * weight[o]).sum(axis=(1, 2, 3))
    return y if bias is None else y + bias[None, :, None, None]


def pool(x):
    """2x2 max-pooling; an odd last row or column is dropped."""
    h, w = x.shape[2] // 2, x.shape[3] // 2
    return x[:, :, : 2 * h, : 2 * w].reshape(*x.shape[:2], h, 2, w, 2).max(axis=(3, 5))


def relu(x):
    return np.maximum(x, 0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


class Weights:
    """The arrays of a module by name, and its batch norms as functions."""

    def __init__(self, module):
        self.arrays = {key: value.double().numpy() for key, value in module.state_dict().items()}

    def __call__(self, name):
        return self.arrays[name]

    def bn(self, name, x):
        mean, var, gain, shift = (
            self(f"{name}.{key}")[:, None, None] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / np.sqrt(var + 1e-5) * gain + shift


def randomised(module):
    """Every weight and statistic drawn at random, so that no part can hide behind a zero or a one."""
    generator = torch.Generator().manual_seed(3)
    for key, value in module.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator)
            value.copy_(noise.abs() + 0.5 if key.endswith(("running_var", "bn.weight")) else 0.4 * noise)
    return module.eval()


def check(module, twin, *inputs):
    with torch.inference_mode():
        got = module(*(torch.from_numpy(x) for x in inputs)).numpy()
    want = twin(Weights(module), *(x.astype(np.float64) for x in inputs))
    assert got.shape == want.shape
    assert np.ptp(want) > 0.1
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())


def normal(*shape):
    return np.random.default_rng(5).standard_normal(shape).astype(np.float32)
