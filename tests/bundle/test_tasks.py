"""What differs between a pose network and a person detector, by hand-computed values."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgepose.bundle.contract import float_spec, image_spec
from edgepose.bundle.limits import BOX_LIMITS, POSE_LIMITS
from edgepose.bundle.manifest import Manifest
from edgepose.bundle.tasks import PERSONS, POSE, TASKS

FINDER = Manifest("finder", "peaks", "", (32, 64), options={"boxes": 2}, decode="boxes")


def keypoints(*images: list[tuple[float, float, float]]) -> dict[str, np.ndarray]:
    return {"keypoints": np.array(images, np.float32)}


# --- pose ---


def test_without_heatmaps_the_scores_of_the_keypoints_are_compared() -> None:
    goldens = keypoints([(1, 2, 0.5), (3, 4, 0.9)], [(5, 6, 0.2), (7, 8, 0.6)])
    outputs = keypoints([(4, 6, 0.5), (3, 4, 0.8)], [(5, 6, 0.5), (7, 10, 0.6)])
    distances, scores = POSE.errors(goldens, outputs)
    assert [d.tolist() for d in distances] == [[5, 0], [0, 2]]
    np.testing.assert_allclose(scores, [0.1, 0.3], atol=1e-6)
    assert POSE.score_range(goldens) == pytest.approx(0.9 - 0.2)


def test_heatmaps_count_beside_the_scores() -> None:
    goldens = keypoints([(1, 2, 0.5)], [(1, 2, 0.75)]) | {"heatmaps": np.zeros((2, 1, 2, 2), np.float32)}
    goldens["heatmaps"][:, 0, 1, 1] = -1.5, 0.75
    outputs = {name: values.copy() for name, values in goldens.items()}
    outputs["keypoints"][0, 0, 2] += 0.25
    outputs["heatmaps"][0, 0, 0, 0] += 0.125
    outputs["heatmaps"][1, 0, 0, 1] -= 0.5
    distances, scores = POSE.errors(goldens, outputs)
    assert [d.tolist() for d in distances] == [[0], [0]]
    assert scores.tolist() == [0.25, 0.5]
    assert POSE.score_range(goldens) == 2.25


def test_an_error_of_further_maps_counts_by_their_own_range() -> None:
    goldens = keypoints([(1, 2, 0.5)], [(1, 2, 0.75)]) | {"heatmaps": np.zeros((2, 1, 2, 2), np.float32)}
    goldens["heatmaps"][0, 0, 1, 1] = 2  # the range of the heat-maps
    goldens["bones"] = np.array([0, 0, 0, 8] * 2, np.float32).reshape(2, 1, 2, 2)
    goldens["segmentation"] = np.array([0.25, 0.75] * 4, np.float32).reshape(2, 2, 1, 2)
    outputs = {name: values.copy() for name, values in goldens.items()}
    outputs["bones"][0, 0, 0, 1] += 0.5  # a sixteenth of their range
    outputs["segmentation"][1, 1, 0, 0] -= 0.125  # a quarter of theirs
    assert POSE.errors(goldens, outputs)[1].tolist() == [2 / 16, 2 / 4]
    outputs["heatmaps"][1, 0, 0, 0] += 0.75
    assert POSE.errors(goldens, outputs)[1].tolist() == [2 / 16, 0.75]


def test_scores_that_are_all_the_same_have_the_range_one() -> None:
    assert POSE.score_range(keypoints([(1, 2, 0.5), (3, 4, 0.5)])) == 1
    assert PERSONS.score_range({"scores": np.full((2, 3), 0.5, np.float32)}) == 1


def test_nan_is_infinitely_wrong() -> None:
    goldens = keypoints([(1, 2, 0.5), (3, 4, 0.9)])
    distances, scores = POSE.errors(goldens, keypoints([(np.nan, 2, 0.5), (3, 4, np.nan)]))
    assert distances[0].tolist() == [np.inf, 0] and scores.tolist() == [np.inf]


# --- persons ---


def found(*scores: float, shift: float = 0.0) -> dict[str, np.ndarray]:
    """One picture with two boxes of 10 by 20 px; the second is shifted along x."""
    boxes = np.array([[[0, 0, 10, 20], [30 + shift, 0, 40 + shift, 20]]], np.float32)
    return {"boxes": boxes, "scores": np.array([scores], np.float32)}


def test_only_persons_are_compared() -> None:
    distances, scores = PERSONS.errors(found(0.9, 0.1), found(0.8, 0.1))
    assert [d.tolist() for d in distances] == [[0]]
    np.testing.assert_allclose(scores, [0.1], atol=1e-6)
    distances, scores = PERSONS.errors(found(0.9, 0.5), found(0.9, 0.5, shift=2.0))
    assert [d.tolist() for d in distances] == [[0, 2]] and scores.tolist() == [0]


def test_what_is_not_finite_costs_everything() -> None:
    assert PERSONS.errors(found(0.9, 0.1), found(0.9, np.nan))[1].tolist() == [np.inf]
    assert PERSONS.errors(found(0.9, 0.1), found(0.9, 0.1, shift=np.nan))[1].tolist() == [np.inf]


def test_goldens_need_somebody_and_keypoints_do_not() -> None:
    assert PERSONS.flaw(found(0.39, 0.1)) == "no person scores 0.4 or more, so nothing can be verified"
    assert PERSONS.flaw(found(0.41, 0.1)) is None
    assert POSE.flaw(keypoints([(0, 0, 0)])) is None
    assert PERSONS.score_range(found(0.9, 0.15)) == pytest.approx(0.75)


# --- both ---


def test_graphs_limits_and_words_are_the_task_s() -> None:
    assert (TASKS["quarter"], TASKS["boxes"], len(TASKS)) == (POSE, PERSONS, 2)
    assert [POSE.graph_name(name) for name in ("fp32", "int8+fp16")] == ["pose.onnx", "pose.int8+fp16.onnx"]
    assert [PERSONS.graph_name(name) for name in ("fp32", "mixed")] == ["detector.onnx", "detector.mixed.onnx"]
    assert POSE.limits("mixed") is POSE_LIMITS["int8"] and PERSONS.limits("fp16") is BOX_LIMITS["fp16"]
    assert (POSE.image, PERSONS.image) == ("crop", "picture")


def test_a_detector_with_pytorch_weights_was_exported_and_one_without_imported() -> None:
    pose = Manifest("tiny", "hrnet_w32", "lsp14", (32, 24))
    exported = replace(FINDER, files={"checkpoint.safetensors": 64 * "0"})
    words = [(m.imported, m.reference, m.remake) for m in (pose, exported, FINDER)]
    assert words == [
        (False, "PyTorch", "export the bundle again"),
        (False, "PyTorch", "export the bundle again"),
        (True, "the imported file", "import the detector again"),
    ]


def test_a_manifest_has_the_contract_of_its_task() -> None:
    assert FINDER.task is PERSONS
    assert FINDER.contract.images == image_spec(32, 64) and FINDER.contract.optional == ()
    assert FINDER.contract.outputs == (float_spec("boxes", 2, 4), float_spec("scores", 2))
    pose = Manifest("tiny", "hrnet_w32", "lsp14", (32, 24))
    assert pose.contract.outputs == (float_spec("keypoints", 14, 3),)
    assert pose.contract.optional == (
        float_spec("heatmaps", 14, 8, 6),
        float_spec("bones", 13, 8, 6),
        float_spec("segmentation", 4, 8, 6),
    )


@pytest.mark.parametrize("options", [{}, {"boxes": 0}, {"boxes": -1}, {"boxes": True}, {"boxes": "4"}])
def test_options_of_a_detector_name_how_many_boxes(options: dict) -> None:
    assert PERSONS.options_flaw(options) == "options of a detector must name a number of boxes"
    assert PERSONS.options_flaw({"boxes": 1}) is None and POSE.options_flaw(options) is None
