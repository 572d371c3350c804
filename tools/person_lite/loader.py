"""Make batches of composed pictures and their targets, in the loader's workers."""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from edgepose.train.loader import batch_loader
from tools.person_lite.mosaic import compose
from tools.person_lite.recipe import DetectorRecipe
from tools.person_lite.scenes import Scene
from tools.person_lite.targets import encode


class SceneDataset(Dataset):
    """Sample ``i`` is the ``i``-th picture of the run: it depends on the seed and that number alone.

    Args:
        groups: scenes by their source, in the order of ``recipe.shares``.
        recipe: of the run.
    """

    def __init__(self, groups: list[list[Scene]], recipe: DetectorRecipe) -> None:
        self.groups, self.recipe = groups, recipe

    def __len__(self) -> int:
        return self.recipe.steps * self.recipe.batch

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Return ``images`` uint8 (H, W, 3), and the maps of :class:`~tools.person_lite.targets.Targets`."""
        made = compose(self.groups, self.recipe, np.random.default_rng((self.recipe.seed, index)))
        targets = encode(made.boxes, made.ignored, self.recipe.size)
        arrays = {"images": made.image, **targets._asdict()}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def make_loader(dataset: SceneDataset, first_step: int, workers: int) -> DataLoader:
    """Make the loader of a run's batches from a step on; they need no shuffling, their pictures are random already."""
    batch = dataset.recipe.batch
    return batch_loader(dataset, batch, range(first_step * batch, len(dataset)), workers)
