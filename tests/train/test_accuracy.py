"""The accuracy on training batches, against a reference in loops and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgepose.train.accuracy import count_right, mean_accuracy


def peaks(points: list[list[tuple[int, int] | None]], shape: tuple[int, int]) -> torch.Tensor:
    """Maps (N, J, h, w) that are 1 at one x, y, or zero."""
    maps = torch.zeros(len(points), len(points[0]), *shape)
    for n, joints in enumerate(points):
        for j, point in enumerate(joints):
            if point is not None:
                maps[n, j, point[1], point[0]] = 1
    return maps


def accuracy_in_loops(output: np.ndarray, target: np.ndarray) -> tuple[float, int]:
    """HRNet's rule, joint after joint: the mean of the joints' shares, and how many joints there are."""
    persons, joints, height, width = output.shape

    def maximum(single: np.ndarray) -> tuple[float, float]:
        if single.max() <= 0:
            return 0.0, 0.0
        y, x = divmod(int(single.argmax()), width)
        return float(x), float(y)

    shares = []
    for j in range(joints):
        near = []
        for n in range(persons):
            (x, y), (wanted_x, wanted_y) = maximum(output[n, j]), maximum(target[n, j])
            if wanted_x > 1 and wanted_y > 1:
                across, down = (x - wanted_x) / (height / 10), (y - wanted_y) / (width / 10)
                near.append(math.hypot(across, down) < 0.5)
        if near:
            shares.append(sum(near) / len(near))
    return (sum(shares) / len(shares) if shares else 0.0), len(shares)


@pytest.mark.parametrize(("shape", "far"), [((64, 48), 3), ((16, 16), 1), ((24, 40), 2)])
def test_the_reference_in_loops_agrees(shape: tuple[int, int], far: int) -> None:
    rng = np.random.default_rng(0)
    target = np.zeros((24, 5, *shape), np.float32)
    output = rng.uniform(-0.2, 0.2, target.shape).astype(np.float32)
    for n in range(24):
        for j in range(4):  # the fifth joint is labelled nowhere
            x, y = rng.integers(0, shape[1]), rng.integers(0, shape[0])
            target[n, j, y, x] = rng.random() < 0.8
            near = np.clip([y + rng.integers(-far, far + 1), x + rng.integers(-far, far + 1)], 0, np.array(shape) - 1)
            output[n, j, near[0], near[1]] = 1
    wanted, joints = accuracy_in_loops(output, target)
    assert joints == 4 and 0.1 < wanted < 0.9
    got = mean_accuracy(count_right(torch.from_numpy(output), torch.from_numpy(target)))
    assert got == (pytest.approx(wanted, abs=1e-12), 4)


def test_x_is_measured_in_tenths_of_the_height_and_y_in_tenths_of_the_width() -> None:
    """On 60x40 maps, half a tenth is 3 pixels along x and 2 along y, and that far is already wrong."""
    wanted = peaks([[(20, 30)] * 4], (60, 40))
    found = peaks([[(22, 30), (23, 30), (20, 31), (20, 32)]], (60, 40))
    assert count_right(found, wanted).tolist() == [[1, 0, 1, 0], [1, 1, 1, 1]]


def test_a_target_at_the_border_or_without_a_peak_is_not_counted() -> None:
    places = [(1, 9), (9, 1), (2, 2), (0, 0), None]
    maps = peaks([places], (20, 20))
    assert count_right(maps, maps).tolist() == [[0, 0, 1, 0, 0], [0, 0, 1, 0, 0]]


def test_a_map_without_a_positive_value_is_found_at_the_corner() -> None:
    found = peaks([[(9, 9)]], (100, 100)) - 1  # whose maximum is 0; half a tenth is 5 pixels
    assert count_right(found, peaks([[(2, 2)]], (100, 100))).tolist() == [[1], [1]]
    assert count_right(found, peaks([[(9, 9)]], (100, 100))).tolist() == [[0], [1]]


def test_every_joint_weighs_the_same_and_those_that_never_occur_nothing() -> None:
    counts = torch.tensor([[1.0, 3.0, 0.0, 0.0], [1.0, 4.0, 0.0, 2.0]])
    assert mean_accuracy(counts) == (pytest.approx((1 + 0.75 + 0) / 3), 3)
    assert mean_accuracy(torch.zeros(2, 3)) == (0.0, 0)
