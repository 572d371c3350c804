"""A YOLOv3 with random weights that finds something: what trained weights cost, without trained weights.

``python benchmarks/lively_yolov3.py FILE.weights`` writes it as a darknet weight file. Batch norms learn their
statistics from pictures, and the predictions are scaled so that boxes have about the size of their anchors and a few in
a thousand are persons: distinct scores at which two engines can be compared. What it finds means nothing.
"""

from __future__ import annotations

import argparse
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from edgepose.core.files import atomic_path
from edgepose.core.yolov3 import ANCHORS
from edgepose.export.from_onnx import golden_pictures
from edgepose.models.yolov3 import YOLOv3, weight_order

#: Mean and deviation that each prediction is scaled to: centre, size, objectness, person, every other class.
_SPREAD = ((0.0, 1.0), (0.0, 1.0), (0.0, 0.3), (0.0, 0.3), (-4.0, 2.0), (0.0, 2.0), (-2.0, 1.0))


def lively_yolov3(pictures: NDArray[np.uint8], classes: int = 80, width: int = 32) -> YOLOv3:
    """Return the network in eval mode; ``pictures`` (N, H, W, 3) uint8 RGB set its statistics."""
    network = YOLOv3(classes, width)
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        for name, value in network.named_parameters():
            noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(value.shape)
            scale = 1.4 / np.sqrt(np.prod(value.shape[1:])) if value.ndim > 1 else 0.1
            value.copy_(torch.from_numpy(scale * noise + (value.ndim == 1) * (1.0 if name.endswith("weight") else 1.5)))
        norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over the batches
        network.train().maps(images)
        for head, raw in zip(network.heads, network.eval().maps(images), strict=True):
            _scale(head.predict[-1], raw, classes)
    return network


def _scale(layer: torch.nn.Conv2d, raw: torch.Tensor, classes: int) -> None:
    """Give each channel of a last layer the mean and deviation of :data:`_SPREAD`, in place; ``raw`` is its output."""
    wanted = torch.tensor([*_SPREAD[:6], *_SPREAD[6:] * (classes - 1)] * len(ANCHORS[0]))
    factor = wanted[:, 1] / raw.std(dim=(0, 2, 3))
    layer.bias.copy_((layer.bias - raw.mean(dim=(0, 2, 3))) * factor + wanted[:, 0])
    layer.weight.mul_(factor[:, None, None, None])


def write_weights(network: YOLOv3, path: Path) -> Path:
    """Write a darknet weight file of version 0.2, and return its path."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(struct.pack("<3iq", 0, 2, 0, 0))
        for value in weight_order(network):
            file.write(value.detach().numpy().astype("<f4").tobytes())
    return path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, metavar="FILE.weights")
    path = write_weights(lively_yolov3(golden_pictures((416, 416))), parser.parse_args().weights)
    print(f"weights: {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
