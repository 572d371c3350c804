"""How large is every network and every module of DITN (Table 8), compared with its paper's figures?

Prints the Markdown of ``docs/models.md``; ``--docs docs/models.md`` writes it. The networks run on PyTorch's meta
device, so nothing here depends on the machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import torch
from common import Outcome, run_benchmark
from torch import nn

from edgepose.core.files import write_text
from edgepose.models import build_model
from edgepose.models.cost import macs_by_layer


@dataclass(frozen=True)
class Published:
    """The figures of a paper for one network at one size: millions of parameters, and GFLOPs."""

    model: str
    skeleton: str
    input_size: tuple[int, int]
    millions: str
    gflops: str
    source: str


#: HSR-MSNet's authors print neither parameters nor GFLOPs: these are counted in their code, of what it runs.
HSR_COUNTED = {
    ("hsrnet", 59): ("22.596", "6.07"),
    ("hsrnet", 110): ("41.588", "9.46"),
    ("hsrnet", 161): ("57.232", "12.85"),
    ("hsr_msnet", 59): ("18.840", "4.66"),
    ("hsr_msnet", 110): ("31.930", "6.59"),
    ("hsr_msnet", 161): ("42.713", "8.52"),
}

NETWORKS = (
    Published("simplebaseline_r50", "coco17", (256, 192), "34.0", "8.90", "DITN, Table 3"),
    Published("simplebaseline_r101", "coco17", (256, 192), "53.0", "12.4", "DITN, Table 3"),
    Published("simplebaseline_r152", "coco17", (256, 192), "68.6", "15.7", "DITN, Table 3"),
    Published("simplebaseline_r152", "coco17", (384, 288), "68.6", "35.6", "SG-HRNet, Table 2"),
    Published("simplebaseline_r152", "mpii16", (256, 256), "68.6", "20.9", "SG-HRNet, Table 1"),
    Published("hrnet_w32", "coco17", (256, 192), "28.5", "7.10", "HRNet, Table 1"),
    Published("hrnet_w32", "coco17", (384, 288), "28.5", "16.0", "HRNet, Table 1"),
    Published("hrnet_w32", "mpii16", (256, 256), "28.5", "9.5", "HRNet, Table 4"),
    Published("hrnet_w48", "coco17", (256, 192), "63.6", "14.6", "HRNet, Table 1"),
    Published("hrnet_w48", "coco17", (384, 288), "63.6", "32.9", "HRNet, Table 1"),
    Published("ditn_hrnet_w32", "coco17", (256, 192), "28.6", "7.26", "DITN, Table 3"),
    Published("ditn_hrnet_w32", "mpii16", (256, 256), "28.6", "9.49 + 0.19", "DITN, Table 8 and its text"),
    Published("ditn_resnet50", "mpii16", (256, 256), "-", "-", "DITN prints none"),
    *(
        Published(f"{name}_lite", "lsp14", (256, 192), "-", "-", "made for this project")
        for name in ("ditn", "hrnet", "sg_hrnet", "hsr_msnet", "simplebaseline")
    ),
    Published("sg_hrnet_w32", "coco17", (256, 192), "28.5", "7.1", "SG-HRNet, Table 2"),
    *(
        Published(f"{kind}_{depth}", "coco17", (256, 192), *counted, "HSR-MSNet: counted in its authors' code")
        for (kind, depth), counted in HSR_COUNTED.items()
    ),
    Published("yolov3", "", (416, 416), "-", "-", "HSR-MSNet prints none"),
)


@dataclass(frozen=True)
class Accuracy:
    """A row of HSR-MSNet's tables: network, size, the deconvolutions' kernel, AP, data, and the paper's table."""

    model: str
    input_size: tuple[int, int]
    kernel: int
    ap: float
    data: str
    source: str


def _val(model: str, ap: float, *, kernel: int = 4, input_size: tuple[int, int] = (256, 192)) -> Accuracy:
    return Accuracy(model, input_size, kernel, ap, "val2017, boxes of AP 56.4", "Table 1")


