"""What several test files share."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from torch import nn

_SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference numbers and real images beside the project; a test that needs it skips without it."""
    if not _SHARED.is_dir():
        pytest.skip("needs the reference data beside the project (../shared)")
    return _SHARED


@pytest.fixture(scope="session")
def liven() -> Callable[[nn.Module, np.ndarray], nn.Module]:
    """See :func:`_liven`."""
    return _liven


def _liven(network: nn.Module, crops: np.ndarray) -> nn.Module:
    """Give a network random weights whose heat-maps have distinct peaks, as trained ones do; in eval mode.

    Every weight depends on its name alone. Batch norms learn their statistics from ``crops`` (N, H, W, 3) uint8, so
    every layer's outputs have the spread that its next layer expects, and no part fades to zero.
    """
    import torch

    from edgepose.train.models.contract import normalise

    with torch.no_grad():
        for name, value in network.named_parameters():
            noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(value.shape)
            if value.ndim > 1:
                noise *= 0.8 / np.sqrt(np.prod(value.shape[1:]))
            else:
                noise = 0.1 * noise + name.endswith("weight")
            value.copy_(torch.from_numpy(noise))
        norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over the batches
        network.train()(normalise(torch.from_numpy(crops)))
        for norm in norms:
            norm.momentum = 0.1
    return network.eval()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ``ditn_lite`` checkpoint with lively weights: skeleton lsp14, crops of 64x64. Read only."""
    pytest.importorskip("torch")
    pytest.importorskip("skimage")
    from edgepose.export.bundle import golden_crops
    from edgepose.train.checkpoint import ModelSpec, save_checkpoint

    spec = ModelSpec("ditn_lite", "lsp14", (64, 64))
    path = tmp_path_factory.mktemp("checkpoint") / "lively.safetensors"
    save_checkpoint(path, _liven(spec.build(), golden_crops(spec.input_size)), spec)
    return path


@pytest.fixture(scope="session")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of :func:`checkpoint`. Read only: copy it to change it."""
    for module in ("onnx", "onnxscript", "onnxsim"):
        pytest.importorskip(module)
    from edgepose.export.bundle import export

    return export(None, tmp_path_factory.mktemp("exported") / "lively.edgepose", weights=checkpoint).path
