"""Targets, losses and decoding of the person detector, by value."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgepose.train.detector.graph import decode  # noqa: E402
from edgepose.train.detector.losses import (  # noqa: E402
    all_boxes,
    box_loss,
    detector_loss,
    giou,
    heat_loss,
    sides_to_boxes,
)
from edgepose.train.detector.model import Prediction  # noqa: E402
from edgepose.train.detector.targets import SPREAD, encode, encode_grid  # noqa: E402

NOBODY = np.zeros((0, 4))


def readable_heat(boxes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The heat-map cell by cell."""
    heat = np.zeros(shape)
    for x1, y1, x2, y2 in boxes:
        column, row = int((x1 + x2) / 16), int((y1 + y2) / 16)
        sx, sy = SPREAD * (x2 - x1) / 48, SPREAD * (y2 - y1) / 48
        for y in range(shape[0]):
            for x in range(shape[1]):
                value = math.exp(-((x - column) ** 2) / (2 * sx**2) - (y - row) ** 2 / (2 * sy**2))
                heat[y, x] = max(heat[y, x], value)
    return heat


def test_heat_is_the_maximum_of_the_persons_gaussians() -> None:
    boxes = np.array([[10.0, 4, 90, 60], [60, 8, 124, 40]])
    heat = encode_grid(boxes, NOBODY, (64, 128), 8).heat.reshape(8, 16)
    np.testing.assert_allclose(heat, readable_heat(boxes, (8, 16)), atol=1e-6)
    assert np.argwhere(heat == 1).tolist() == [[3, 11], [4, 6]]


def test_each_persons_cells_know_its_box_and_weigh_one() -> None:
    large, small = [0.0, 0, 128, 64], [50.0, 20, 80, 50]
    targets = encode_grid(np.array([small, large]), NOBODY, (64, 128), 8)
    boxes, weights = targets.boxes.reshape(8, 16, 4), targets.weights.reshape(8, 16)
    owners = np.full((8, 16), -1)
    owners[(boxes == np.array(large)).all(axis=2)] = 1
    owners[(boxes == np.array(small)).all(axis=2)] = 0
    assert owners[4, 8] == 0, "the smaller person has the cell that both want"
    assert owners[4, 5] == 1
    assert weights[owners == 0].sum() == pytest.approx(1)
    assert weights[owners == 1].sum() == pytest.approx(1)
    assert (weights[owners == -1] == 0).all()
    assert (weights[owners >= 0] > 0).all()


def test_a_tiny_person_is_one_cell() -> None:
    targets = encode_grid(np.array([[33.0, 17, 36, 22]]), NOBODY, (64, 64), 8)
    assert np.flatnonzero(targets.heat > 0.01).tolist() == [2 * 8 + 4]
    assert targets.weights[20] == 1
    assert targets.boxes[20].tolist() == [33, 17, 36, 22]


def test_ignored_regions_do_not_count_but_persons_in_them_do() -> None:
    targets = encode_grid(np.array([[16.0, 16, 32, 32]]), np.array([[0.0, 0, 60, 30]]), (64, 64), 8)
    want = np.ones((8, 8))
    want[:4, :] = 0
    want[targets.heat.reshape(8, 8) > 0.01] = 1
    counts = targets.counts.reshape(8, 8)
    assert counts.tolist() == want.tolist()
    assert (counts[3, 3], counts[0, 0]) == (1, 0)


@pytest.mark.parametrize(
    ("length", "first", "cells"), [(63.0, 0, 320), (64.0, 320, 80), (143.0, 320, 80), (144.0, 400, 20)]
)
def test_a_person_is_on_the_grid_of_his_length(length: float, first: int, cells: int) -> None:
    """128 x 160 pixels are 16 x 20, 8 x 10 and 4 x 5 cells."""
    targets = encode(np.array([[3.0, 10, 3 + length, 50]]), NOBODY, (128, 160))
    assert [len(t) for t in targets] == [420] * 4
    taken = np.flatnonzero(targets.heat)
    (centre,) = np.flatnonzero(targets.heat == 1)
    assert first <= taken.min() <= centre <= taken.max() < first + cells
    assert targets.weights[first : first + cells].sum() == pytest.approx(1)
    assert targets.weights.sum() == pytest.approx(1)


def test_a_picture_without_persons() -> None:
    targets = encode(NOBODY, NOBODY, (32, 64))
    assert [t.shape for t in targets] == [(42,), (42,), (42, 4), (42,)]
    assert (targets.heat == 0).all()
    assert (targets.counts == 1).all()
    assert (targets.weights == 0).all()


def test_heat_loss_by_hand() -> None:
    p, heat = torch.tensor([[0.8, 0.3, 0.6, 0.1]]), torch.tensor([[1.0, 0.5, 0.0, 0.0]])
    got = heat_loss(torch.logit(p), heat, torch.tensor([[1.0, 1, 1, 0]]))
    centre = -((1 - 0.8) ** 2) * math.log(0.8)
    near = -((1 - 0.5) ** 4) * 0.3**2 * math.log(0.7)
    far = -(0.6**2) * math.log(0.4)
    assert float(got) == pytest.approx(centre + near + far, rel=1e-5)


def test_heat_loss_is_divided_by_the_persons_and_defined_without() -> None:
    logits, ones = torch.zeros(1, 2), torch.ones(1, 2)
    assert float(heat_loss(logits, ones, ones)) == pytest.approx(0.25 * math.log(2), rel=1e-6)
    assert float(heat_loss(logits, 0 * ones, ones)) == pytest.approx(2 * 0.25 * math.log(2), rel=1e-6)