#: Table 1 is a picture in the authors' repository (doc/results.jpg); of Table 4 the paper's text repeats the APs.
ACCURACIES = (
    _val("simplebaseline_r50", 70.4),
    _val("simplebaseline_r101", 71.4),
    _val("simplebaseline_r152", 72.0),
    _val("simplebaseline_r50", 70.1, kernel=2),
    _val("simplebaseline_r50", 70.3, kernel=3),
    _val("simplebaseline_r50", 72.2, input_size=(384, 288)),
    _val("hsrnet_59", 71.4),
    _val("hsrnet_110", 71.8),
    _val("hsrnet_161", 72.6),
    _val("hsrnet_59", 70.9, kernel=2),
    _val("hsrnet_59", 71.2, kernel=3),
    _val("hsrnet_59", 73.2, input_size=(384, 288)),
    Accuracy("hsrnet_59", (384, 288), 4, 72.6, "test-dev, boxes of AP 60.9", "Table 4"),
    Accuracy("hsr_msnet_59", (384, 288), 4, 72.8, "test-dev, boxes of AP 60.9", "Table 4"),
)


@dataclass(frozen=True)
class Module:
    """A row of Table 8: its name, our submodules, and its parameters and MFLOPs."""

    name: str
    parts: tuple[str, ...]
    parameters: str
    mflops: str


#: Networks on HRNet-W32, which is subtracted.
ADDITIONS = (
    ("ditn_hrnet_w32", "mpii16", (256, 256)),
    ("ditn_hrnet_w32", "coco17", (256, 192)),
    ("sg_hrnet_w32", "coco17", (256, 192)),
)

MODULES = (
    Module("Backbone: HRNet-W32", ("backbone",), "28.5 M", "9.49 G"),
    Module("Bone Decoder Module", ("bone_decoder",), "21.2 k", "83.4 M"),
    Module("Joint Decoder Module", ("joint_decoder",), "21.2 k", "83.6 M"),
    Module("Parameter Adapter", ("transfer.adapter",), "1.6 k", "0.6 M"),
    Module("Transfer Module", ("transfer.mix", "transfer.adaptive"), "3.2 k", "12.5 M"),
    Module("Channel Attention Blocks", ("transfer.attention",), "0.8 k", "3.1 M"),
    Module("Spatial Attention Blocks", ("spatial",), "4.0 k", "16.1 M"),
)

