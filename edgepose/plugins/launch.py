"""Choose the kernel of ``cuda/dynamic_conv.cuh`` and its grid, as ``dynamic_conv.cu`` does in C++.

Used by everything that compiles the kernels at run time: the PyTorch operator and TensorRT's Python plugins (in the
ahead-of-time one, the number of samples is a symbol).
"""

from __future__ import annotations

from pathlib import Path

from ..nvidia.launch import Int, Launch

#: The kernels' source, which includes no other file.
SOURCE = Path(__file__).parent / "cuda" / "dynamic_conv.cuh"
#: Threads per block, rows per thread (of the specialised kernels) and columns per thread, as in ``SOURCE``.
THREADS, ROWS, STRIP = 128, 4, 8
#: Largest kh and kw, as in ``cuda/dynamic_conv.h``.
LARGEST_KERNEL = 11
#: Sizes (kh, kw) that have a specialised kernel.
SPECIALISED = ((7, 7), (7, 5), (5, 5))
#: The tensors' dtype to the kernel's C++ type.
TYPES = {"float32": "float", "float16": "edgepose::Half", "bfloat16": "edgepose::BFloat16"}


def forward(
    planes: Int, height: int, width: int, kernel: tuple[int, int], dtype: str, *, aligned: bool = True
) -> Launch[Int]:
    """Return the launch that computes y = x (*) kernels.

    Args:
        planes: N * C, at least 1.
        height, width: size of the maps.
        kernel: (kh, kw), both odd, at most :data:`LARGEST_KERNEL`.
        dtype: one of :data:`TYPES`.
        aligned: whether the addresses of x and y are multiples of 16 bytes.
    """
    if aligned and width % STRIP == 0 and kernel in SPECIALISED:
        name = f"edgepose::convolve_kernel<{TYPES[dtype]}, {kernel[0]}, {kernel[1]}>"
        return Launch(SOURCE, name, _blocks(planes, height, width, ROWS), THREADS, (planes, height, width))
    name = f"edgepose::convolve_any_kernel<{TYPES[dtype]}>"
    return Launch(SOURCE, name, _blocks(planes, height, width, 1), THREADS, (planes, height, width, *kernel))


def kernel_gradient(planes: int, height: int, width: int, kernel: tuple[int, int], dtype: str) -> Launch[int]:
    """Return the launch that computes the kernels' gradient from x and y's gradient; arguments as :func:`forward`'s."""
    warps = planes * kernel[0] * kernel[1]
    name = f"edgepose::correlate_kernel<{TYPES[dtype]}>"
    return Launch(SOURCE, name, -(-warps // (THREADS // 32)), THREADS, (planes, height, width, *kernel))


def _blocks(planes: Int, height: int, width: int, rows: int) -> Int:
    """Return the number of blocks if a thread computes ``rows`` x :data:`STRIP` outputs; works on symbols, too."""
    threads = -(-height // rows) * -(-width // STRIP)
    return (planes * threads + (THREADS - 1)) // THREADS  # type: ignore
