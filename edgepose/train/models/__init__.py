"""The networks. :func:`build_model` makes one by name."""

from __future__ import annotations

import torch
from torch import nn

from ...errors import UsageError
from ...skeletons import get_skeleton
from .ditn import DITN, DitnSwitches
from .heads import Heads
from .hrnet import HRNET_W32, HRNET_W48, HRNet, HRNetConfig, macs

#: The backbone of ``ditn_lite``: slim stem and stage 1, fewer modules, half the blocks. 0.5 GMAC at 256x192.
HRNET_LITE = HRNetConfig(width=16, modules=(1, 2, 1), blocks=2, stem=24, bottleneck=16, bottlenecks=2)

_HRNETS = {"hrnet_w32": HRNET_W32, "hrnet_w48": HRNET_W48}
_DITNS = {"ditn_hrnet_w32": HRNET_W32, "ditn_lite": HRNET_LITE}
MODELS = (*_HRNETS, *_DITNS)

__all__ = ["DITN", "MODELS", "DitnSwitches", "HRNet", "HRNetConfig", "Heads", "build_model", "macs"]


def build_model(
    name: str,
    *,
    skeleton: str = "coco17",
    input_size: tuple[int, int] = (256, 192),
    seed: int = 0,
    **options: bool,
) -> nn.Module:
    """Build a network by name, with weights drawn from ``seed``.

    In eval mode ``model(images)`` takes normalised float (N, 3, H, W) and returns heat-maps (N, J, H/4, W/4); in train
    mode it returns :class:`Heads`.

    Args:
        name: one of :data:`MODELS`.
        skeleton: skeleton id, see :mod:`edgepose.skeletons`.
        input_size: (height, width) of the crops, multiples of 32.
        seed: of the initial weights; the global random state is left as it was.
        options: DITN's ablation switches ``mtl``, ``ditm``, ``cab``, ``sab``.

    Raises:
        UsageError: unknown name, skeleton or option, or a size that the network cannot take.
    """
    if name not in MODELS:
        raise UsageError(f"unknown model {name!r}: expected one of {', '.join(MODELS)}")
    if any(side <= 0 or side % 32 for side in input_size):
        raise UsageError(f"input size {input_size[0]}x{input_size[1]}: both sides must be positive multiples of 32")
    bones = get_skeleton(skeleton)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name in _HRNETS:
            if options:
                raise UsageError(f"{name} has no options, got {', '.join(options)}")
            return HRNet(_HRNETS[name], len(bones.joints))
        try:
            switches = DitnSwitches(**options)
        except (TypeError, ValueError) as error:
            raise UsageError(f"{name}: {error}") from error
        if switches.ditm and min(input_size) < 64:
            raise UsageError(
                f"input size {input_size[0]}x{input_size[1]}: {name} makes its kernels from the maps, which takes 64 "
                "pixels or more on both sides"
            )
        return DITN(_DITNS[name], bones, switches)
