"""Targets, losses and decoding of the person detector, by value."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tools.person_lite.losses import detector_loss, overlaps, score_loss
from tools.person_lite.network import Prediction, all_boxes, decode, sides_to_boxes
from tools.person_lite.targets import encode, encode_grid

NOBODY = np.zeros((0, 4))


def readable_owners(boxes: np.ndarray, shape: tuple[int, int], stride: int) -> np.ndarray:
    """Return the index of the person assigned to each cell, cell by cell; -1 for none."""
    owners = np.full(shape, -1)
    for y in range(shape[0]):
        for x in range(shape[1]):
            areas = []
            for index, (x1, y1, x2, y2) in enumerate(boxes):
                cx, cy, width, height = (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
                across, down = abs((x + 0.5) * stride - cx), abs((y + 0.5) * stride - cy)
                holds_centre = int(cx / stride) == x and int(cy / stride) == y
                if holds_centre or (across <= 0.2 * width and down <= 0.2 * height):
                    areas.append((width * height, index))
            owners[y, x] = min(areas)[1] if areas else -1
    return owners


def test_cells_in_the_middle_are_assigned_to_the_person_and_weigh_one() -> None:
    boxes = np.array([[10.0, 4, 90, 60], [50, 8, 124, 40], [2, 50, 6, 60], [0, 0, 128, 64]])
    owners = readable_owners(boxes, (8, 16), 8)
    assert set(owners.ravel()) == {-1, 0, 1, 2, 3}, "the smaller person has the cell that two want"
    targets = encode_grid(boxes, NOBODY, (64, 128), 8)
    assigned, weights = targets.boxes.reshape(8, 16, 4), targets.weights.reshape(8, 16)
    assert (assigned[owners < 0] == 0).all()
    assert (weights[owners < 0] == 0).all()
    for index, box in enumerate(boxes):
        assert (assigned[owners == index] == box).all()
        np.testing.assert_allclose(weights[owners == index], 1 / (owners == index).sum(), rtol=1e-6)


def test_a_tiny_person_is_one_cell() -> None:
    targets = encode_grid(np.array([[33.0, 17, 36, 22]]), NOBODY, (64, 64), 8)
    assert np.flatnonzero(targets.weights).tolist() == [2 * 8 + 4]
    assert targets.weights[20] == 1
    assert targets.boxes[20].tolist() == [33, 17, 36, 22]


def test_a_centre_on_the_border_is_in_the_last_cell() -> None:
    targets = encode_grid(np.array([[60.0, 60, 68, 68]]), NOBODY, (64, 64), 8)
    assert np.flatnonzero(targets.weights).tolist() == [63]


def test_ignored_regions_do_not_count_but_persons_in_them_do() -> None:
    targets = encode_grid(np.array([[16.0, 16, 32, 32]]), np.array([[0.0, 0, 60, 30]]), (64, 64), 8)
    want = np.ones((8, 8))
    want[:4, :] = 0
    want[targets.weights.reshape(8, 8) > 0] = 1
    counts = targets.counts.reshape(8, 8)
    assert counts.tolist() == want.tolist()
    assert (counts[3, 3], counts[0, 0]) == (1, 0)


@pytest.mark.parametrize(
    ("length", "first", "cells"), [(63.0, 0, 320), (64.0, 320, 80), (143.0, 320, 80), (144.0, 400, 20)]
)
def test_a_person_is_on_the_grid_of_its_length(length: float, first: int, cells: int) -> None:
    """128 x 160 pixels are 16 x 20, 8 x 10 and 4 x 5 cells."""
    targets = encode(np.array([[3.0, 10, 3 + length, 50]]), NOBODY, (128, 160))
    assert [len(t) for t in targets] == [420] * 3
    taken = np.flatnonzero(targets.weights)
    assert first <= taken.min() <= taken.max() < first + cells
    assert targets.weights.sum() == pytest.approx(1)


def test_a_picture_without_persons() -> None:
    targets = encode(NOBODY, NOBODY, (32, 64))
    assert [t.shape for t in targets] == [(42, 4), (42,), (42,)]
    assert (targets.weights == 0).all()
    assert (targets.counts == 1).all()


def test_score_loss_by_hand() -> None:
    p, quality = torch.tensor([[0.8, 0.3, 0.6, 0.1]]), torch.tensor([[0.9, 0.5, 0.0, 0.0]])
    got = score_loss(torch.logit(p), quality, torch.tensor([[1.0, 1, 1, 0]]))
    first = 0.1**2 * -(0.9 * math.log(0.8) + 0.1 * math.log(0.2))
    second = 0.2**2 * -(0.5 * math.log(0.3) + 0.5 * math.log(0.7))
    third = 0.6**2 * -math.log(0.4)
    assert float(got) == pytest.approx((first + second + third) / 2, rel=1e-5)


def test_score_loss_without_persons() -> None:
    loss = score_loss(torch.zeros(1, 2), torch.zeros(1, 2), torch.ones(1, 2))
    assert float(loss) == pytest.approx(2 * 0.25 * math.log(2), rel=1e-6)


def test_overlaps_by_hand() -> None:
    a = torch.tensor([[0.0, 0, 4, 4], [0, 0, 2, 2], [0, 0, 2, 2]])
    b = torch.tensor([[0.0, 0, 4, 4], [1, 0, 3, 2], [4, 0, 6, 2]])
    iou, giou = overlaps(a, b)
    assert iou.tolist() == pytest.approx([1, 2 / 6, 0])
    assert giou.tolist() == pytest.approx([1, 2 / 6, -4 / 12]), "apart by a gap as wide as a box: union 8, hull 12"


def test_sides_count_from_the_middle_of_a_cell() -> None:
    sides = torch.tensor([1.0, 2, 3, 4])[None, :, None, None].expand(1, 4, 2, 3)
    boxes = sides_to_boxes(sides, 8)
    assert boxes.shape == (1, 6, 4)
    assert boxes[0, 0].tolist() == [3, 2, 7, 8]
    assert boxes[0, 5].tolist() == [19, 10, 23, 16]
    assert sides_to_boxes(sides, 32)[0, 5].tolist() == [79, 46, 83, 52]


def grids(rng: np.random.Generator, count: int, size: tuple[int, int]) -> list[Prediction]:
    """Draw predictions for ``count`` pictures."""
    shapes = [(count, size[0] // stride, size[1] // stride) for stride in (8, 16, 32)]
    return [
        Prediction(
            torch.from_numpy(rng.normal(size=(n, 1, h, w)).astype("f4")).requires_grad_(),
            torch.from_numpy(rng.uniform(1, 40, (n, 4, h, w)).astype("f4")).requires_grad_(),
        )
        for n, h, w in shapes
    ]


def test_loss_weighs_the_cells_and_asks_for_their_quality() -> None:
    predictions = grids(np.random.default_rng(0), 2, (192, 192))
    people = [np.array([[2.0, 2, 12, 14], [20, 20, 120, 80], [5, 5, 180, 190]]), np.array([[30.0, 30, 90, 90]])]
    targets = [encode(mine, NOBODY, (192, 192)) for mine in people]
    loss = detector_loss(predictions, *(torch.from_numpy(np.stack(t)) for t in zip(*targets, strict=True)))
    quality, box_losses = torch.zeros(2, 24 * 24 + 12 * 12 + 6 * 6), 0.0
    assigned = all_boxes(predictions).detach()
    for n, mine in enumerate(targets):
        for cell in np.flatnonzero(mine.weights):
            iou, giou = overlaps(assigned[n, cell][None], torch.from_numpy(mine.boxes[cell])[None])
            quality[n, cell] = max(float(iou), 1e-3)
            box_losses += float(mine.weights[cell]) * (1 - float(giou))
    logits = torch.cat([p.scores.flatten(1) for p in predictions], dim=1).detach()
    want = float(score_loss(logits, quality, torch.ones_like(quality))) + 2 * box_losses / 4
    assert loss.item() == pytest.approx(want, rel=1e-5)
    loss.backward()
    for tensor in (t for p in predictions for t in p):
        assert tensor.grad is not None
        assert bool((tensor.grad != 0).any())


def readable_decode(grids: list[tuple[np.ndarray, np.ndarray]], peaks: int) -> tuple[np.ndarray, np.ndarray]:
    """One picture's boxes and scores, cell by cell."""
    found = []
    for stride, (logits, sides) in zip((8, 16, 32), grids, strict=True):
        scores = 1 / (1 + np.exp(-logits.astype(np.float64)))
        for y in range(logits.shape[0]):
            for x in range(logits.shape[1]):
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
        arrays = [(p.scores[n, 0].detach().numpy(), p.sides[n].detach().numpy()) for p in predictions]
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
        scores = torch.from_numpy(np.where(targets.weights[cells] > 0, 5.0, -5.0)).float().reshape(1, 1, side, side)
        rows, columns = (np.mgrid[:side, :side] + 0.5) * stride
        x1, y1, x2, y2 = targets.boxes[cells].T.reshape(4, side, side)
        sides = np.stack([columns - x1, rows - y1, x2 - columns, y2 - rows])
        predictions.append(Prediction(scores, torch.from_numpy(sides).float()[None]))
        first = cells.stop
    boxes, scores = decode(predictions)
    found = boxes[scores > 0.5]
    assert len(found) == (targets.weights > 0).sum()
    assert {tuple(box) for box in found.tolist()} == {tuple(box) for box in people.tolist()}


def test_fewer_cells_than_peaks() -> None:
    boxes, scores = decode(grids(np.random.default_rng(0), 1, (32, 32)), peaks=100)
    assert (boxes.shape, scores.shape) == ((1, 21, 4), (1, 21))
