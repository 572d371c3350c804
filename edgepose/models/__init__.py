"""Build networks by name: :func:`build_model`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from ..core.errors import UsageError
from ..core.skeletons import Skeleton, get_skeleton
from .cost import macs, macs_by_layer
from .ditn import DITN, DitnSwitches
from .hrnet import HRNET_W32, HRNET_W48, HRNet, HRNetConfig
from .layers import Heads
from .resnet import HSRNETS, RESNETS, ResNetConfig, ResNetPose
from .sg_hrnet import SGHRNet
from .yolov3 import YOLOv3

#: The backbone of ``ditn_lite``: slim stem and stage 1, fewer modules, half the blocks. 0.5 GMAC at 256x192.
HRNET_LITE = HRNetConfig(width=16, modules=(1, 2, 1), blocks=2, stem=24, bottleneck=16, bottlenecks=2)
#: ResNets about as large as ``HRNET_LITE``: a quarter or a third of the width, fewer blocks.
RESNET_LITE = ResNetConfig((2, 2, 3, 2), width=16)
HSRNET_LITE = ResNetConfig((2, 2, 3, 1, 1), width=20)


def _hrnet(config: HRNetConfig, skeleton: Skeleton) -> nn.Module:
    return HRNet(config, len(skeleton.joints))


def _resnet(config: ResNetConfig, skeleton: Skeleton, deconv_kernel: int = 4) -> nn.Module:
    return ResNetPose(config, len(skeleton.joints), kernel=deconv_kernel)


def _hsr_msnet(
    config: ResNetConfig, skeleton: Skeleton, deconv_kernel: int = 4, multiscale: bool = True, se: bool = True
) -> nn.Module:
    return _resnet(replace(config, multiscale=multiscale, se=se), skeleton, deconv_kernel)


def _ditn(config: HRNetConfig | ResNetConfig, skeleton: Skeleton, **switches: Any) -> nn.Module:
    chosen = DitnSwitches(**switches)
    backbone = HRNet(config, None) if isinstance(config, HRNetConfig) else ResNetPose(config, None)
    return DITN(backbone, skeleton, chosen)


def _sg_hrnet(config: HRNetConfig, skeleton: Skeleton, bilinear: bool = True) -> nn.Module:
    return SGHRNet(replace(config, upsample="bilinear" if bilinear else "nearest"), len(skeleton.joints))


#: Allowed values per option.
_Values = Mapping[str, tuple[bool | int, ...]]
_SWITCHES: _Values = {**dict.fromkeys(("mtl", "ditm", "cab", "sab", "gate_relu"), (False, True)), "form": (1, 2)}
_KERNELS: _Values = {"deconv_kernel": (2, 3, 4)}
_HSR_MSNET: _Values = {**_KERNELS, "multiscale": (False, True), "se": (False, True)}
_BILINEAR: _Values = {"bilinear": (False, True)}
#: Options whose default has changed: what a file means that does not name them, and the default now.
_CHANGED: Mapping[str, tuple[bool | int, bool | int]] = {"form": (1, 2), "bilinear": (False, True)}
#: By name: the function that builds the network for a skeleton, and the options it takes.
_HEATMAP: dict[str, tuple[Callable[..., nn.Module], _Values]] = {
    "hrnet_w32": (partial(_hrnet, HRNET_W32), {}),
    "hrnet_w48": (partial(_hrnet, HRNET_W48), {}),
    **{f"simplebaseline_r{depth}": (partial(_resnet, config), _KERNELS) for depth, config in RESNETS.items()},
    "ditn_hrnet_w32": (partial(_ditn, HRNET_W32), _SWITCHES),
    "ditn_resnet50": (partial(_ditn, RESNETS[50]), _SWITCHES),
    "ditn_lite": (partial(_ditn, HRNET_LITE), _SWITCHES),
    "sg_hrnet_w32": (partial(_sg_hrnet, HRNET_W32), _BILINEAR),
    **{f"hsrnet_{depth}": (partial(_resnet, config), _KERNELS) for depth, config in HSRNETS.items()},
    **{f"hsr_msnet_{depth}": (partial(_hsr_msnet, config), _HSR_MSNET) for depth, config in HSRNETS.items()},
    "hrnet_lite": (partial(_hrnet, HRNET_LITE), {}),
    "sg_hrnet_lite": (partial(_sg_hrnet, HRNET_LITE), _BILINEAR),
    "simplebaseline_lite": (partial(_resnet, RESNET_LITE), _KERNELS),
    "hsr_msnet_lite": (partial(_hsr_msnet, HSRNET_LITE), _HSR_MSNET),
}

#: Names of the networks that give joint heat-maps.
HEATMAP_MODELS = tuple(_HEATMAP)
MODELS = (*HEATMAP_MODELS, "yolov3")

__all__ = [
    "DITN",
    "HEATMAP_MODELS",
    "MODELS",
    "DitnSwitches",
    "HRNet",
    "HRNetConfig",
    "Heads",
    "ResNetConfig",
    "ResNetPose",
    "SGHRNet",
    "YOLOv3",
    "build_model",
    "macs",
    "macs_by_layer",
    "named_options",
]


def build_model(
    name: str,
    *,
    skeleton: str = "coco17",
    input_size: tuple[int, int] = (256, 192),
    seed: int = 0,
    **options: bool | int,
) -> nn.Module:
    """Build a network by name, with weights drawn from ``seed``.

    In eval mode ``model(images)`` takes normalised float (N, 3, H, W) and returns heat-maps (N, J, H/4, W/4); in train
    mode it returns :class:`Heads`. ``yolov3`` is an exception: see :class:`YOLOv3` for its input and output.

    Args:
        name: one of :data:`MODELS`.
        skeleton: skeleton id, see :mod:`edgepose.core.skeletons`.
        input_size: (height, width) of the crops, multiples of 32.
        seed: of the initial weights; the global random state is left as it was.
        options: DITN's :class:`~edgepose.models.ditn.DitnSwitches`; ``bilinear`` (default) or nearest upsampling in
            SG-HRNet's fusions; ``deconv_kernel`` 2, 3 or 4 of SimpleBaseline, HSRNet and HSR-MSNet; HSR-MSNet's
            switches ``multiscale`` and ``se`` (without both it is HSRNet).

    Raises:
        UsageError: unknown name, skeleton or option, or a size that the network cannot take.
    """
    if name not in MODELS:
        raise UsageError(f"unknown model {name!r}: expected one of {', '.join(MODELS)}")
    if any(side <= 0 or side % 32 for side in input_size):
        raise UsageError(f"input size {input_size[0]}x{input_size[1]}: both sides must be positive multiples of 32")
    bones = get_skeleton(skeleton)
    build, values = _HEATMAP.get(name, (lambda _: YOLOv3(), {}))
    _check_options(name, options, values)
    if "ditm" in values and options.get("ditm", True) and min(input_size) < 64:
        raise UsageError(
            f"input size {input_size[0]}x{input_size[1]}: {name} makes its kernels from the maps and needs 64 pixels "
            "or more on both sides"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(bones, **options)


def named_options(name: str, options: Mapping[str, Any], *, in_file: bool = False) -> dict[str, Any]:
    """Return the options of a network with those named whose default has changed since files were first written.

    Files that do not name them (``in_file``) were written before that, and mean the former default.
    """
    _, values = _HEATMAP.get(name, (None, {}))
    changed = {option: pair[not in_file] for option, pair in _CHANGED.items() if option in values}
    return {**changed, **options}


def _check_options(name: str, options: Mapping[str, object], values: _Values) -> None:
    for option, value in options.items():
        if not values:
            raise UsageError(f"{name} has no options, got {', '.join(options)}")
        if option not in values:
            raise UsageError(f"{name} has no option {option!r}: expected one of {', '.join(values)}")
        allowed = values[option]
        if type(value) is not type(allowed[0]) or value not in allowed:
            listed = f"{', '.join(map(str, allowed[:-1]))} or {allowed[-1]}"
            raise UsageError(f"{name}: {option} must be {listed}, got {value!r}")
