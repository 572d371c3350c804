"""The detector's weights on disk."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from edgepose.core.files import atomic_path
from edgepose.models.checkpoint import load_weights
from edgepose.models.person_lite import PersonLite


def save_detector(path: Path, network: nn.Module) -> None:
    """Write the weights to a safetensors file, under a temporary name first."""
    from safetensors.torch import save_file

    tensors = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary)


def load_detector(path: Path) -> PersonLite:
    """The network with weights from a file, in eval mode.

    Raises:
        UsageError: the file cannot be read, or holds the weights of another network.
    """
    network = PersonLite()
    load_weights(network, path)
    return network.eval()