DOCUMENT = """\
# Sizes of the networks

This page is written by `python benchmarks/model_sizes.py --docs docs/models.md`; a test compares the two.

A MAC is one multiply-accumulate of a convolution, a deconvolution or a linear layer. The papers' "GFLOPs" are
MAC / 2^30 and their "MFLOPs" MAC / 2^20; sizes are height x width, parameters are the trainable ones. A deconvolution
of stride 2 does one MAC per weight and input position; the papers count it at its output positions, four times as
many: the column "as papers count" does so too, and is the one to hold beside theirs.

## Networks

{networks}

HRNet, SimpleBaseline and DetNet have the layers of the official implementations, HRNet and SimpleBaseline their
parameter names too; 7.12 where HRNet's paper prints 7.10 is the same count. `ditn_lite` is DITN on a slim HRNet (16
channels at the highest resolution, slim stem and first stage, half the blocks) and is what the package ships; the
other `_lite` networks are as slim, for comparisons that a CPU can train (`lsp_head_to_head.py --narrow`). The dynamic
convolution is counted like the static depthwise convolution of the same kernel size. HSR-MSNet's paper prints neither
parameters nor GFLOPs: those beside ours are counted in its authors' code (github.com/Shiyijie66/HSR-MSNet, commit
dbf0525), a deconvolution at its input positions, and without the 3x3 that their HSR-MSNet stores and never runs (with
them 26.0 M for 59 layers). YOLOv3's 32.93e9 MAC are the 65.86 billion operations that its authors state for 416x416,
two a MAC.

## HSR-MSNet's tables

What the networks cost here beside the AP on COCO that the paper prints, all with a flip test. Table 1 is a picture in
the authors' repository (`doc/results.jpg`); the text of Table 4's section repeats its two APs. Nothing here was trained
on COCO, so there is no AP of ours to put beside them.

{accuracies}

## How the papers were read

- **`ditn_resnet50`**, the network of DITN's ablation of losses (Tables 6 and 7): the paper says "ResNet-50" and no
  more. It is SimpleBaseline's here, with the three deconvolutions and without the head, so the decoders have C = 256.
- **`sg_hrnet_w32`**: in stages 2 to 4 the map is made from the high-resolution branch as it enters the stage, and
  multiplies it before the stage's first fusion; the fourth is made from the last fusion's output and multiplies it.
  Fusions upsample bilinearly, as the paper says; HRNet's nearest is an option (`bilinear=False`). Its weights load
  either way. Both terms of the loss are means over pixels: with the printed sums, the segmentation would weigh a 49th.
- **`hsrnet_*`**: layers 4 and 5 have three bottlenecks each, dilated by 2, at stride 16 with 1024 channels, as in its
  authors' code and DetNet's. The paper's remark that HSRNet has more parameters than ResNet does not fit that code. 59
  layers are the stem, three in each of 19 bottlenecks, and the head; projections and deconvolutions are not counted.
  The deconvolutions' kernel (2, 3 or 4; `deconv_kernel`) is 4 unless told otherwise.
- **`hsr_msnet_*`**: as in its authors' code. The module takes the place of the 3x3 in every bottleneck of stride 1, in
  all five layers, on four groups of a quarter of the channels; the 1x1 keep ResNet's widths, so ImageNet weights fill
  them and the 3x3 of stride 2. In layers 1 to 3 the first group passes through; in layers 4 and 5, where all is dilated
  by 2, it has a convolution of its own (the one that the paper adds over Res2Net). The sums between groups are taken
  before the ReLU. Every bottleneck ends with an SE block. `multiscale=False` and `se=False` are the paper's Table 2.

## What the modules add to HRNet-W32

{additions}

DITN's paper prints +0.16 GFLOPs at 256x192 (7.26 - 7.10, Table 3; from the unrounded 7.12 it is +0.14) and +0.19
without a size (Section 5, beside Table 8, whose backbone of 9.49 is that of 256x256). HRNet's 1x1 head is subtracted:
DITN has its two decoders in place of it. SG-HRNet's paper prints HRNet's own 28.5 M and 7.1 for both.

## DITN's modules beside Table 8

For MPII: 256x256 input, 64x64 maps, 16 joints, 15 bones.

{modules}

The development code of DITN's first author
([onerow2star/cplusplus_primer](https://github.com/onerow2star/cplusplus_primer), `revison/lib`) decides where the paper
is silent and the code agrees with it. Before it was found, this project read the paper otherwise: `form=1` builds that
network, which `ditn_lite` and all checkpoints without a form in them are (`DitnSwitches` lists the differences).

- **Decoders.** ReLU follows the addition, as in a basic block. The bone decoder's last 1x1 is linear with a bias,
  because its output is the bone heat-map itself; the joint decoder's has batch norm and ReLU, because it makes
  features. Table 8's MFLOPs are up to 2 % higher: it seems to count element-wise operations, here only convolutions
  count. The same holds for the attention blocks.
- **Parameter adapter.** No batch norm and no ReLU, as Table 8 says and against the text: three convolutions of 540
  weights. Where a side of the predicted kernel comes out even, its last row or column is dropped.
- **Transfer.** Table 8's 3.2 k is 256 for the 1x1 convolution over the joints plus 15 x 2 x 2 x 49 for the static layer
  that the dynamic convolution replaces. The 1x1 therefore comes before the grouping (only 16 -> 16 gives 256), and the
  kernels are predicted, so they are not parameters; they have 2 x 49 values a bone, which makes the convolution
  depthwise and halves its cost.
- **Back to joints.** The sum over the bones that a joint belongs to.
- **Channel attention.** Equation 4's 1x1 convolution with a bias after global pooling, then batch norm and ReLU, as
  Table 8 says. That batch norm cannot train on a batch of one, which is refused.
- **Spatial attention.** All of Table 8's layers. The ReLU before the sigmoid of both attentions keeps their maps at one
  half or more; `gate_relu=False` leaves it out.
"""


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@cache
def network(model: str, skeleton: str) -> nn.Module:
    with torch.device("meta"):
        return build_model(model, skeleton=skeleton or "coco17").eval()


@cache
def costs(model: str, skeleton: str, input_size: tuple[int, int]) -> dict[str, int]:
    """Return the multiply-accumulates by layer."""
    return macs_by_layer(network(model, skeleton), input_size)


def macs(model: str, skeleton: str, input_size: tuple[int, int]) -> int:
    return sum(costs(model, skeleton, input_size).values())


