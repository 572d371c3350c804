"""Samples to training batches: read, augment, crop, make targets. Runs in the loader's workers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from ...geometry import crop_regions, keypoint_box, region_affine, transform_points, warp_crop
from ...heatmaps import STRIDE, encode_bones, encode_joints
from ...images import read_image
from ...skeletons import get_skeleton
from ..recipes import Recipe
from .samples import PoseSample


@dataclass(frozen=True)
class Augmentation:
    """What is done to one sample: drawn once, applied to image and joints alike."""

    rotation: float = 0.0
    scale: float = 1.0
    mirror: bool = False
    half_body: bool = False
    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    shift: float = 0.0

    @staticmethod
    def draw(recipe: Recipe, rng: np.random.Generator) -> Augmentation:
        """Half of the samples are mirrored; rotation, scale and colour are uniform in the recipe's ranges."""
        contrast = rng.uniform(1 - recipe.colour, 1 + recipe.colour)
        channel = rng.uniform(1 - recipe.colour / 2, 1 + recipe.colour / 2, size=3)
        return Augmentation(
            rotation=rng.uniform(-recipe.rotation, recipe.rotation),
            scale=rng.uniform(recipe.scale_low, recipe.scale_high),
            mirror=bool(rng.random() < 0.5),
            half_body=bool(rng.random() < recipe.half_body),
            gain=tuple(contrast * channel),
            shift=255 * rng.uniform(-recipe.colour, recipe.colour) / 2,
        )


class PoseDataset(Dataset):
    """Augmented crops with joint and bone targets.

    The key is (epoch, index): the random state depends on the recipe's seed and that pair alone, so a sample does not
    change with the number of workers, and a resumed run sees what an unbroken one would have seen.
    """

    def __init__(self, samples: list[PoseSample], recipe: Recipe) -> None:
        self.samples = samples
        self.recipe = recipe
        self.skeleton = get_skeleton(recipe.skeleton)
        self._upper = np.array([not name.endswith(("knee", "ankle")) for name in self.skeleton.joints])

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, torch.Tensor]:
        epoch, index = key
        rng = np.random.default_rng((self.recipe.seed, epoch, index))
        return self.make(self.samples[index], Augmentation.draw(self.recipe, rng))

    def make(self, sample: PoseSample, augmentation: Augmentation) -> dict[str, torch.Tensor]:
        """``crop`` uint8 (H, W, 3), ``joints`` (J, h, w), ``weights`` (J,) and ``bones`` (B, h, w) float32."""
        size = self.recipe.input_size
        region = crop_regions(self._upper_box(sample) if augmentation.half_body else sample.box, size)[0]
        region[2:] /= augmentation.scale
        matrix = region_affine(region, size, rotation=augmentation.rotation, mirror=augmentation.mirror)
        crop = _recolour(warp_crop(read_image(sample.image), matrix, size), augmentation)
        points, visible = transform_points(sample.joints, matrix), sample.visible
        if augmentation.mirror:
            order = list(self.skeleton.flip_order)
            points, visible = points[order], visible[order]
        shape = (size[0] // STRIDE, size[1] // STRIDE)
        joints, weights = encode_joints(points, visible, shape)
        bones = encode_bones(points, visible, self.skeleton.bones, shape)
        arrays = {"crop": crop, "joints": joints, "weights": weights, "bones": bones}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def _upper_box(self, sample: PoseSample) -> NDArray[np.float64]:
        """Box xyxy around the labelled joints from the hips up, or the whole person's where too few are labelled."""
        seen = self._upper & sample.visible
        return keypoint_box(sample.joints[seen]) if seen.sum() >= self._upper.sum() / 2 else sample.box


def _recolour(crop: NDArray[np.uint8], augmentation: Augmentation) -> NDArray[np.uint8]:
    if augmentation.shift == 0 and augmentation.gain == (1.0, 1.0, 1.0):
        return crop
    levels = np.arange(256, dtype=np.float32)[:, None]
    table = levels * np.array(augmentation.gain, np.float32) + np.float32(augmentation.shift)
    return np.asarray(cv2.LUT(crop, np.clip(table, 0, 255).astype(np.uint8)[None]), dtype=np.uint8)


class EpochSampler(Sampler):
    """Shuffled (epoch, index) keys; the order depends on seed and epoch alone. Set :attr:`epoch` before iterating."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed, self.epoch = count, seed, 0

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.count)
        return ((self.epoch, int(i)) for i in order)


def _one_thread(_: int) -> None:
    cv2.setNumThreads(1)


def make_loader(dataset: PoseDataset, workers: int) -> tuple[DataLoader, EpochSampler]:
    """A loader of full batches and the sampler that names its epoch.

    Workers are spawned: OpenCV's threads, once used in this process, would leave their locks taken in a fork, and the
    children of a fork server would outlive a training run that is killed.
    """
    sampler = EpochSampler(len(dataset), dataset.recipe.seed)
    loader = DataLoader(
        dataset,
        batch_size=min(dataset.recipe.batch, len(dataset)),
        sampler=sampler,
        num_workers=workers,
        drop_last=True,
        worker_init_fn=_one_thread,
        multiprocessing_context="spawn" if workers else None,
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
    )
    return loader, sampler
