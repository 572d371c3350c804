"""How close is the CUDA kernel of the dynamic convolution to the limits of the GPU?

First every type, kernel and odd shape is compared with float64. Then microseconds per call, from replays of a CUDA
graph whose calls rotate through more inputs than the L2 cache holds, beside two ceilings that are measured in the same
run (a device-to-device copy; a float32 matrix product without TF32) and beside PyTorch's own forms. Needs a CUDA GPU.
``--check-only`` ends after the comparison and writes no file: enough for compute-sanitizer, under which all is slow;
``--cases few`` is for it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

import torch
from common import Outcome, run_benchmark
from gpu_timing import microseconds, require_gpu
from torch import Tensor
from torch.nn import functional as F

from edgepose.core.errors import CheckError
from edgepose.core.tables import text_table
from edgepose.plugins.torch_op import dynamic_depthwise_conv2d

#: (C, H, W, kh, kw): DITN for COCO, for MPII, for LSP.
SHAPES = ((38, 64, 48, 7, 5), (30, 64, 64, 7, 7), (26, 64, 48, 7, 5))
BATCHES = (1, 2, 4, 8, 16, 32, 64)
DTYPES = (torch.float16, torch.float32)
#: Shapes that are compared with float64: with and without whole strips, with and without specialised kernels.
GRID = {
    "batch": (1, 3, 17),
    "map": ((64, 48), (64, 64), (9, 31), (5, 3), (33, 40), (1, 8)),
    "kernel": ((7, 7), (7, 5), (5, 5), (1, 1), (3, 3), (1, 7), (11, 11)),
    "dtype": (torch.float32, torch.float16, torch.bfloat16),
}
#: What ``--cases`` compares: everything, every kernel at a few shapes, or nothing.
CASES = {
    "all": GRID,
    "few": {
        "batch": (1, 3),
        "map": ((64, 48), (9, 31), (1, 8)),
        "kernel": ((7, 7), (7, 5), (5, 5), (11, 11)),
        "dtype": GRID["dtype"],
    },
    "none": {"batch": ()},
}
#: Largest relative error (norms) of a result in each type.
TOLERANCE = {torch.float32: 1e-6, torch.float16: 5e-4, torch.bfloat16: 4e-3}
#: The aims: share of the roofline and speed beside grouped convolution at batch 32 in FP16, microseconds at batch 1.
AIM_ROOFLINE, AIM_RATIO, AIM_US = 0.70, 3.0, 5.0


def random_inputs(n: int, shape: Sequence[int], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return random x (N, C, H, W) and kernels (N, C, kh, kw) for one of :data:`SHAPES`."""
    c, height, width, kh, kw = shape
    x, kernels = (torch.randn(n, c, *sides, device="cuda").to(dtype) for sides in ((height, width), (kh, kw)))
    return x, kernels


def errors_of(n: int, size: tuple[int, int], kernel: tuple[int, int], dtype: torch.dtype) -> dict[str, float]:
    """Return the relative errors of the result ``y`` and of both gradients, ``dx`` and ``dk``, of random inputs."""
    x, kernels = (t.requires_grad_() for t in random_inputs(n, (3, *size, *kernel), dtype))
    dy = torch.randn_like(x)
    got = [dynamic_depthwise_conv2d(x, kernels)]
    got += torch.autograd.grad(got[0], (x, kernels), dy)
    exact = [t.detach().double().cpu().requires_grad_() for t in (x, kernels)]
    want = [dynamic_depthwise_conv2d(*exact)]
    want += torch.autograd.grad(want[0], exact, dy.double().cpu())
    pairs = zip(("y", "dx", "dk"), got, want, strict=True)
    off = {name: (mine.detach().double().cpu() - right.detach(), right.detach()) for name, mine, right in pairs}
    return {name: float(error.norm() / right.norm().clamp(min=1e-30)) for name, (error, right) in off.items()}


