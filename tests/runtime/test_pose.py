"""Boxes to keypoints in source pixels, against pictures whose joints are known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edgepose.bundle.contract import TensorSpec
from edgepose.core.errors import CheckError, UsageError
from edgepose.core.geometry import crop_boxes, transform_points
from edgepose.core.skeletons import COCO17, LSP14
from edgepose.runtime.crop import Crops, HostCropper
from edgepose.runtime.pose import PoseEstimator

FLOAT = np.dtype(np.float32)


def test_keypoints_come_back_where_they_were_painted(
    estimator: PoseEstimator, session, paint: Callable, person: np.ndarray
) -> None:
    """Two persons of another size and place, one batch. A pixel of the source is about a pixel of the crop."""
    picture = np.zeros((480, 640, 3), np.uint8)
    people = [np.add(person, (30, 40)), person * (1.2, 1.5) + (300, 100)]
    for joints in people:
        paint(picture, joints)
    boxes = [[*(p.min(axis=0) - 10), *(p.max(axis=0) + 10)] for p in people]
    before = picture.copy()
    poses = estimator(picture, boxes)
    assert session.batches == [2]
    assert (picture == before).all()
    for pose, joints, box in zip(poses, people, boxes, strict=True):
        assert pose.keypoints.dtype == np.float32
        np.testing.assert_allclose(pose.keypoints[:, :2], joints.astype(int), atol=0.6)
        np.testing.assert_allclose(pose.keypoints[:, 2], 0.9)
        assert pose.score == pytest.approx(0.9)
        np.testing.assert_array_equal(pose.box, box)
        assert pose.track_id is None


def test_many_are_estimated_as_one_by_one(estimator: PoseEstimator, paint: Callable, person: np.ndarray) -> None:
    picture = np.zeros((300, 400, 3), np.uint8)
    paint(picture, np.add(person, (100, 20)))
    boxes = np.array([[90.0, 10, 240, 240], [80, 0, 300, 290], [0, 0, 400, 300]])
    together = estimator(picture, boxes)
    for box, pose in zip(boxes, together, strict=True):
        np.testing.assert_array_equal(estimator(picture, [box])[0].keypoints, pose.keypoints)


def test_nobody_needs_no_inference(estimator: PoseEstimator, session) -> None:
    picture = np.zeros((48, 64, 3), np.uint8)
    for boxes in ([], np.zeros((0, 4))):
        people = estimator(picture, boxes)
        assert (len(people), people.keypoints.shape) == (0, (0, 14, 3))
    assert session.batches == []


@pytest.mark.parametrize(
    ("image", "got"),
    [
        (np.zeros((48, 64, 3), np.float32), r"float32 \(48, 64, 3\)"),
        (np.zeros((48, 64), np.uint8), r"uint8 \(48, 64\)"),
        (np.zeros((48, 64, 4), np.uint8), r"uint8 \(48, 64, 4\)"),
        (np.zeros((0, 64, 3), np.uint8), "empty"),
        ([[0]], "list"),
    ],
)
def test_what_is_not_a_picture_is_refused(estimator: PoseEstimator, image, got: str) -> None:
    with pytest.raises(UsageError, match=f"image is {got}"):
        estimator(image, [[0, 0, 10, 10]])


@pytest.mark.parametrize(
    ("boxes", "got"),
    [
        ([0, 0, 10, 10], r"boxes have shape \(4,\)"),
        ([[0, 0, 10]], r"boxes have shape \(1, 3\)"),
        ([[0, 0, 10, 10, 0.9]], r"boxes have shape \(1, 5\)"),
        ([[0, 0, 10, 10], [50, 60, 20, 30]], r"box \[50.0, 60.0, 20.0, 30.0\] is not x1 < x2, y1 < y2"),
        ([[0, 0, 0, 10]], "is not x1 < x2"),
        ([[0, 0, np.nan, 10]], "is not x1 < x2"),
        ([["a", 0, 1, 10]], "boxes are not numbers"),
    ],
)
def test_what_is_not_a_box_is_refused(estimator: PoseEstimator, boxes, got: str) -> None:
    with pytest.raises(UsageError, match=got):
        estimator(np.zeros((48, 64, 3), np.uint8), boxes)


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        ({"images": ((None, 3, 256, 192), "float32")}, {}, r"takes images float32 .* expected images uint8 \(N, 256, "),
        ({"images": ((1, 256, 192, 3), "uint8")}, {}, "takes images uint8"),
        ({"image": ((None, 256, 192, 3), "uint8")}, {}, "takes image uint8"),
        ({}, {"keypoints": ((None, 17, 3), "float32")}, r"expected keypoints float32 \(N, 14, 3\)"),
        ({}, {"keypoints": ((None, 14, 3), "float16")}, "expected keypoints float32"),
        ({}, {"heatmaps": ((None, 14, 32, 24), "float32")}, r"expected heatmaps float32 \(N, 14, 64, 48\)"),
        ({}, {"other": ((None, 14, 3), "float32")}, "gives other float32"),
    ],
)
def test_networks_that_break_the_contract_are_refused(session, inputs: dict, outputs: dict, message: str) -> None:
    def specs(wanted: dict, original: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        changed = tuple(TensorSpec(name, shape, np.dtype(kind)) for name, (shape, kind) in wanted.items())
        kept = tuple(spec for spec in original if spec.name not in wanted)
        return changed if "other" in wanted or not outputs else changed + kept

    session.inputs = specs(inputs, session.inputs) if inputs else session.inputs
    session.outputs = specs(outputs, session.outputs) if outputs else session.outputs
    with pytest.raises(UsageError, match=message):
        PoseEstimator(session, LSP14, (256, 192))


def test_another_skeleton_is_refused(session) -> None:
    with pytest.raises(UsageError, match=r"expected keypoints float32 \(N, 17, 3\)"):
        PoseEstimator(session, COCO17, (256, 192))


def test_outputs_of_unknown_sides_are_accepted(session) -> None:
    session.outputs = (
        TensorSpec("keypoints", (None, None, 3), FLOAT),
        TensorSpec("heatmaps", (None, None, None, None), FLOAT),
    )
    PoseEstimator(session, LSP14, (256, 192))


def test_another_cropper_can_be_put_in_place(estimator: PoseEstimator, paint: Callable, person: np.ndarray) -> None:
    """One that cuts the picture as it is: crop pixels are picture pixels but for the corner."""

    def cut(image: np.ndarray, boxes: np.ndarray) -> Crops:
        corners = boxes[:, :2].astype(int)
        pixels = np.stack([image[y : y + 256, x : x + 192] for x, y in corners])
        return Crops(pixels, np.stack([np.array([[1.0, 0, x], [0, 1.0, y]]) for x, y in corners]))

    picture = np.zeros((400, 400, 3), np.uint8)
    joints = np.add(person, (120, 130))
    paint(picture, joints)
    estimator.cropper = cut
    (pose,) = estimator(picture, [[110, 120, 250, 340]])
    np.testing.assert_array_equal(pose.keypoints[:, :2], joints)


def test_the_croppers_inverses_lead_back_into_the_picture() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (200, 300, 3), dtype=np.uint8)
    boxes = np.array([[20.0, 30, 90, 170], [150, 10, 290, 60]])
    crops = HostCropper((64, 48), 1.25)(picture, boxes)
    pixels, inverses = crop_boxes(picture, boxes, (64, 48), 1.25)
    np.testing.assert_array_equal(crops.pixels, pixels)
    np.testing.assert_array_equal(crops.inverses, inverses)
    np.testing.assert_allclose(transform_points([[[24, 32]], [[24, 32]]], crops.inverses)[:, 0], [[55, 100], [220, 35]])


def test_nan_is_not_a_pose(estimator: PoseEstimator, session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "run", lambda _: {"keypoints": np.full((1, 14, 3), np.nan, np.float32)})
    with pytest.raises(CheckError, match="NaN or infinity on backend fake in fp32: run edgepose verify"):
        estimator(np.zeros((48, 64, 3), np.uint8), [[0, 0, 10, 10]])


def test_leaving_the_context_closes_the_network(session) -> None:
    with PoseEstimator(session, LSP14, (256, 192)):
        assert not session.closed
    assert session.closed
