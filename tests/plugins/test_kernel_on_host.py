"""The CUDA kernel's index logic, compiled for the CPU with the address sanitizer, against grouped convolution."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgepose.plugins import launch
from edgepose.plugins.torch_op import dynamic_depthwise_conv2d
from tests.doubles.dynamic_conv_loops import dynamic_depthwise_conv2d as loops

CUDA = Path(__file__).parents[2] / "edgepose" / "plugins" / "cuda"
#: What the host program does, see dynamic_conv_host.cpp, and its numbers for the types.
CONVOLVE, CONVOLVE_ANY, CORRELATE = range(3)
DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
#: Half a step of rounding in the result, and the sums' own in float32.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2**-11, torch.bfloat16: 2**-8}

SPECIALISED = [(7, 7), (7, 5), (5, 5)]
#: (planes, height, width): strips end on the border of the plane, bands of rows need not.
WHOLE_STRIPS = [(1, 1, 8), (3, 2, 8), (2, 3, 16), (4, 5, 24), (3, 64, 48), (2, 64, 64), (5, 33, 40), (600, 4, 8)]
ANY_SIZE = [(1, 1, 1), (2, 3, 5), (3, 9, 31), (2, 17, 13), (4, 11, 8), (2, 64, 47), (700, 2, 3)]
ANY_KERNEL = [(1, 1), (3, 3), (1, 7), (5, 1), (7, 5), (9, 9), (11, 11)]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernel's threads as a loop on the CPU."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("there is no g++")
    program = tmp_path_factory.mktemp("host") / "host"
    source = Path(__file__).with_name("dynamic_conv_host.cpp")
    strict = ["-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    subprocess.run([compiler, "-std=c++17", "-O1", *strict, f"-I{CUDA}", source, "-o", program], check=True)
    return program


def threads_of(what: int, shape: tuple[int, int, int], kernel: tuple[int, int]) -> int:
    """Those of the grid that is launched."""
    planes, height, width = shape
    if what == CORRELATE:
        return launch.kernel_gradient(planes, height, width, kernel, "float32").grid * launch.THREADS
    plan = launch.forward(planes, height, width, kernel, "float32", aligned=what == CONVOLVE)
    assert ("any" in plan.kernel) == (what == CONVOLVE_ANY)
    return plan.grid * launch.THREADS


def answer(
    host: Path, what: int, a: torch.Tensor, b: torch.Tensor, kernel: tuple[int, int], *, counts: bool = False
) -> torch.Tensor:
    """What the kernel makes of two tensors (planes, h, w); or how many threads write each value of it."""
    threads = threads_of(what, tuple(a.shape), kernel)
    head = np.array([what + 10 * counts, DTYPES[a.dtype], *a.shape, *kernel, threads], np.int32).tobytes()
    arrays = b"".join(t.contiguous().view(torch.uint8).numpy().tobytes() for t in (a, b))
    done = subprocess.run([host], input=head + arrays, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    shape = (len(a), *kernel) if what == CORRELATE else a.shape
    return torch.frombuffer(bytearray(done.stdout), dtype=a.dtype).reshape(shape)


def random_planes(shape: tuple[int, int, int], kernel: tuple[int, int], dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    random = torch.Generator().manual_seed(sum(shape) + sum(kernel))
    x = torch.randn(shape, generator=random, dtype=torch.float64).to(dtype)
    return x, torch.randn((shape[0], *kernel), generator=random, dtype=torch.float64).to(dtype)


def require_close(got: torch.Tensor, want: torch.Tensor, terms: float) -> None:
    """Within a rounding of the result, and of sums of ``terms`` size."""
    tolerance = TOLERANCE[got.dtype]
    torch.testing.assert_close(got.double(), want, rtol=tolerance, atol=max(2e-6 * terms, tolerance * 1e-2))


def convolved(x: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
    return dynamic_depthwise_conv2d(x[None].double(), kernels[None].double())[0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", SPECIALISED)
@pytest.mark.parametrize("shape", WHOLE_STRIPS)
def test_the_specialised_kernel_equals_grouped_convolution(host, shape, kernel, dtype):
    x, kernels = random_planes(shape, kernel, dtype)
    require_close(answer(host, CONVOLVE, x, kernels, kernel), convolved(x, kernels), terms=kernel[0] * kernel[1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", ANY_KERNEL)
@pytest.mark.parametrize("shape", ANY_SIZE)
def test_the_kernel_for_any_size_equals_grouped_convolution(host, shape, kernel, dtype):
    x, kernels = random_planes(shape, kernel, dtype)
    require_close(answer(host, CONVOLVE_ANY, x, kernels, kernel), convolved(x, kernels), terms=kernel[0] * kernel[1])


@pytest.mark.parametrize("kernel", SPECIALISED)
def test_both_kernels_equal_the_plain_loops(host, kernel):
    x, kernels = random_planes((2, 9, 16), kernel, torch.float32)
    want = torch.from_numpy(loops(x[None].numpy(), kernels[None].numpy())[0])
    for what in (CONVOLVE, CONVOLVE_ANY):
        require_close(answer(host, what, x, kernels, kernel), want, terms=50)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", [(7, 5), (1, 1), (11, 3)])
@pytest.mark.parametrize("shape", [(3, 64, 48), (2, 9, 31), (4, 3, 2)])
def test_the_gradient_of_the_kernels_equals_autograd(host, shape, kernel, dtype):
    x, kernels = random_planes(shape, kernel, dtype)
    dy = random_planes(shape, (1, 1), dtype)[0]
    kernels = kernels.double().requires_grad_()
    convolved(x, kernels).backward(dy.double())
    require_close(answer(host, CORRELATE, x, dy, kernel), kernels.grad, terms=shape[1] * shape[2])


@pytest.mark.parametrize(
    ("what", "shape", "kernel"),
    [
        *((CONVOLVE, shape, kernel) for shape in WHOLE_STRIPS[:5] for kernel in SPECIALISED),
        *((CONVOLVE_ANY, shape, kernel) for shape in ANY_SIZE[:5] for kernel in ANY_KERNEL),
        *((CORRELATE, shape, (3, 5)) for shape in ANY_SIZE[:5]),
    ],
)
def test_the_grid_writes_every_value_once(host, what, shape, kernel):
    x, kernels = random_planes(shape, kernel, torch.float32)
    counts = answer(host, what, x, x if what == CORRELATE else kernels, kernel, counts=True)
    assert counts.unique().tolist() == [1]


def test_the_grid_is_written_with_what_a_symbol_can_do():
    """TensorRT has no number of samples when it asks for the grid, but an expression that knows + * and //."""

    class Symbol:
        def __init__(self, text: str) -> None:
            self.text = text

        def __mul__(self, other: int) -> Symbol:
            return Symbol(f"({self.text} * {other})")

        def __add__(self, other: int) -> Symbol:
            return Symbol(f"({self.text} + {other})")

        def __floordiv__(self, other: int) -> Symbol:
            return Symbol(f"({self.text} // {other})")

    for shape, aligned in (((64, 48), True), ((9, 31), True), ((64, 48), False)):
        symbolic = launch.forward(Symbol("n"), *shape, (7, 5), "float16", aligned=aligned)
        for planes in (1, 38, 4096 * 38):
            plain = launch.forward(planes, *shape, (7, 5), "float16", aligned=aligned)
            assert eval(symbolic.grid.text, {"n": planes}) == plain.grid
            assert symbolic.kernel == plain.kernel


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounding_is_to_nearest_even_and_keeps_infinities_and_nan(host, dtype):
    values = torch.tensor([1.0, -0.0, float("inf"), -float("inf"), float("nan"), 3.0e38, 6e-8, 1 + 2**-8])
    x, one = values.to(dtype).reshape(1, 1, 8), torch.ones(1, 1, 1, dtype=dtype)
    torch.testing.assert_close(answer(host, CONVOLVE_ANY, x, one, (1, 1)), x, rtol=0, atol=0, equal_nan=True)
    factors = torch.linspace(0.9, 1.1, 64).to(dtype).reshape(64, 1, 1)
    many = torch.linspace(-3, 3, 64).to(dtype).reshape(64, 1, 1)
    want = (many.float() * factors.float()).to(dtype)
    torch.testing.assert_close(answer(host, CONVOLVE_ANY, many, factors, (1, 1)), want, rtol=0, atol=0)