def test_giou_by_hand() -> None:
    a = torch.tensor([[0.0, 0, 4, 4], [0, 0, 2, 2], [0, 0, 2, 2]])
    b = torch.tensor([[0.0, 0, 4, 4], [1, 0, 3, 2], [4, 0, 6, 2]])
    # Apart by a gap as wide as a box: union 8, hull 12.
    assert giou(a, b).tolist() == pytest.approx([1, 2 / 6, -4 / 12])


def test_sides_count_from_the_middle_of_a_cell() -> None:
    sides = torch.tensor([1.0, 2, 3, 4])[None, :, None, None].expand(1, 4, 2, 3)
    boxes = sides_to_boxes(sides, 8)
    assert boxes.shape == (1, 6, 4)
    assert boxes[0, 0].tolist() == [3, 2, 7, 8]
    assert boxes[0, 5].tolist() == [19, 10, 23, 16]
    assert sides_to_boxes(sides, 32)[0, 5].tolist() == [79, 46, 83, 52]


def test_box_loss_weighs_the_cells() -> None:
    said = torch.tensor([[[2.0, 2, 6, 6], [10, 2, 14, 6]]])
    wanted = torch.tensor([[[2.0, 2, 6, 6], [10, 2, 12, 6]]])
    weights = torch.tensor([[1.0, 3.0]])
    assert float(box_loss(said, wanted, weights)) == pytest.approx(0.75 * 0.5)
    assert float(box_loss(said, wanted, 0 * weights)) == 0


def grids(rng: np.random.Generator, count: int, size: tuple[int, int]) -> list[Prediction]:
    """What a network might say about ``count`` pictures."""
    shapes = [(count, size[0] // stride, size[1] // stride) for stride in (8, 16, 32)]
    return [
        Prediction(
            torch.from_numpy(rng.normal(size=(n, 1, h, w)).astype("f4")).requires_grad_(),
            torch.from_numpy(rng.uniform(1, 40, (n, 4, h, w)).astype("f4")).requires_grad_(),
        )
        for n, h, w in shapes
    ]


def test_losses_add_up_and_reach_both_heads_of_every_grid() -> None:
    predictions = grids(np.random.default_rng(0), 2, (192, 192))
    people = np.array([[2.0, 2, 12, 14], [20, 20, 120, 80], [5, 5, 180, 190]])
    targets = [torch.from_numpy(np.stack([t, t])) for t in encode(people, NOBODY, (192, 192))]
    loss = detector_loss(predictions, *targets)
    logits = torch.cat([p.heat.flatten(1) for p in predictions], dim=1)
    parts = heat_loss(logits, *targets[:2]) + 5 * box_loss(all_boxes(predictions), *targets[2:])
    assert loss.item() == pytest.approx(parts.item())
    loss.backward()
    for tensor in (t for p in predictions for t in p):
        assert tensor.grad is not None
        assert bool((tensor.grad != 0).any())


def readable_decode(grids: list[tuple[np.ndarray, np.ndarray]], peaks: int) -> tuple[np.ndarray, np.ndarray]:
    """One picture's boxes and scores, cell by cell."""
    found = []
    for stride, (heat, sides) in zip((8, 16, 32), grids, strict=True):
        scores = 1 / (1 + np.exp(-heat.astype(np.float64)))
        for y in range(heat.shape[0]):
            for x in range(heat.shape[1]):
                around = scores[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
                left, top, right, bottom = sides[:, y, x]
                column, row = (x + 0.5) * stride, (y + 0.5) * stride
                box = (column - left, row - top, column + right, row + bottom)
                found.append((scores[y, x] if scores[y, x] == around.max() else 0.0, box))
    found.sort(key=lambda pair: -pair[0])
    return np.array([box for _, box in found[:peaks]]), np.array([score for score, _ in found[:peaks]])


def test_decoding_follows_the_readable_reference() -> None:
    predictions = grids(np.random.default_rng(3), 2, (64, 96))
    boxes, scores = decode(predictions, peaks=9)
    assert (boxes.shape, scores.shape) == ((2, 9, 4), (2, 9))
    for n in range(2):
        arrays = [(p.heat[n, 0].detach().numpy(), p.sides[n].detach().numpy()) for p in predictions]
        want_boxes, want_scores = readable_decode(arrays, 9)
        assert (want_scores > 0).all()
        np.testing.assert_allclose(scores[n].detach(), want_scores, atol=1e-6)
        np.testing.assert_allclose(boxes[n].detach(), want_boxes, atol=1e-4)


def test_decoding_takes_back_what_encoding_put_in() -> None:
    people = np.array([[8.0, 4, 40, 60], [70, 10, 180, 50], [0, 30, 150, 190]])
    targets, predictions, first = encode(people, NOBODY, (192, 192)), [], 0
    for stride in (8, 16, 32):
        side = 192 // stride
        cells = slice(first, first + side * side)
        heat = torch.logit(torch.from_numpy(targets.heat[cells]).clamp(1e-6, 1 - 1e-6)).reshape(1, 1, side, side)
        rows, columns = (np.mgrid[:side, :side] + 0.5) * stride
        x1, y1, x2, y2 = targets.boxes[cells].T.reshape(4, side, side)
        sides = np.stack([columns - x1, rows - y1, x2 - columns, y2 - rows])
        predictions.append(Prediction(heat, torch.from_numpy(sides).float()[None]))
        first = cells.stop
    found, scores = decode(predictions, peaks=3)
    assert sorted(found[0].tolist()) == sorted(people.tolist())
    assert (scores > 0.99).all()


def test_fewer_cells_than_peaks() -> None:
    boxes, scores = decode(grids(np.random.default_rng(0), 1, (32, 32)), peaks=100)
    assert (boxes.shape, scores.shape) == ((1, 21, 4), (1, 21))
