"""Read the data sets COCO, CrowdPose, LSP and MPII into :class:`PoseData`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..core.errors import UsageError
from ..core.images import read_image
from .coco import load_coco, load_crowdpose
from .detections import detected_samples
from .lsp import load_lsp
from .mpii import load_mpii
from .samples import PoseData, PoseSample, describe_skipped, require_size
from .test_dev import load_test_dev

__all__ = ["PoseData", "PoseSample", "describe_skipped", "detected_samples", "load_data"]

_KINDS = {"coco": load_coco, "crowdpose": load_crowdpose, "lsp": load_lsp, "mpii": load_mpii}


def load_data(spec: str, split: str) -> PoseData:
    """Read one split of a data set.

    Args:
        spec: ``KIND:ROOT``, such as ``coco:/data/coco``. Kinds: ``coco``, ``crowdpose``, ``lsp``, ``mpii``.
        split: ``train``, or ``val`` for the split that results are published on (of LSP, its test list); of COCO also
            ``test-dev``, which has pictures and no persons.

    Raises:
        UsageError: ``spec`` or ``split`` is none of these, files are missing or broken, no person can be used, or the
            first or another of about three pictures has another size than its labels say. (The others are compared
            when they are read: see :func:`edgepose.data.samples.require_size`.)
    """
    kind, _, root = spec.partition(":")
    if kind not in _KINDS or not root:
        raise UsageError(f"--data {spec!r}: expected KIND:ROOT with KIND one of {', '.join(_KINDS)}")
    if split not in ("train", "val", "test-dev"):
        raise UsageError(f"split {split!r}: expected train, val or test-dev")
    if not Path(root).is_dir():
        raise UsageError(f"--data {spec!r}: {root} is not a folder, expected that of the data set")
    if split == "test-dev":
        if kind != "coco":
            raise UsageError(f"{kind} has no split test-dev, which is COCO's: give coco:ROOT")
        return load_test_dev(Path(root))
    data = _KINDS[kind](Path(root), split)
    _try_sizes(data.samples)
    return data


def _try_sizes(samples: Sequence[PoseSample]) -> None:
    for sample in samples[:: max(1, len(samples) // 2)]:
        if sample.size is None:
            continue
        try:
            image = read_image(sample.image)
        except UsageError:  # refused or left out by whoever needs this picture
            continue
        require_size(sample, image)
