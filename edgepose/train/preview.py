"""Draw augmented training samples with their targets into one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ..core.heatmaps import STRIDE
from ..core.images import contact_sheet, write_image
from ..core.pictures import Colour, bone_colours, joint_colours
from ..data.samples import PoseData
from .loader import PoseDataset
from .recipes import Recipe

#: RGB.
_SEGMENTATION: Colour = (255, 60, 200)
#: Height of the caption, and pixels between the samples.
_CAPTION, _GAP = 20, 8


def draw_check(data: PoseData, recipe: Recipe, path: Path, count: int = 16) -> None:
    """Draw samples from all over the data set, augmented as in the first epoch.

    ``count`` of them, or all if there are fewer, are drawn three times: under their joint targets, their bone targets
    and their segmentation target. Orange is the person's left, blue the right, green neither; the caption names the
    picture and its augmentation.

    Raises:
        UsageError: data and recipe have different skeletons, or the picture cannot be written.
    """
    dataset = PoseDataset(data.samples, recipe)
    indices = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round()
    write_image(path, contact_sheet([_draw_sample(dataset, int(index)) for index in indices], columns=4, gap=_GAP))


def _draw_sample(dataset: PoseDataset, index: int) -> NDArray[np.uint8]:
    """Draw the three views of a sample side by side (h, 3 w, 3), above its caption."""
    item = {name: tensor.numpy() for name, tensor in dataset[0, index].items()}
    views = [
        lay_over(item["crop"], item["joints"], joint_colours(dataset.skeleton)),
        lay_over(item["crop"], item["bones"], bone_colours(dataset.skeleton)),
        lay_over(item["crop"], item["segmentation"][None], [_SEGMENTATION], strength=0.5),
    ]
    done = dataset.augmentation(0, index)
    words = [f"{done.rotation:+.0f} deg", f"x{1 / done.scale:.2f}"]
    words += ["mirrored"] * done.mirror + [done.part] * (done.part != "whole")
    caption = np.full((_CAPTION, 3 * item["crop"].shape[1], 3), 255, np.uint8)
    text = f"{dataset.samples[index].image.name} ({index}): {', '.join(words)}"
    cv2.putText(caption, text, (4, _CAPTION - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    return np.vstack([np.hstack(views), caption])


def lay_over(
    crop: NDArray[np.uint8], maps: NDArray[np.float32], colours: Sequence[Colour], strength: float = 0.8
) -> NDArray[np.uint8]:
    """Draw maps (K, h, w) of 0 to 1 over a crop (H, W, 3); where a map is 1, ``strength`` is its colour's share."""
    # Crop pixel = 4 x heat-map pixel; resizing would shift that.
    grow = np.array([[STRIDE, 0.0, 0.0], [0.0, STRIDE, 0.0]])
    picture = crop.astype(np.float32)
    for colour in dict.fromkeys(colours):
        layer = np.max([single for single, of in zip(maps, colours, strict=True) if of == colour], axis=0)
        share = strength * cv2.warpAffine(layer, grow, crop.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)[..., None]
        picture += share * (np.array(colour, np.float32) - picture)
    return picture.round().astype(np.uint8)
