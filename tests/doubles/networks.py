"""Networks of tests: with the weights of the reference results, or with shapes alone."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import cache

import numpy as np
import torch

from edgepose.models import build_model


@cache
def shapes_only(name: str, skeleton: str = "coco17") -> torch.nn.Module:
    """A network on the meta device: sizes and shapes, no values. Not to be changed, but for its mode."""
    with torch.device("meta"):
        return build_model(name, skeleton=skeleton)


def fill(key: str, shape: tuple[int, ...]) -> np.ndarray | None:
    """The weights called ``key`` there: a normal draw per name; None for a counter, which stays 0."""
    if key.endswith("num_batches_tracked"):
        return None
    n = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape)
    if key.endswith("running_mean"):
        v = 0.1 * n
    elif key.endswith("running_var"):
        v = 1.0 + 0.1 * np.abs(n)
    elif len(shape) >= 2:
        v = n * (0.8 / np.sqrt(np.prod(shape[1:])))
    else:
        v = 1.0 + 0.1 * n if key.endswith("weight") else 0.1 * n
    return v.astype(np.float32)


def state_of(keys: list[list]) -> dict[str, torch.Tensor]:
    """A checkpoint's state dict from a reference's ``[[name, shape, dtype], ...]``."""
    arrays = {name: fill(name, tuple(shape)) for name, shape, *_ in keys}
    counter = torch.zeros((), dtype=torch.int64)
    return {name: counter if array is None else torch.from_numpy(array) for name, array in arrays.items()}


def filled(network: torch.nn.Module, name_of: Callable[[str], str] = str) -> torch.nn.Module:
    """``network`` in eval mode with weights by name; ``name_of`` maps its names to the reference's."""
    state = {}
    for key, value in network.state_dict().items():
        values = fill(name_of(key), tuple(value.shape))
        state[key] = value if values is None else torch.from_numpy(values)
    network.load_state_dict(state)
    return network.eval()


def images_of(seed: int, *shape: int) -> torch.Tensor:
    """The input of a reference model."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))
