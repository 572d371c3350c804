"""Compose training pictures of scenes: one to nine tiles, people of all sizes in each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgepose.core.geometry import Size, transform_points
from edgepose.core.images import read_image
from tools.person_lite.recipe import DetectorRecipe
from tools.person_lite.scenes import Scene

#: Grey level around the pictures, that of the runtime's letterbox.
_PAD = 114
#: A box of which less than this share is left in a tile becomes an ignored region there.
_VISIBLE = 0.35
#: So does a box that is narrower than this, in pixels.
_SMALLEST = 4.0
#: Largest factor by which pictures are enlarged.
_ENLARGED = 3.0


@dataclass(frozen=True)
class Labelled:
    """A picture, or a tile of one, with its labels.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        boxes: (P, 4) float64 xyxy of the persons in pixels, inside the picture.
        ignored: (R, 4) likewise, of regions that are neither person nor background.
    """

    image: NDArray[np.uint8]
    boxes: NDArray[np.float64]
    ignored: NDArray[np.float64]


def compose(groups: list[list[Scene]], recipe: DetectorRecipe, rng: np.random.Generator) -> Labelled:
    """Compose one training picture: a grid of 1x1, 2x2 or 3x3 tiles with random seams, each a window of a random scene.

    Args:
        groups: scenes by their source; ``recipe.shares`` are the chances that a tile is taken from each.
        recipe: size of the picture and chances.
        rng: every random choice is drawn from it.
    """
    side = int(rng.choice(len(recipe.grids), p=recipe.grids)) + 1
    rows, columns = _seams(recipe.size[0], side, rng), _seams(recipe.size[1], side, rng)
    image = np.empty((*recipe.size, 3), np.uint8)
    boxes, ignored = [], []
    for top, bottom in pairwise(rows):
        for left, right in pairwise(columns):
            group = groups[int(rng.choice(len(groups), p=recipe.shares))]
            tile = window(group[int(rng.integers(len(group)))], (bottom - top, right - left), recipe, rng)
            image[top:bottom, left:right] = tile.image
            corner = np.array([left, top, left, top])
            boxes.append(tile.boxes + corner)
            ignored.append(tile.ignored + corner)
    return Labelled(image, np.concatenate(boxes), np.concatenate(ignored))


def window(scene: Scene, size: Size, recipe: DetectorRecipe, rng: np.random.Generator) -> Labelled:
    """Cut a window of (height, width) out of a scene, mirrored, scaled and coloured at random.

    The scale gives one random person of the scene a random length, so that people of all sizes are equally frequent
    whatever the pictures show (as data-anchor-sampling does: Tang et al., PyramidBox, ECCV 2018); one window in ten
    is at a random place instead.
    """
    source = _recolour(_read(scene.image), recipe.colour, rng)  # before the grey border is added, whose level is fixed
    matrix = _view(scene, source.shape[:2], size, recipe, rng)
    warp = matrix.copy()  # OpenCV counts from the middle of the first pixel, boxes from its corner
    warp[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5
    image = np.asarray(cv2.warpAffine(source, warp, size[::-1], borderValue=(_PAD,) * 3), dtype=np.uint8)
    boxes, ignored = _moved(scene.boxes, matrix), _moved(scene.ignored, matrix)
    clipped = _clip(boxes, size)
    shown = _area(clipped) / np.maximum(_area(boxes), 1e-6)
    good = (shown >= _VISIBLE) & ((clipped[:, 2:] - clipped[:, :2]).min(axis=1) >= _SMALLEST)
    unclear = np.concatenate([clipped[~good], _clip(ignored, size)])
    return Labelled(image, clipped[good], unclear[_area(unclear) > 0])


@lru_cache(maxsize=4096)  # each is used many times; those of LSP are 0.6 GB in memory
def _read(path: Path) -> NDArray[np.uint8]:
    return read_image(path)


def _seams(length: int, count: int, rng: np.random.Generator) -> list[int]:
    """Draw the borders of ``count`` tiles, each moved by up to a fifth of a tile from an even spacing."""
    even = np.arange(count + 1) * length / count
    even[1:-1] += rng.uniform(-0.2, 0.2, count - 1) * length / count
    return [round(float(x)) for x in even]


def _view(
    scene: Scene, source: Size, size: Size, recipe: DetectorRecipe, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Draw an affine matrix (2, 3) from the scene's pixels to the window's."""
    height, width = source
    fit = min(size[0] / height, size[1] / width)
    if len(scene.boxes) and rng.random() > 0.1:
        box = scene.boxes[int(rng.integers(len(scene.boxes)))]
        focus, length = (box[:2] + box[2:]) / 2, float((box[2:] - box[:2]).max())
        wanted = np.exp(rng.uniform(np.log(recipe.smallest), np.log(recipe.largest * max(size))))
        scale = wanted / max(length, 1.0)
    else:
        focus, scale = rng.uniform((0, 0), (width, height)), fit * np.exp(rng.uniform(0, np.log(3)))
    scale = float(np.clip(scale, 0.9 * fit, _ENLARGED))
    stretch = np.exp(rng.uniform(-0.1, 0.1))
    scales = scale * np.array([stretch, 1 / stretch])
    # A random place for the focus; then a picture larger than the window fills it, a smaller one lies inside.
    place = rng.uniform(0.15, 0.85, 2) * size[::-1] - focus * scales
    slack = np.array(size[::-1]) - np.array([width, height]) * scales
    place = np.clip(place, np.minimum(slack, 0), np.maximum(slack, 0))
    if rng.random() < 0.5:
        return np.array([[-scales[0], 0, size[1] - place[0]], [0, scales[1], place[1]]])
    return np.array([[scales[0], 0, place[0]], [0, scales[1], place[1]]])


def _moved(boxes: NDArray[np.float64], matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    corners = transform_points(boxes.reshape(-1, 2, 2), matrix)
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


def _clip(boxes: NDArray[np.float64], size: Size) -> NDArray[np.float64]:
    return np.clip(boxes, 0, [size[1], size[0], size[1], size[0]])


def _area(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))


def _recolour(image: NDArray[np.uint8], most: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Change brightness, contrast and each channel's gain by up to ``most``; make one picture in ten grey."""
    if rng.random() < 0.1:
        image = np.asarray(cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB), np.uint8)
    gain = rng.uniform(1 - most, 1 + most) * rng.uniform(1 - most / 2, 1 + most / 2, 3)
    levels = np.arange(256)[:, None] * gain + 255 * rng.uniform(-most, most) / 2
    return np.asarray(cv2.LUT(image, np.clip(levels, 0, 255).astype(np.uint8)[None]), dtype=np.uint8)
