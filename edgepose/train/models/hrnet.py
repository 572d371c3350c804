"""HRNet (Sun et al., CVPR 2019), with the parameter names of the official pose implementation.

Its checkpoints therefore load unchanged: ``stage2.0.branches.0.0.conv1.weight`` means the same tensor here and there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .heads import Heads


@dataclass(frozen=True)
class HRNetConfig:
    """Widths and depths of one HRNet.

    Attributes:
        width: channels C of the high-resolution branch; branch i has C * 2**i.
        modules: number of exchange modules in stages 2, 3 and 4.
        blocks: basic blocks per branch and module.
        stem: channels of the two stride-2 convolutions.
        bottleneck: inner channels of stage 1's bottlenecks (output is four times that).
        bottlenecks: number of bottlenecks in stage 1.
    """

    width: int
    modules: tuple[int, int, int] = (1, 4, 3)
    blocks: int = 4
    stem: int = 64
    bottleneck: int = 64
    bottlenecks: int = 4


HRNET_W32 = HRNetConfig(width=32)
HRNET_W48 = HRNetConfig(width=48)


def conv_bn(cin: int, cout: int, kernel: int, *, stride: int = 1, relu: bool = True) -> list[nn.Module]:
    """Convolution without bias, padding k // 2, then batch norm and, if asked, ReLU."""
    layers: list[nn.Module] = [
        nn.Conv2d(cin, cout, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(cout),
    ]
    return layers + ([nn.ReLU(inplace=True)] if relu else [])


def heatmap_head(cin: int, cout: int) -> nn.Conv2d:
    """The 1x1 convolution that ends in heat-maps; it starts at Normal(0, 0.001) and no bias, as the official pose code.

    PyTorch's own start makes heat-maps of order 1, and the features spend the first epochs unlearning them.
    """
    head = nn.Conv2d(cin, cout, 1)
    nn.init.normal_(head.weight, std=0.001)
    nn.init.zeros_(head.bias)
    return head


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with an identity shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_bn(channels, channels, 3, relu=False)
        self.relu = nn.ReLU(inplace=True)
        self.conv2, self.bn2 = conv_bn(channels, channels, 3, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + x)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with four times the planes at the output; a projection where the channels change."""

    expansion = 4

    def __init__(self, cin: int, planes: int) -> None:
        super().__init__()
        cout = planes * self.expansion
        self.conv1, self.bn1 = conv_bn(cin, planes, 1, relu=False)
        self.conv2, self.bn2 = conv_bn(planes, planes, 3, relu=False)
        self.conv3, self.bn3 = conv_bn(planes, cout, 1, relu=False)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None if cin == cout else nn.Sequential(*conv_bn(cin, cout, 1, relu=False))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


def _exchange_path(channels: list[int], source: int, target: int) -> nn.Module:
    """From branch ``source`` to branch ``target``: 1x1 and nearest upsampling, or a chain of stride-2 3x3."""
    if source == target:
        return nn.Identity()
    if source > target:
        up = nn.Upsample(scale_factor=2 ** (source - target), mode="nearest")
        return nn.Sequential(*conv_bn(channels[source], channels[target], 1, relu=False), up)
    steps = target - source
    return nn.Sequential(
        *(
            nn.Sequential(
                *conv_bn(
                    channels[source],
                    channels[target] if step == steps - 1 else channels[source],
                    3,
                    stride=2,
                    relu=step < steps - 1,
                )
            )
            for step in range(steps)
        )
    )


class ExchangeModule(nn.Module):
    """Parallel branches of basic blocks, then a sum of every branch into every resolution (the fuse layers)."""

    def __init__(self, channels: list[int], blocks: int, outputs: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(*(BasicBlock(c) for _ in range(blocks))) for c in channels)
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(_exchange_path(channels, source, target) for source in range(len(channels)))
            for target in range(outputs)
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        features = [branch(f) for branch, f in zip(self.branches, features, strict=True)]
        fused = []
        for paths in self.fuse_layers:
            first, *rest = (path(f) for path, f in zip(paths, features, strict=True))
            fused.append(self.relu(sum(rest, start=first)))
        return fused


class Stage(nn.Sequential):
    """Exchange modules in a row; the last may keep only the high-resolution output."""

    def __init__(self, channels: list[int], modules: int, blocks: int, *, high_only: bool = False) -> None:
        last = 1 if high_only else len(channels)
        super().__init__(
            *(ExchangeModule(channels, blocks, last if i == modules - 1 else len(channels)) for i in range(modules))
        )


class HRNet(nn.Module):
    """HRNet as a heat-map network, or as a backbone when ``joints`` is None.

    Args:
        config: widths and depths.
        joints: number of heat-maps, or None for a network without ``final_layer`` that returns features
            (N, width, H/4, W/4).
    """

    def __init__(self, config: HRNetConfig, joints: int | None) -> None:
        super().__init__()
        self.config = config
        c = [config.width * 2**i for i in range(4)]
        self.conv1, self.bn1 = conv_bn(3, config.stem, 3, stride=2, relu=False)
        self.conv2, self.bn2 = conv_bn(config.stem, config.stem, 3, stride=2, relu=False)
        self.relu = nn.ReLU(inplace=True)
        wide = config.bottleneck * Bottleneck.expansion
        self.layer1 = nn.Sequential(
            *(Bottleneck(config.stem if i == 0 else wide, config.bottleneck) for i in range(config.bottlenecks))
        )
        self.transition1 = nn.ModuleList(
            [nn.Sequential(*conv_bn(wide, c[0], 3)), nn.Sequential(nn.Sequential(*conv_bn(wide, c[1], 3, stride=2)))]
        )
        self.stage2 = Stage(c[:2], config.modules[0], config.blocks)
        self.transition2 = self._new_branch(c, 2)
        self.stage3 = Stage(c[:3], config.modules[1], config.blocks)
        self.transition3 = self._new_branch(c, 3)
        self.stage4 = Stage(c, config.modules[2], config.blocks, high_only=True)
        self.final_layer = nn.Identity() if joints is None else heatmap_head(c[0], joints)

    @staticmethod
    def _new_branch(channels: list[int], index: int) -> nn.ModuleList:
        """Only the new branch has weights; the slots before it keep the official names' numbering."""
        down = conv_bn(channels[index - 1], channels[index], 3, stride=2)
        return nn.ModuleList([nn.Identity() for _ in range(index)] + [nn.Sequential(nn.Sequential(*down))])

    def features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) normalised images to (N, width, H/4, W/4) features."""
        x = self.relu(self.bn1(self.conv1(images)))
        x = self.layer1(self.relu(self.bn2(self.conv2(x))))
        y = self.stage2([transition(x) for transition in self.transition1])
        y = self.stage3([*y, self.transition2[-1](y[-1])])
        y = self.stage4([*y, self.transition3[-1](y[-1])])
        return y[0]

    def forward(self, images: Tensor) -> Tensor | Heads:
        """Heat-maps (N, J, H/4, W/4) in eval mode, :class:`Heads` in train mode; features for a backbone."""
        y = self.final_layer(self.features(images))
        is_backbone = isinstance(self.final_layer, nn.Identity)
        return Heads(joints=y) if self.training and not is_backbone else y


def macs(model: nn.Module, input_size: tuple[int, int]) -> int:
    """Multiply-accumulates of all convolutions for one image of (height, width), counted by running it once.

    The per-sample dynamic convolution counts like the static depthwise convolution it replaces.
    """
    from ...plugins.torch_op import DynamicDepthwiseConv2d

    total = 0

    def count(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Conv2d):
            total += output[0].numel() * layer.weight[0].numel()
        else:
            total += output[0].numel() * args[1].shape[-2] * args[1].shape[-1]

    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | DynamicDepthwiseConv2d)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, 3, *input_size, device=next(model.parameters()).device))
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return total