def check(grid: Mapping[str, Sequence[Any]] = GRID) -> dict[str, float]:
    """Return the largest error of each type over a grid, of the result and of both gradients.

    Every error above its limit is printed.

    Raises:
        CheckError: one is above :data:`TOLERANCE`.
    """
    worst: dict[str, float] = {}
    wrong = []
    for n, size, kernel, dtype in product(*grid.values()):
        for name, error in errors_of(n, size, kernel, dtype).items():
            if not error <= TOLERANCE[dtype]:
                case = f"{name} of batch {n}, map {size}, kernel {kernel}, {dtype}"
                wrong.append(f"{case}: relative error {error:.1e}, limit {TOLERANCE[dtype]:.0e}")
                print(f"wrong: {wrong[-1]}", flush=True)
            worst[str(dtype)] = max(worst.get(str(dtype), 0.0), error)
    if wrong:
        raise CheckError(f"{len(wrong)} results are too far from float64's, the first: {wrong[0]}")
    return worst


def ceilings() -> tuple[float, float]:
    """Return bytes per second of a copy (read plus write), and float32 multiply-adds per second of a product."""
    source = torch.randn(1 << 28, device="cuda")
    target = torch.empty_like(source)
    copied = 2 * source.nbytes / microseconds([lambda: target.copy_(source)]) * 1e6
    a, b = torch.randn(2, 8192, 8192, device="cuda")
    out = torch.empty_like(a)
    multiplied = 8192**3 / microseconds([lambda: torch.mm(a, b, out=out)]) * 1e6
    return copied, multiplied


