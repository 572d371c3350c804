"""Read MPII Human Pose, converted to HRNet's JSON layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import UsageError
from ..core.geometry import CROP_PADDING
from .reading import DAMAGED, Intake, PersonLabels, find_annotations, plausible, read_list, read_mat, too_small
from .samples import PoseData, PoseSample

#: PCKh's reference length as a share of the head box's diagonal (MPII's own evaluation code).
_HEAD_SHARE = 0.6


def load_mpii(root: Path, split: str) -> PoseData:
    """Read ``annot/train.json`` or ``annot/valid.json``, and ``images``.

    A person is ``{image, center, scale, joints, joints_vis}``: 1-based pixels, scale in units of 200 px of body height.
    The box is a square with sides of 200 x scale pixels, 15 x scale pixels below the centre, from which
    :func:`edgepose.core.geometry.crop_regions` makes HRNet's region. The head sizes of ``val`` are read from
    ``annot/gt_valid.mat`` if it exists; without them PCKh cannot be computed.
    """
    annotations = find_annotations([root / "annot" / ("train.json" if split == "train" else "valid.json")])
    wanted = "MPII's list of image, center, scale, joints and joints_vis"
    persons = read_list(annotations, wanted, "image", "center", "scale", "joints", "joints_vis")
    heads = np.full(len(persons), np.nan)
    if split == "val" and (root / "annot/gt_valid.mat").is_file():
        heads = _head_sizes(root / "annot/gt_valid.mat", len(persons))
    intake = Intake("mpii", "mpii16", annotations, [root / "images", root])
    numbers: dict[str, int] = {}
    for index, (person, head) in enumerate(zip(persons, heads, strict=True)):
        name = str(person.get("image"))
        number = numbers.setdefault(name, len(numbers))
        if (path := intake.picture(number, name)) is None:
            continue
        read = _read_person(person)
        if isinstance(read, str):
            intake.skip(read, f"{name}: person {index}")
        else:
            intake.data.samples.append(PoseSample(path, *read, number, head_size=float(head)))
    return intake.finish()


def _read_person(person: dict[str, Any]) -> PersonLabels | str:
    """Return an entry's labels, in 0-based pixels, or why it cannot be used."""
    try:
        joints, visible = (np.asarray(person[key], dtype=np.float64) for key in ("joints", "joints_vis"))
        x, y, scale = (float(value) for value in (*person["center"], person["scale"]))
    except DAMAGED:
        return "damaged annotation"
    if joints.shape != (16, 2) or visible.shape != (16,):
        return "wrong number of joints (expected 16)"
    if not (visible > 0).any():
        return "no labelled joint"
    if not plausible(joints, x, y, 200 * scale):
        return "damaged annotation"
    if scale <= 0:
        return "no area"
    if too_small(joints[visible > 0], 200 * scale):
        return "smaller than a pixel"
    half = 100 * scale
    if x == -1:  # a missing centre: HRNet then neither moves the centre nor pads the box
        half /= CROP_PADDING
    else:
        y += 15 * scale
    return joints - 1, visible > 0, np.array([x - half, y - half, x + half, y + half]) - 1


def _head_sizes(path: Path, count: int) -> NDArray[np.float64]:
    """Return PCKh's reference lengths (N,) in pixels, NaN for an empty box.

    They come from ``headboxes_src`` (2 corners, 2, N) in MPII's own file.
    """
    boxes = read_mat(path, "headboxes_src")
    if boxes.shape != (2, 2, count):
        raise UsageError(
            f"{path}: 'headboxes_src' has shape {boxes.shape}, expected (2, 2, {count}) for the {count} persons of "
            "valid.json: use the two files of the same release"
        )
    sizes = np.asarray(_HEAD_SHARE * np.linalg.norm(boxes[1] - boxes[0], axis=0), dtype=np.float64)
    return np.where(sizes > 0, sizes, np.nan)
