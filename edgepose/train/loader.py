"""Turn samples into training batches, in the loader's workers: read, augment, crop, make targets."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from ..core.errors import UsageError
from ..core.geometry import warp_crop
from ..core.heatmaps import STRIDE, encode_bones, encode_bones_gaussian, encode_joints, encode_segmentation
from ..core.images import read_image
from ..core.machine import usable_threads
from ..core.skeletons import get_skeleton
from ..data.samples import PoseSample, require_size
from .augment import Augmentation
from .recipes import Recipe


class PoseDataset(Dataset):
    """Augmented crops with joint, bone and segmentation targets.

    A key is (epoch, index). The random state depends on the recipe's seed and this pair alone, so a sample does not
    change with the number of workers or processes, and a resumed run sees what an unbroken one would have seen.

    Raises:
        UsageError: the samples have another number of joints than the recipe's skeleton.
    """

    def __init__(self, samples: list[PoseSample], recipe: Recipe) -> None:
        self.samples, self.recipe = samples, recipe
        self.skeleton = get_skeleton(recipe.skeleton)
        labelled, wanted = len(samples[0].joints), len(self.skeleton.joints)
        if labelled != wanted:
            raise UsageError(
                f"the data label {labelled} joints, the recipe's skeleton {recipe.skeleton} has {wanted}: "
                "--set skeleton=... or give other data"
            )
        self._damaged: set[Path] = set()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, torch.Tensor]:
        """Return the tensors of :meth:`make`, and ``index``, the sample's number in :attr:`samples`."""
        epoch, index = key
        tensors = self.make(self.samples[index], self.augmentation(epoch, index))
        return {**tensors, "index": torch.tensor(index)}

    def augmentation(self, epoch: int, index: int) -> Augmentation:
        """Draw what is done to a sample in an epoch."""
        return Augmentation.draw(self.recipe, np.random.default_rng((self.recipe.seed, epoch, index)))

    def make(self, sample: PoseSample, augmentation: Augmentation) -> dict[str, torch.Tensor]:
        """Make one training example.

        Returns:
            ``crop`` uint8 (H, W, 3) RGB; float32: ``joints`` (J, h, w), ``weights`` (J,), ``bones`` (B, h, w) and
            ``segmentation`` (h, w). A picture that cannot be read, or has another size than its labels say, gives a
            black crop without labels, and a line on stderr the first time.
        """
        recipe, size = self.recipe, self.recipe.input_size
        matrix = augmentation.affine(sample, self.skeleton, size)
        points, visible = augmentation.place(sample, self.skeleton, matrix)
        picture = self._read(sample)
        if picture is None:
            crop, visible = np.zeros((*size, 3), np.uint8), np.zeros_like(visible)
        else:
            crop = augmentation.recolour(warp_crop(picture, matrix, size))
        shape = (size[0] // STRIDE, size[1] // STRIDE)
        joints, weights = encode_joints(points, visible, shape, recipe.sigma)
        arrays = {
            "crop": crop,
            "joints": joints,
            "weights": weights,
            "bones": self._bones(points, visible, shape),
            "segmentation": encode_segmentation(points, visible, shape, recipe.segmentation_radius),
        }
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def _bones(
        self, points: NDArray[np.float64], visible: NDArray[np.bool_], shape: tuple[int, int]
    ) -> NDArray[np.float32]:
        if self.recipe.bone_target == "gaussian":
            return encode_bones_gaussian(points, visible, self.skeleton.bones, shape, self.recipe.sigma)
        return encode_bones(points, visible, self.skeleton.bones, shape)

    def _read(self, sample: PoseSample) -> NDArray[np.uint8] | None:
        """Return the picture, or None with a line on stderr: one damaged file must not end a run of days."""
        try:
            picture = read_image(sample.image)
            require_size(sample, picture)
            return picture
        except UsageError as error:
            if sample.image not in self._damaged:  # once per worker, not per epoch
                self._damaged.add(sample.image)
                print(f"a training picture is left out: {error}", file=sys.stderr)
            return None


class EpochSampler(Sampler):
    """Yields the (epoch, index) keys of one process's share of every full batch of an epoch.

    The order of the samples depends on seed and epoch alone. Process ``rank`` of ``world`` gets the ``rank``-th part of
    each global batch, so together the processes see the batches that one process alone would see.

    Args:
        count, seed: number of samples, and seed of their order.
        batch: samples per step over all processes together, a multiple of ``world``.
        rank, world: this process among all.

    Attributes:
        epoch: set it before iterating.
        start: batches at the beginning of the epoch to skip, because they are done; set it before iterating.
    """

    def __init__(self, count: int, seed: int, batch: int, *, rank: int = 0, world: int = 1) -> None:
        self.count, self.seed, self.batch = count, seed, batch
        self.rank, self.share = rank, batch // world
        self.epoch = self.start = 0

    def __len__(self) -> int:
        """Return the samples of this process in a whole epoch, whatever ``start`` is."""
        return self.count // self.batch * self.share

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.count)
        for step in range(self.start, self.count // self.batch):
            first = step * self.batch + self.rank * self.share
            yield from ((self.epoch, int(index)) for index in order[first : first + self.share])


class _Loader(DataLoader):
    def check_worker_number_rationality(self) -> None:
        """Print nothing: :func:`batch_loader` warns once in a line, PyTorch would in a paragraph per iterator."""


def _one_thread(_: int) -> None:
    cv2.setNumThreads(1)


def batch_loader(
    dataset: Dataset, batch: int, keys: Iterable[Any], workers: int, *, quiet: bool = False
) -> DataLoader[dict[str, torch.Tensor]]:
    """Make the loader of a training: full batches only, made by processes that use one thread each.

    Workers are spawned: OpenCV's threads, once used in this process, would leave their locks taken in a fork, and the
    children of a fork server would outlive a training run that is killed.

    Args:
        dataset: pickled to the workers.
        batch: samples per batch.
        keys: of the data set, in order: a sampler, or a sequence; its length is that of an epoch.
        workers: processes that make batches; 0 makes them in this one. A warning is printed unless ``quiet`` if there
            are more of them than cores.
    """
    cores = usable_threads()
    if workers > cores and not quiet:
        print(f"{workers} workers share {cores} cores: --workers {cores} is enough", file=sys.stderr)
    return _Loader(
        dataset,
        batch_size=batch,
        sampler=keys,
        num_workers=workers,
        drop_last=True,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_one_thread,
        multiprocessing_context="spawn" if workers else None,
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
    )


def make_loader(
    dataset: PoseDataset, workers: int, *, rank: int = 0, world: int = 1
) -> tuple[DataLoader, EpochSampler]:
    """Make a loader and the sampler that names its epoch. The loader's length is that of a whole epoch.

    Args:
        dataset: of at least ``world`` samples; with fewer than the recipe's batch, all of them are one batch.
        workers: see :func:`batch_loader`.
        rank, world: see :class:`EpochSampler`.

    Raises:
        UsageError: the processes cannot share the batch evenly.
    """
    recipe = dataset.recipe
    batch = min(recipe.batch, len(dataset)) // world * world
    if recipe.batch % world or not batch:
        raise UsageError(
            f"{world} processes cannot share batches of {min(recipe.batch, len(dataset))} evenly: "
            f"set batch to a multiple of {world}, for at least as many samples"
        )
    sampler = EpochSampler(len(dataset), recipe.seed, batch, rank=rank, world=world)
    return batch_loader(dataset, sampler.share, sampler, workers, quiet=rank > 0), sampler
