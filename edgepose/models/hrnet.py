"""HRNet (Sun et al., CVPR 2019), with the parameter names of the official pose implementation.

Its checkpoints therefore load unchanged: ``stage2.0.branches.0.0.conv1.weight`` is the same tensor in both.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from .layers import BasicBlock, Bottleneck, Heads, conv_bn, heatmap_head


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
        upsample: how a branch reaches a higher resolution, ``nearest`` or ``bilinear``.
    """

    width: int
    modules: tuple[int, int, int] = (1, 4, 3)
    blocks: int = 4
    stem: int = 64
    bottleneck: int = 64
    bottlenecks: int = 4
    upsample: str = "nearest"


HRNET_W32 = HRNetConfig(width=32)
HRNET_W48 = HRNetConfig(width=48)


def _exchange_path(channels: list[int], source: int, target: int, upsample: str) -> nn.Module:
    """Build the path from branch ``source`` to branch ``target``: 1x1 and upsampling, or a chain of stride-2 3x3."""
    if source == target:
        return nn.Identity()
    if source > target:
        up = nn.Upsample(scale_factor=2 ** (source - target), mode=upsample)
        return nn.Sequential(*conv_bn(channels[source], channels[target], 1, relu=False), up)
    cin, cout = channels[source], channels[target]
    steps = [nn.Sequential(*conv_bn(cin, cin, 3, stride=2)) for _ in range(target - source - 1)]
    return nn.Sequential(*steps, nn.Sequential(*conv_bn(cin, cout, 3, stride=2, relu=False)))


class ExchangeModule(nn.Module):
    """Parallel branches of basic blocks, then a sum of every branch into every resolution (the fuse layers)."""

    def __init__(self, channels: list[int], config: HRNetConfig, outputs: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(*(BasicBlock(c) for _ in range(config.blocks))) for c in channels)
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(_exchange_path(channels, source, target, config.upsample) for source in range(len(channels)))
            for target in range(outputs)
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, features: list[Tensor], attention: Tensor | None = None) -> list[Tensor]:
        """Fuse the branches; ``attention`` (N, 1, h, w) multiplies the high-resolution branch before that."""
        features = [branch(f) for branch, f in zip(self.branches, features, strict=True)]
        if attention is not None:
            features[0] = features[0] * attention
        fused = []
        for paths in self.fuse_layers:
            first, *rest = (path(f) for path, f in zip(paths, features, strict=True))
            fused.append(self.relu(sum(rest, start=first)))
        return fused


class Stage(nn.Sequential):
    """Exchange modules in a row; the last may keep only the high-resolution output."""

    def __init__(self, channels: list[int], config: HRNetConfig, modules: int, *, high_only: bool = False) -> None:
        last = 1 if high_only else len(channels)
        super().__init__(
            *(ExchangeModule(channels, config, last if i == modules - 1 else len(channels)) for i in range(modules))
        )

    def forward(self, features: list[Tensor], attention: Tensor | None = None) -> list[Tensor]:
        """Pass the branches through every module; the first one takes ``attention``."""
        first, *rest = self
        features = first(features, attention)
        for module in rest:
            features = module(features)
        return features


class HRNet(nn.Module):
    """HRNet as a heat-map network, or as a backbone when ``joints`` is None.

    Args:
        config: widths and depths.
        joints: number of heat-maps, or None for a network without ``final_layer`` that returns features
            (N, :attr:`channels`, H/4, W/4).
    """

    def __init__(self, config: HRNetConfig, joints: int | None) -> None:
        super().__init__()
        self.channels = config.width
        c = [config.width * 2**i for i in range(4)]
        self.conv1, self.bn1 = conv_bn(3, config.stem, 3, stride=2, relu=False)
        self.conv2, self.bn2 = conv_bn(config.stem, config.stem, 3, stride=2, relu=False)
        self.relu = nn.ReLU(inplace=True)
        wide = config.bottleneck * Bottleneck.expansion
        self.layer1 = nn.Sequential(
            Bottleneck(config.stem, config.bottleneck, project=True),
            *(Bottleneck(wide, config.bottleneck) for _ in range(config.bottlenecks - 1)),
        )
        self.transition1 = nn.ModuleList(
            [nn.Sequential(*conv_bn(wide, c[0], 3)), nn.Sequential(nn.Sequential(*conv_bn(wide, c[1], 3, stride=2)))]
        )
        self.stage2 = Stage(c[:2], config, config.modules[0])
        self.transition2 = self._new_branch(c, 2)
        self.stage3 = Stage(c[:3], config, config.modules[1])
        self.transition3 = self._new_branch(c, 3)
        self.stage4 = Stage(c, config, config.modules[2], high_only=True)
        self.final_layer = nn.Identity() if joints is None else heatmap_head(c[0], joints)

    @staticmethod
    def _new_branch(channels: list[int], index: int) -> nn.ModuleList:
        """Build the new branch; the empty slots before it keep the numbers in the official names."""
        down = conv_bn(channels[index - 1], channels[index], 3, stride=2)
        return nn.ModuleList([nn.Identity() for _ in range(index)] + [nn.Sequential(nn.Sequential(*down))])

    def branches(self, images: Tensor) -> list[Tensor]:
        """Map normalised images (N, 3, H, W) to the two branches that enter stage 2, at H/4 and H/8."""
        x = self.relu(self.bn1(self.conv1(images)))
        x = self.layer1(self.relu(self.bn2(self.conv2(x))))
        return [transition(x) for transition in self.transition1]

    def features(self, images: Tensor) -> Tensor:
        """Map normalised images (N, 3, H, W) to features (N, channels, H/4, W/4)."""
        y = self.stage2(self.branches(images))
        y = self.stage3([*y, self.transition2[-1](y[-1])])
        return self.stage4([*y, self.transition3[-1](y[-1])])[0]

    def forward(self, images: Tensor) -> Tensor | Heads:
        """Return heat-maps (N, J, H/4, W/4) in eval mode, :class:`Heads` in train mode; a backbone returns features."""
        y = self.final_layer(self.features(images))
        is_backbone = isinstance(self.final_layer, nn.Identity)
        return Heads(joints=y) if self.training and not is_backbone else y
