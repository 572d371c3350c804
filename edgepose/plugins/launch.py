"""Which kernel of ``cuda/dynamic_conv.cuh`` computes a convolution, and on which grid: ``dynamic_conv.cu`` in Python.

Everything that Python compiles at run time is launched from here: TensorRT's ahead-of-time plugin, where the number of
samples is a symbol, and the PyTorch operator.
"""

from __future__ import annotations

from pathlib import Path

from ..nvidia.launch import Int, Launch

#: The kernels; the file includes no other.
SOURCE = Path(__file__).parent / "cuda" / "dynamic_conv.cuh"
#: Threads of a block, outputs of a thread (rows of the specialised kernels, columns), and the largest kernel side:
#: those of ``cuda/dynamic_conv.cuh`` and ``cuda/dynamic_conv.h``.
THREADS, ROWS, STRIP = 128, 4, 8
LARGEST_KERNEL = 11
#: Kernels (kh, kw) with code of their own.
SPECIALISED = ((7, 7), (7, 5), (5, 5))
#: The kernel's C++ type by that of the tensors.
TYPES = {"float32": "float", "float16": "edgepose::Half", "bfloat16": "edgepose::BFloat16"}


def forward(
    planes: Int, height: int, width: int, kernel: tuple[int, int], dtype: str, *, aligned: bool = True
) -> Launch[Int]:
    """The launch of y = x (*) kernels.

    Args:
        planes: N * C, at least 1.
        height, width: of the maps.
        kernel: (kh, kw), both odd, at most :data:`LARGEST_KERNEL`.
        dtype: ``float32``, ``float16`` or ``bfloat16``.
        aligned: whether x and y begin on 16 bytes.
    """
    if aligned and width % STRIP == 0 and kernel in SPECIALISED:
        name = f"edgepose::convolve_kernel<{TYPES[dtype]}, {kernel[0]}, {kernel[1]}>"
        return Launch(SOURCE, name, _blocks(planes, height, width, ROWS), THREADS, (planes, height, width))
    name = f"edgepose::convolve_any_kernel<{TYPES[dtype]}>"
    return Launch(SOURCE, name, _blocks(planes, height, width, 1), THREADS, (planes, height, width, *kernel))


def kernel_gradient(planes: int, height: int, width: int, kernel: tuple[int, int], dtype: str) -> Launch[int]:
    """The launch of the gradient of the kernels from x and that of y; arguments are those of :func:`forward`."""
    warps = planes * kernel[0] * kernel[1]
    name = f"edgepose::correlate_kernel<{TYPES[dtype]}>"
    return Launch(SOURCE, name, -(-warps // (THREADS // 32)), THREADS, (planes, height, width, *kernel))


def _blocks(planes: Int, height: int, width: int, rows: int) -> Int:
    """Blocks for threads that make ``rows`` x :data:`STRIP` outputs each, written with what a symbol can do."""
    threads = -(-height // rows) * -(-width // STRIP)
    return (planes * threads + (THREADS - 1)) // THREADS  # type: ignore
