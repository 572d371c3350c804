"""SG-HRNet: Segmentation Guided Attention Networks for Human Pose Estimation (Traitement du Signal 2024, 41(5)).

HRNet whose high-resolution branch is multiplied with maps of where the joints are. The maps are learnt from labelled
joints (:func:`edgepose.core.heatmaps.encode_segmentation`), with a loss of their own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .hrnet import HRNet, HRNetConfig
from .layers import Heads, conv_bn


class SegmentationGuide(nn.Module):
    """Section 3.2: sigmoid(1x1 C->1 (ReLU(BN(3x3 C->C (f))))), float32 (N, 1, h, w) in 0..1.

    The map stays float32 under autocast: in half precision a pixel of high certainty would be exactly 0 or 1, with a
    gradient of 0.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.adapt = nn.Sequential(*conv_bn(channels, channels, 3))
        self.predict = nn.Conv2d(channels, 1, 1)

    def forward(self, features: Tensor) -> Tensor:
        return torch.sigmoid(self.predict(self.adapt(features)).float())


class SGHRNet(HRNet):
    """HRNet, by its parameter names too, with four segmentation guided modules.

    Readings: in stages 2, 3 and 4 the map is made from the high-resolution branch as it **enters** the stage, and
    multiplies that branch after its blocks, before the stage's first fusion (section 3.3, equation 4). The fourth map
    is made from stage 4's fused high-resolution output and multiplies that same output. The modules' 3x3 features are
    used for nothing else. Section 3.3 upsamples bilinearly in the fusions, against HRNet's nearest; ``config`` decides,
    and has no part in the weights, so HRNet's load either way.
    """

    def __init__(self, config: HRNetConfig, joints: int) -> None:
        super().__init__(config, joints)
        self.guides = nn.ModuleList(SegmentationGuide(config.width) for _ in range(4))

    def forward(self, images: Tensor) -> Tensor | Heads:
        """Return heat-maps (N, J, H/4, W/4) in eval mode, :class:`Heads` with the four maps by stage in train mode."""
        maps: list[Tensor] = []

        def guide(features: Tensor) -> Tensor:
            maps.append(self.guides[len(maps)](features))
            return maps[-1].to(features.dtype)

        y = self.branches(images)
        y = self.stage2(y, guide(y[0]))
        y = self.stage3([*y, self.transition2[-1](y[-1])], guide(y[0]))
        (fused,) = self.stage4([*y, self.transition3[-1](y[-1])], guide(y[0]))
        joints = self.final_layer(fused * guide(fused))
        return Heads(joints, segmentation=torch.cat(maps, dim=1)) if self.training else joints