def unfolded(x: Tensor, kernels: Tensor) -> Tensor:
    n, c, height, width = x.shape
    kh, kw = kernels.shape[2:]
    columns = F.unfold(x, (kh, kw), padding=(kh // 2, kw // 2)).view(n, c, kh * kw, height * width)
    return torch.einsum("nckp,nck->ncp", columns, kernels.reshape(n, c, kh * kw)).view_as(x)


def grouped(x: Tensor, kernels: Tensor) -> Tensor:
    n, c, height, width = x.shape
    kh, kw = kernels.shape[2:]
    folded = x.view(1, n * c, height, width), kernels.view(n * c, 1, kh, kw)
    return F.conv2d(*folded, padding=(kh // 2, kw // 2), groups=n * c).view_as(x)


def banded(x: Tensor, kernels: Tensor) -> Tensor:
    """Multiply whole rows: kh rows side by side times a banded (Toeplitz) matrix; see ``dynamic_conv_body.py``."""
    n, c, height, width = x.shape
    kh, kw = kernels.shape[2:]
    padded = F.pad(x, (kw // 2, kw // 2, kh // 2, kh // 2))
    rows = torch.cat([padded[:, :, u : u + height] for u in range(kh)], dim=3)
    matrix = x.new_zeros(n, c, kh, width, width + kw)
    matrix[..., :kw] = kernels[:, :, :, None]
    # Rows with one element more than the shift of the next row form a band.
    band = matrix.flatten(3)[..., : width * (width + kw - 1)].view(n, c, kh, width, width + kw - 1)
    return rows @ band.transpose(3, 4).reshape(n, c, kh * (width + kw - 1), width)


FORMS = {"ours": dynamic_depthwise_conv2d, "grouped": grouped, "unfold": unfolded, "banded": banded}


def measure_shape(
    shape: tuple[int, ...], batch: int, dtype: torch.dtype, copied: float, multiplied: float
) -> dict[str, Any]:
    c, height, width, kh, kw = shape
    size = torch.finfo(dtype).bits // 8
    moved = batch * c * (2 * height * width + kh * kw) * size
    floors = moved / copied * 1e6, batch * c * height * width * kh * kw / multiplied * 1e6
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    sets = [random_inputs(batch, shape, dtype) for _ in range(min(256, 2 * cache // moved + 2))]
    times = {}
    for name, form in FORMS.items():
        want, got = (f(*sets[0]).float() for f in (dynamic_depthwise_conv2d, form))
        if not float((got - want).norm() / want.norm()) <= 2 * TOLERANCE[dtype]:
            raise CheckError(f"{name} differs from ours at {shape}, batch {batch}, {dtype}")
        few = sets if name == "ours" else sets[:8]
        with torch.inference_mode():
            times[name] = microseconds([partial(form, *inputs) for inputs in few])
    return {
        "shape": shape,
        "batch": batch,
        "dtype": str(dtype).removeprefix("torch."),
        "us": times,
        "memory_floor_us": floors[0],
        "fma_floor_us": floors[1],
        "roofline": max(floors) / times["ours"],
        "ratios": {name: times[name] / times["ours"] for name in times},
    }


def table(rows: list[dict[str, Any]]) -> str:
    head = ("C, map, kernel", "N", "type", "us", "roofline", *(f"{name} / ours" for name in FORMS if name != "ours"))
    cells = []
    for row in rows:
        c, height, width, kh, kw = row["shape"]
        ratios = [f"{row['ratios'][name]:.1f}" for name in FORMS if name != "ours"]
        share = f"{row['roofline']:.0%}"
        cells.append(
            [
                f"{c}, {height}x{width}, {kh}x{kw}",
                row["batch"],
                row["dtype"],
                f"{row['us']['ours']:.2f}",
                share,
                *ratios,
            ]
        )
    return text_table(head, [[str(cell) for cell in row] for row in cells])


def excess(rows: list[dict[str, Any]]) -> list[str]:
    """Return a sentence for each aim that is missed."""
    missed = []
    for row in rows:
        where = f"{row['shape']} at batch {row['batch']} in {row['dtype']}"
        if row["batch"] == 32 and row["dtype"] == "float16":
            if row["roofline"] < AIM_ROOFLINE:
                missed.append(f"{where}: {row['roofline']:.0%} of the roofline, aim {AIM_ROOFLINE:.0%}")
            if row["ratios"]["grouped"] < AIM_RATIO:
                missed.append(f"{where}: {row['ratios']['grouped']:.1f} x grouped convolution, aim {AIM_RATIO:g} x")
        if row["batch"] == 1 and row["us"]["ours"] > AIM_US:
            missed.append(f"{where}: {row['us']['ours']:.1f} us, aim {AIM_US:g} us")
    return missed


def measure(options: argparse.Namespace) -> Outcome:
    require_gpu()
    torch.manual_seed(0)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # float32 means float32
    errors = check(CASES[options.cases])
    largest = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
    text = f"largest relative errors: {largest or 'nothing was compared'}\n"
    if options.check_only:
        print(text, end="")
        raise SystemExit(0)  # nothing was measured, so keep the result file
    copied, multiplied = ceilings()
    cases = product(SHAPES, options.batches, DTYPES)
    rows = []
    for shape, batch, dtype in cases:
        rows.append(measure_shape(shape, batch, dtype, copied, multiplied))
        # An interrupted run leaves these lines.
        print(f"{shape}, batch {batch}, {dtype}: {rows[-1]['us']['ours']:.2f} us", file=sys.stderr, flush=True)
    gpu = torch.cuda.get_device_name()
    text += f"{gpu}: {copied / 1e12:.2f} TB/s copied, {multiplied / 1e12:.1f} T float32 multiply-adds/s\n\n"
    figures = {"gpu": gpu, "bytes_per_s": copied, "fma_per_s": multiplied, "errors": errors, "rows": rows}
    return Outcome(text + table(rows), figures, excess(rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES, help="default: 1 2 4 8 16 32 64")
    parser.add_argument("--check-only", action="store_true", help="compare with float64, measure and write nothing")
    parser.add_argument("--cases", choices=CASES, default="all", help="what is compared first (default: %(default)s)")
    raise SystemExit(run_benchmark(parser, measure))
