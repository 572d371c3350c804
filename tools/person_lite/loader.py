"""Batches of composed pictures and their targets, made in the loader's workers."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from tools.person_lite.mosaic import compose
from tools.person_lite.recipe import Setup
from tools.person_lite.scenes import Scene
from tools.person_lite.targets import encode


class SceneDataset(Dataset):
    """Sample ``i`` is the ``i``-th picture of the run: it depends on the seed and that number alone.

    Args:
        groups: scenes by where they are from, in the order of ``setup.shares``.
        setup: the set-up.
    """

    def __init__(self, groups: list[list[Scene]], setup: Setup) -> None:
        self.groups, self.setup = groups, setup

    def __len__(self) -> int:
        return self.setup.steps * self.setup.batch

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """``images`` uint8 (H, W, 3), and the maps of :class:`~tools.person_lite.targets.Targets`."""
        made = compose(self.groups, self.setup, np.random.default_rng((self.setup.seed, index)))
        targets = encode(made.boxes, made.ignored, self.setup.size)
        arrays = {"images": made.image, **targets._asdict()}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def make_loader(dataset: SceneDataset, first_step: int, workers: int) -> DataLoader:
    """The batches of a run from a step on, in order: the pictures are random already.

    Workers are spawned: OpenCV's threads, once used in this process, would leave their locks taken in a fork.
    """
    return DataLoader(
        dataset,
        batch_size=dataset.setup.batch,
        sampler=range(first_step * dataset.setup.batch, len(dataset)),
        num_workers=workers,
        worker_init_fn=_one_thread,
        multiprocessing_context="spawn" if workers else None,
        prefetch_factor=4 if workers else None,
    )


def _one_thread(_: int) -> None:
    cv2.setNumThreads(1)
