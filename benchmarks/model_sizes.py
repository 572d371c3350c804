"""How large is every network, and what does each module of DITN cost beside the paper's Table 8?

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
from torch import Tensor, nn

from edgepose.files import write_text
from edgepose.plugins.torch_op import DynamicDepthwiseConv2d
from edgepose.train.models import build_model, macs


@dataclass(frozen=True)
class Published:
    """What a paper prints for one network at one size: millions of parameters, and GFLOPs."""

    model: str
    skeleton: str
    input_size: tuple[int, int]
    millions: str
    gflops: str
    source: str


NETWORKS = (
    Published("hrnet_w32", "coco17", (256, 192), "28.5", "7.10", "HRNet, Table 1"),
    Published("hrnet_w32", "coco17", (384, 288), "28.5", "16.0", "HRNet, Table 1"),
    Published("hrnet_w32", "mpii16", (256, 256), "28.5", "9.5", "HRNet, Table 4"),
    Published("hrnet_w48", "coco17", (256, 192), "63.6", "14.6", "HRNet, Table 1"),
    Published("hrnet_w48", "coco17", (384, 288), "63.6", "32.9", "HRNet, Table 1"),
    Published("ditn_hrnet_w32", "coco17", (256, 192), "28.6", "7.26", "DITN, Table 3"),
    Published("ditn_hrnet_w32", "mpii16", (256, 256), "28.6", "9.49 + 0.19", "DITN, Table 8 and its text"),
    Published("ditn_lite", "lsp14", (256, 192), "-", "-", "made for this project"),
)


@dataclass(frozen=True)
class Module:
    """A row of Table 8: its name there, our submodules, and the parameters and MFLOPs it prints."""

    name: str
    parts: tuple[str, ...]
    parameters: str
    mflops: str


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

A MAC is one multiply-accumulate of a convolution. The papers' "GFLOPs" are MAC / 2^30 and their "MFLOPs" MAC / 2^20;
sizes are height x width, parameters are the trainable ones.

## Networks

{networks}

HRNet has the layers and the parameter names of the official implementation; 7.12 where its paper prints 7.10 is the
same count. `ditn_lite` is DITN on a slim HRNet (16 channels at the highest resolution, slim stem and first stage, half
the blocks) and is what the package ships. The dynamic convolution is counted like the static depthwise convolution of
the same kernel size.

## What DITN adds to HRNet-W32

{additions}

The paper prints +0.16 GFLOPs at 256x192 (7.26 - 7.10, Table 3; from the unrounded 7.12 it is +0.14) and +0.19 without
a size (Section 5, beside Table 8, whose backbone of 9.49 is that of 256x256). HRNet's 1x1 head is subtracted: DITN has
its two decoders in place of it.

## DITN's modules beside Table 8

For MPII: 256x256 input, 64x64 maps, 16 joints, 15 bones.

{modules}

- **Decoders.** The bone decoder's last 1x1 is linear with a bias, because its output is the bone heat-map itself; the
  joint decoder's has batch norm and ReLU, because it makes features. Table 8's MFLOPs are up to 2 % higher: it seems to
  count element-wise operations, here only convolutions count. The same holds for the attention blocks.
- **Parameter adapter.** No batch norm and no ReLU, as Table 8 says and against the text: three convolutions of 540
  weights. Where a side of the predicted kernel comes out even, its last row or column is dropped.
- **Transfer.** Table 8's 3.2 k is 256 for the 1x1 convolution over the joints plus 15 x 2 x 2 x 49 for the static layer
  that the dynamic convolution replaces. The 1x1 therefore comes before the grouping (only 16 -> 16 gives 256), and the
  kernels are predicted, so they are not parameters; they have 2 x 49 values a bone, which makes the convolution
  depthwise and halves its cost.
- **Channel attention.** Equation 4: a 1x1 convolution with a bias after global pooling, where Table 8 lists a 3x3 with
  batch norm (which cannot train on one sample).
- **Spatial attention.** All of Table 8's layers; no ReLU stands between the last batch norm and the sigmoid, because it
  would keep the attention at one half or more.
"""


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@cache
def network(model: str, skeleton: str) -> nn.Module:
    return build_model(model, skeleton=skeleton).to("meta").eval()


def macs_by_layer(model: nn.Module, input_size: tuple[int, int]) -> dict[str, int]:
    """What :func:`edgepose.train.models.macs` adds up, by the layer's name."""
    found: dict[str, int] = {}
    handles = []
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d | DynamicDepthwiseConv2d):

            def count(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor, name: str = name) -> None:
                kernel = layer.weight[0] if isinstance(layer, nn.Conv2d) else args[1][0, 0]
                found[name] = output[0].numel() * kernel.numel()

            handles.append(layer.register_forward_hook(count))
    with torch.no_grad():
        model(torch.zeros(1, 3, *input_size, device="meta"))
    for handle in handles:
        handle.remove()
    return found


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def in_mega(count: int) -> str:
    """As Table 8 prints operations, in units of 2^20 or 2^30."""
    return f"{count / 2**30:.2f} G" if count >= 2**30 else f"{count / 2**20:.1f} M"


def networks_table() -> str:
    head = ("network", "skeleton", "input", "parameters", "printed, M", "GFLOPs", "printed", "printed in")
    rows = []
    for p in NETWORKS:
        model = network(p.model, p.skeleton)
        cost = f"{macs(model, p.input_size) / 2**30:.2f}"
        size = f"{p.input_size[0]}x{p.input_size[1]}"
        rows.append((f"`{p.model}`", p.skeleton, size, f"{parameters(model):,}", p.millions, cost, p.gflops, p.source))
    return markdown(head, rows)


def additions_table() -> str:
    rows = []
    for skeleton, size in (("mpii16", (256, 256)), ("coco17", (256, 192))):
        ditn, hrnet = network("ditn_hrnet_w32", skeleton), network("hrnet_w32", skeleton)
        extra = (macs(ditn, size) - macs(hrnet, size)) / 2**30
        rows.append((skeleton, f"{size[0]}x{size[1]}", f"{parameters(ditn) - parameters(hrnet):+,}", f"{extra:+.3f}"))
    return markdown(("skeleton", "input", "parameters", "GFLOPs"), rows)


def modules_table() -> str:
    model, size = network("ditn_hrnet_w32", "mpii16"), (256, 256)
    costs = macs_by_layer(model, size)
    if sum(costs.values()) != macs(model, size):
        raise AssertionError("the layers do not add up to the network")
    rows = []
    for module in MODULES:
        count = sum(parameters(model.get_submodule(part)) for part in module.parts)
        cost = sum(n for name, n in costs.items() for part in module.parts if f"{name}.".startswith(f"{part}."))
        parts = ", ".join(f"`{part}`" for part in module.parts)
        rows.append((module.name, parts, f"{count:,}", module.parameters, in_mega(cost), module.mflops))
    head = ("Table 8", "submodules", "parameters", "printed", "MFLOPs", "printed")
    return markdown(head, rows)


def document() -> str:
    """The content of ``docs/models.md``."""
    return DOCUMENT.format(networks=networks_table(), additions=additions_table(), modules=modules_table())


def measure(options: argparse.Namespace) -> Outcome:
    text = document()
    if options.docs:
        write_text(options.docs, text)
    rows = [
        {
            **asdict(p),
            "parameters": parameters(network(p.model, p.skeleton)),
            "macs": macs(network(p.model, p.skeleton), p.input_size),
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