def macs_as_printed(model: str, skeleton: str, input_size: tuple[int, int]) -> int:
    """Count as the papers do: a deconvolution per weight and **output** position, stride^2 times its work."""
    total = 0
    for name, cost in costs(model, skeleton, input_size).items():
        layer = network(model, skeleton).get_submodule(name)
        total += cost * (layer.stride[0] * layer.stride[1] if isinstance(layer, nn.ConvTranspose2d) else 1)
    return total


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def in_mega(count: int) -> str:
    """Return operations in the units of Table 8, 2^20 or 2^30."""
    return f"{count / 2**30:.2f} G" if count >= 2**30 else f"{count / 2**20:.1f} M"


def gflops(count: int) -> str:
    return f"{count / 2**30:.2f}"


def networks_table() -> str:
    rows = []
    for p in NETWORKS:
        which = (p.model, p.skeleton, p.input_size)
        size = f"{p.input_size[0]}x{p.input_size[1]}"
        weights = f"{parameters(network(p.model, p.skeleton)):,}"
        cost, printed = gflops(macs(*which)), gflops(macs_as_printed(*which))
        rows.append(
            (f"`{p.model}`", p.skeleton or "-", size, weights, p.millions, cost, printed, p.gflops, p.source),
        )
    counted = ("parameters", "printed, M", "GFLOPs", "as papers count", "printed", "printed in")
    return markdown(("network", "skeleton", "input", *counted), rows)


def accuracies_table() -> str:
    rows = []
    for row in ACCURACIES:
        with torch.device("meta"):
            model = build_model(row.model, deconv_kernel=row.kernel).eval()
        size, cost = f"{row.input_size[0]}x{row.input_size[1]}", sum(macs_by_layer(model, row.input_size).values())
        counted = (f"{parameters(model):,}", gflops(cost))
        rows.append((f"`{row.model}`", size, str(row.kernel), *counted, f"{row.ap}", row.data, row.source))
    head = ("network", "input", "kernel", "parameters", "GFLOPs", "AP, printed", "on COCO", "HSR-MSNet's")
    return markdown(head, rows)


def additions_table() -> str:
    rows = []
    for name, skeleton, size in ADDITIONS:
        model, hrnet = network(name, skeleton), network("hrnet_w32", skeleton)
        extra = (macs(name, skeleton, size) - macs("hrnet_w32", skeleton, size)) / 2**30
        more = f"{parameters(model) - parameters(hrnet):+,}"
        rows.append((f"`{name}`", skeleton, f"{size[0]}x{size[1]}", more, f"{extra:+.3f}"))
    return markdown(("network", "skeleton", "input", "parameters", "GFLOPs"), rows)


def modules_table() -> str:
    model, by_layer = network("ditn_hrnet_w32", "mpii16"), costs("ditn_hrnet_w32", "mpii16", (256, 256))
    rows = []
    for module in MODULES:
        count = sum(parameters(model.get_submodule(part)) for part in module.parts)
        cost = sum(n for name, n in by_layer.items() for part in module.parts if f"{name}.".startswith(f"{part}."))
        parts = ", ".join(f"`{part}`" for part in module.parts)
        rows.append((module.name, parts, f"{count:,}", module.parameters, in_mega(cost), module.mflops))
    head = ("Table 8", "submodules", "parameters", "printed", "MFLOPs", "printed")
    return markdown(head, rows)


def document() -> str:
    """Return the content of ``docs/models.md``."""
    return DOCUMENT.format(
        networks=networks_table(),
        accuracies=accuracies_table(),
        additions=additions_table(),
        modules=modules_table(),
    )


def measure(options: argparse.Namespace) -> Outcome:
    text = document()
    if options.docs:
        write_text(options.docs, text)
    rows = [
        {
            **asdict(p),
            "parameters": parameters(network(p.model, p.skeleton)),
            "macs": macs(p.model, p.skeleton, p.input_size),
            "macs_as_papers_count": macs_as_printed(p.model, p.skeleton, p.input_size),
        }
        for p in NETWORKS
    ]
    return Outcome(text, {"networks": rows})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", type=Path, help="also write the Markdown here")
    return run_benchmark(parser, measure)


if __name__ == "__main__":
    raise SystemExit(main())
