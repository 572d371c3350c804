"""DITN: Human Pose Estimation via Dynamic Information Transfer (Electronics 2023, 12, 695).

Two decoders on one backbone make joint and bone features; the bone features predict, per sample and bone, the kernels
of a depthwise convolution over the joint features; channel and spatial attention refine the result. Sizes are those of
Table 8: 256x256 input, 64x64 maps, J = 16 joints, B = 15 bones. Where the paper is silent or contradicts itself, the
reading chosen is named in the docstring of the class it decides. "Authors' code" is development code of the first
author, a year older than the paper: github.com/onerow2star/cplusplus_primer, revison/lib.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import UsageError
from ..core.skeletons import Skeleton
from ..plugins.torch_op import DynamicDepthwiseConv2d
from .hrnet import HRNet
from .layers import Heads, conv_bn, heatmap_head
from .resnet import ResNetPose

#: Initial weight of the last batch norm before the heat-maps, so that training starts from heat-maps near zero.
_START = 0.02
#: Initial weight of the channel attention's batch norm, relative to the features it is added to.
_TRANSFERRED = 0.1


@dataclass(frozen=True)
class DitnSwitches:
    """Switches for the parts of DITN, the rows of Table 5, and between readings of the paper.

    Attributes:
        mtl: the two decoders and the bone loss.
        ditm: dynamic information transfer (parameter adapter, adaptive convolution); needs ``mtl``.
        cab: channel attention on the bone-induced features; needs ``ditm``.
        sab: spatial attention on the joint features; needs ``ditm``.
        gate_relu: ReLU before the sigmoid of both attentions (Table 8), which keeps their maps in 0.5..1.
        form: 2, or 1 for weights trained before the authors' code was known. Form 1 has the ReLU before the addition in
            the decoders, no BN in the channel attention's gate, no ReLU in either gate, the mean over a joint's bones
            in place of the sum, and MPII's shoulders joined to the thorax.
    """

    mtl: bool = True
    ditm: bool = True
    cab: bool = True
    sab: bool = True
    gate_relu: bool = True
    form: int = 2

    def __post_init__(self) -> None:
        if self.ditm and not self.mtl:
            raise UsageError("DITN: ditm=True needs mtl=True, the bone decoder it transfers from")
        if (self.cab or self.sab) and not self.ditm:
            raise UsageError("DITN: cab=True and sab=True need ditm=True, whose features they refine")


class Decoder(nn.Module):
    """1x1 C->2C, 3x3 2C->C, add the input, ReLU, 1x1 C->outputs. 21.2 k parameters.

    ReLU comes after the addition, as in a basic block (authors' code); form 1 has it before. ``linear=True`` ends in a
    1x1 with bias, because its output is a heat-map itself. Reading: otherwise BN and ReLU follow, because it makes
    features (Table 8).
    """

    def __init__(self, channels: int, outputs: int, *, linear: bool, form: int = 2) -> None:
        super().__init__()
        self.expand = nn.Sequential(*conv_bn(channels, 2 * channels, 1))
        self.reduce = nn.Sequential(*conv_bn(2 * channels, channels, 3, relu=form == 1))
        self.relu = nn.Identity() if form == 1 else nn.ReLU()
        self.head = heatmap_head(channels, outputs) if linear else nn.Sequential(*conv_bn(channels, outputs, 1))

    def forward(self, features: Tensor) -> Tensor:
        return self.head(self.relu(self.reduce(self.expand(features)) + features))


class ParameterAdapter(nn.Module):
    """Makes the kernels theta of the adaptive convolution from bone features, per bone (groups = B). 1.6 k parameters.

    (N, 2B, 64, 64) becomes (N, 2B, 7, 7), (N, 2B, 64, 48) becomes (N, 2B, 7, 5). Reading: no BN and no ReLU, as Table 8
    says, against the text; of an even side (96x72 gives 11x8) the last row or column is left out.
    """

    def __init__(self, bones: int) -> None:
        super().__init__()
        channels = 2 * bones
        self.conv1 = nn.Conv2d(channels, channels, 3, stride=2, groups=bones, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, groups=bones, bias=False)
        self.conv3 = nn.Conv2d(channels, channels, 3, padding=1, groups=bones, bias=False)

    def forward(self, bones: Tensor) -> Tensor:
        theta = F.max_pool2d(self.conv1(bones), 2)
        theta = self.conv3(F.max_pool2d(self.conv2(theta), 2))
        height, width = theta.shape[-2:]
        return theta[..., : height - (height + 1) % 2, : width - (width + 1) % 2]


class ChannelAttention(nn.Module):
    """Equation 4 per bone: (1 + sigmoid(ReLU(BN(1x1(avg(g)))))) * g with g = ReLU(BN(3x3(x))). 750 parameters.

    Reading: the equation's 1x1 with bias and global pooling, with BN and ReLU as in Table 8 and the authors' code. That
    BN sees one value per sample and channel, so training needs two samples or more.
    """

    def __init__(self, bones: int, *, gate_relu: bool = True, form: int = 2) -> None:
        super().__init__()
        channels = 2 * bones
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, groups=bones, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.gate = nn.Conv2d(channels, channels, 1, groups=bones)
        self.gate_bn = nn.Identity() if form == 1 else nn.BatchNorm2d(channels)
        self.gate_relu = nn.ReLU() if gate_relu and form > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        g = F.relu(self.bn(self.conv(x)))
        gate = self.gate_relu(self.gate_bn(self.gate(g.mean(dim=(2, 3), keepdim=True))))
        return (1 + torch.sigmoid(gate)) * g


class SpatialAttention(nn.Module):
    """Equation 5: (1 + sigmoid(DW9x9(1x1(g)))) * g with g = ReLU(BN(3x3(x))). 4.0 k parameters.

    Reading: BN and ReLU after the 1x1 and after the depthwise convolution (Table 8, authors' code), so the map lies in
    [0.5, 1). The 3x3 starts as the identity and its BN small, so that training starts from heat-maps near zero, each
    driven by its own joint's features.
    """

    def __init__(self, joints: int, *, gate_relu: bool = True, form: int = 2) -> None:
        super().__init__()
        self.residual = nn.Sequential(*conv_bn(joints, joints, 3))
        nn.init.dirac_(self.residual[0].weight)
        nn.init.constant_(self.residual[1].weight, _START)
        self.point = nn.Sequential(*conv_bn(joints, joints, 1))
        self.depth = nn.Conv2d(joints, joints, 9, padding=4, groups=joints, bias=False)
        self.bn = nn.BatchNorm2d(joints)
        self.gate_relu = nn.ReLU() if gate_relu and form > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        g = self.residual(x)
        return (1 + torch.sigmoid(self.gate_relu(self.bn(self.depth(self.point(g)))))) * g


class InformationTransfer(nn.Module):
    """Equations 2 and 3 up to the spatial attention: bone features steer a convolution over the joint features.

    Reading: K1 mixes the joints before grouping (only that form gives Table 8's 3.2 k). A joint gets the sum over the
    bones it belongs to (authors' code; the paper is silent), in form 1 the mean. K1 starts as the identity and the
    attention's BN at a tenth of the usual scale, so that the module starts by passing the joint features through: the
    first kernels are noise, which that BN would otherwise scale up to the size of the features.
    """

    bone_ends: Tensor
    joint_weights: Tensor

    def __init__(self, skeleton: Skeleton, switches: DitnSwitches) -> None:
        super().__init__()
        joints, bones = len(skeleton.joints), len(skeleton.bones)
        self.mix = nn.Conv2d(joints, joints, 1, bias=False)
        self.adapter = ParameterAdapter(bones)
        self.adaptive = DynamicDepthwiseConv2d()
        self.attention: nn.Module = nn.Identity()
        nn.init.dirac_(self.mix.weight)
        if switches.cab:
            self.attention = ChannelAttention(bones, gate_relu=switches.gate_relu, form=switches.form)
            nn.init.constant_(self.attention.bn.weight, _TRANSFERRED)
        ends = torch.tensor(skeleton.bones).flatten()
        weights = F.one_hot(ends, joints).T.float()
        if switches.form == 1:
            weights = weights / weights.sum(1, keepdim=True)
        self.register_buffer("bone_ends", ends, persistent=False)
        self.register_buffer("joint_weights", weights, persistent=False)

    def forward(self, joints: Tensor, bones: Tensor) -> Tensor:
        grouped = self.mix(joints)[:, self.bone_ends]
        theta = self.adapter(bones.repeat_interleave(2, dim=1))
        refined = grouped + self.attention(self.adaptive(grouped, theta))
        # A 1x1 convolution with constant weights: the sum over each joint's bones.
        return F.conv2d(refined, self.joint_weights[..., None, None].to(refined.dtype))


class DITN(nn.Module):
    """DITN on a backbone.

    Reading (Table 6): the ResNet-50 of the loss ablation is SimpleBaseline's, deconvolutions included, without its
    head. The paper names no channels for it; its decoders take the C = 256 of those deconvolutions.

    Without the switch ``mtl`` this is the backbone, which makes features (N, channels, H/4, W/4), with a 1x1 head.
    """

    def __init__(self, backbone: HRNet | ResNetPose, skeleton: Skeleton, switches: DitnSwitches) -> None:
        super().__init__()
        form = switches.form
        if form == 1:
            skeleton = _with_former_bones(skeleton)
        joints, bones = len(skeleton.joints), len(skeleton.bones)
        self.backbone = backbone
        self.joint_decoder: nn.Module
        self.bone_decoder: nn.Module | None
        if switches.mtl:
            self.joint_decoder = Decoder(backbone.channels, joints, linear=not switches.ditm, form=form)
            self.bone_decoder = Decoder(backbone.channels, bones, linear=True, form=form)
        else:
            self.joint_decoder, self.bone_decoder = heatmap_head(backbone.channels, joints), None
        self.transfer = InformationTransfer(skeleton, switches) if switches.ditm else None
        self.spatial: nn.Module = nn.Identity()
        if switches.sab:
            self.spatial = SpatialAttention(joints, gate_relu=switches.gate_relu, form=form)
        if self.transfer is not None and not switches.sab:
            # Then the heat-maps are the decoder's features, passed through and summed over bones.
            with torch.no_grad():
                copies = self.transfer.joint_weights.sum(dim=1)
                self.get_parameter("joint_decoder.head.1.weight").copy_(_START / copies)
            if switches.cab:
                nn.init.constant_(self.get_parameter("transfer.attention.bn.weight"), _START * _TRANSFERRED)

    def forward(self, images: Tensor) -> Tensor | Heads:
        """Return joint heat-maps (N, J, H/4, W/4) in eval mode, :class:`Heads` with bones in train mode."""
        features = self.backbone(images)
        joints = self.joint_decoder(features)
        bones = None if self.bone_decoder is None else self.bone_decoder(features)
        if self.transfer is not None:
            joints = self.transfer(joints, bones)
        joints = self.spatial(joints)
        return Heads(joints, bones) if self.training else joints


def _with_former_bones(skeleton: Skeleton) -> Skeleton:
    """Return MPII's skeleton with the shoulders joined to the thorax; other skeletons have not changed."""
    if skeleton.name != "mpii16":
        return skeleton
    neck, thorax = skeleton.joints.index("upper_neck"), skeleton.joints.index("thorax")
    shoulders = {(skeleton.joints.index(f"{side}_shoulder"), neck) for side in ("left", "right")}
    return replace(skeleton, bones=tuple((bone[0], thorax) if bone in shoulders else bone for bone in skeleton.bones))
