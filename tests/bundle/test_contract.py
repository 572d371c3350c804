"""The graph contract: what keeps it, and the sentence for each way to break it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from edgepose.bundle.contract import Contract, TensorSpec, float_spec, image_spec
from edgepose.bundle.tasks import pose_contract
from edgepose.core.errors import UsageError

CONTRACT = pose_contract(14, (64, 48))
IMAGES = image_spec(64, 48)
KEYPOINTS, HEATMAPS = float_spec("keypoints", 14, 3), float_spec("heatmaps", 14, 16, 12)


def refusal(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], *, exact: bool = False) -> str:
    with pytest.raises(UsageError) as caught:
        CONTRACT.refuse(inputs, outputs, remedy="make it again", exact=exact)
    return str(caught.value)


def accept(outputs: Sequence[TensorSpec], *, exact: bool = False) -> None:
    CONTRACT.refuse([IMAGES], outputs, remedy="make it again", exact=exact)


def test_a_pose_network_gives_keypoints_and_may_give_heatmaps_of_a_quarter() -> None:
    assert (
        Contract(
            TensorSpec("images", (None, 64, 48, 3), np.dtype(np.uint8)),
            (TensorSpec("keypoints", (None, 14, 3), np.dtype(np.float32)),),
            (TensorSpec("heatmaps", (None, 14, 16, 12), np.dtype(np.float32)),),
        )
        == CONTRACT
    )
    assert CONTRACT.outputs_in(["keypoints", "other"]) == (KEYPOINTS,)
    assert CONTRACT.outputs_in(["heatmaps"]) == (KEYPOINTS, HEATMAPS)


def test_a_spec_is_told_with_its_dynamic_sides() -> None:
    assert str(HEATMAPS) == "heatmaps float32 (N, 14, 16, 12)" and HEATMAPS.sample == (14, 16, 12)


@pytest.mark.parametrize("exact", [False, True])
def test_what_keeps_the_contract_passes(exact: bool) -> None:
    accept([KEYPOINTS], exact=exact)
    accept([KEYPOINTS, HEATMAPS], exact=exact)
    accept([HEATMAPS, KEYPOINTS], exact=exact)


def test_another_input_is_refused() -> None:
    wrong = TensorSpec("images", (None, 64, 48, 3), np.dtype(np.float32))
    expected = "expected images uint8 (N, 64, 48, 3): make it again"
    assert refusal([wrong], [KEYPOINTS]) == f"network takes images float32 (N, 64, 48, 3), {expected}"
    assert refusal([image_spec(48, 64)], [KEYPOINTS]) == f"network takes images uint8 (N, 48, 64, 3), {expected}"
    assert refusal([], [KEYPOINTS]) == f"network takes nothing, {expected}"
    more = "network takes images uint8 (N, 64, 48, 3), boxes float32 (N, 4)"
    assert refusal([IMAGES, float_spec("boxes", 4)], [KEYPOINTS]) == f"{more}, {expected}"


def test_another_dtype_is_refused() -> None:
    wrong = TensorSpec("keypoints", (None, 14, 3), np.dtype(np.float16))
    assert refusal([IMAGES], [wrong]) == (
        "network gives keypoints float16 (N, 14, 3), expected keypoints float32 (N, 14, 3): make it again"
    )


def test_another_shape_is_refused() -> None:
    assert refusal([IMAGES], [float_spec("keypoints", 17, 3)]) == (
        "network gives keypoints float32 (N, 17, 3), expected keypoints float32 (N, 14, 3): make it again"
    )
    assert refusal([IMAGES], [float_spec("keypoints", 14)]) == (
        "network gives keypoints float32 (N, 14), expected keypoints float32 (N, 14, 3): make it again"
    )


def test_an_output_that_is_missing_is_refused() -> None:
    assert refusal([IMAGES], [HEATMAPS]) == (
        "network gives heatmaps float32 (N, 14, 16, 12), expected keypoints float32 (N, 14, 3): make it again"
    )
    assert refusal([IMAGES], []) == "network gives nothing, expected keypoints float32 (N, 14, 3): make it again"


def test_heatmaps_may_be_absent_but_not_wrong() -> None:
    accept([KEYPOINTS])
    assert refusal([IMAGES], [KEYPOINTS, float_spec("heatmaps", 14, 64, 48)]) == (
        "network gives keypoints float32 (N, 14, 3), heatmaps float32 (N, 14, 64, 48), "
        "expected heatmaps float32 (N, 14, 16, 12): make it again"
    )


def test_a_side_that_is_not_known_passes_unless_all_must_be() -> None:
    unknown = TensorSpec("keypoints", (None, None, 3), np.dtype(np.float32))
    accept([unknown])
    assert refusal([IMAGES], [unknown], exact=True) == (
        "network gives keypoints float32 (N, N, 3), expected keypoints float32 (N, 14, 3): make it again"
    )


def test_a_batch_that_is_fixed_is_refused_where_all_must_be_exact() -> None:
    fixed = TensorSpec("keypoints", (1, 14, 3), np.dtype(np.float32))
    assert refusal([IMAGES], [fixed], exact=True) == (
        "network gives keypoints float32 (1, 14, 3), expected keypoints float32 (N, 14, 3): make it again"
    )


def test_another_output_passes_unless_all_must_be_exact() -> None:
    more = [KEYPOINTS, HEATMAPS, float_spec("features", 32)]
    accept(more)
    assert refusal([IMAGES], more, exact=True) == (
        "network gives keypoints float32 (N, 14, 3), heatmaps float32 (N, 14, 16, 12), features float32 (N, 32), "
        "expected keypoints float32 (N, 14, 3), heatmaps float32 (N, 14, 16, 12) alone: make it again"
    )
