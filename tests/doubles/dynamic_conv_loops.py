"""The dynamic depthwise convolution as plain loops, against which all other forms are tested."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def dynamic_depthwise_conv2d(x: NDArray[np.floating], kernels: NDArray[np.floating]) -> NDArray[np.float64]:
    """Convolve every channel of every sample with its own kernel; stride 1, zero padding k // 2.

    As in deep learning this is a correlation: the kernel is not mirrored.

    Args:
        x: (N, C, H, W).
        kernels: (N, C, kh, kw), kh and kw odd.

    Returns:
        (N, C, H, W) float64.
    """
    n, c, height, width = x.shape
    kh, kw = kernels.shape[2:]
    out = np.zeros(x.shape, dtype=np.float64)
    for i in range(n):
        for j in range(c):
            for row in range(height):
                for col in range(width):
                    for u in range(kh):
                        for v in range(kw):
                            y, z = row + u - kh // 2, col + v - kw // 2
                            if 0 <= y < height and 0 <= z < width:
                                out[i, j, row, col] += float(x[i, j, y, z]) * float(kernels[i, j, u, v])
    return out
