"""YOLOv3 (Redmon and Farhadi, 2018): the person detector of HSR-MSNet, for inference.

It loads the public darknet weight files. It does not keep the heat-map contract: the input is pictures letterboxed to
the network's size, RGB in 0..1, and the output boxes of 80 classes (class 0 is a person). :class:`PersonGraph` puts it
behind the contract of detectors.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..bundle.contract import BOXES, SCORES
from ..core.errors import UsageError
from ..core.yolov3 import ANCHORS, STRIDES
from .layers import conv_bn


def _conv(cin: int, cout: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(*conv_bn(cin, cout, kernel, stride=stride, relu=False), nn.LeakyReLU(0.1, inplace=True))


class Residual(nn.Module):
    """1x1 to half the channels, 3x3 back, add the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = _conv(channels, channels // 2, 1)
        self.expand = _conv(channels // 2, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.expand(self.reduce(x))


class Head(nn.Module):
    """One scale: five convolutions whose result goes on to the next scale, and two that predict.

    Args:
        channels: of the 1x1 convolutions; the backbone's features and those of the scale below have twice as many.
        outputs: of the last convolution, 3 * (5 + classes).
        lifts: whether there is a coarser scale below.
    """

    def __init__(self, channels: int, outputs: int, *, lifts: bool) -> None:
        super().__init__()
        wide = 2 * channels
        # Definition order is the order of the weight file.
        self.lift = _conv(wide, channels, 1) if lifts else None
        self.body = nn.Sequential(
            _conv(wide + channels if lifts else wide, channels, 1),
            _conv(channels, wide, 3),
            _conv(wide, channels, 1),
            _conv(channels, wide, 3),
            _conv(wide, channels, 1),
        )
        self.predict = nn.Sequential(_conv(channels, wide, 3), nn.Conv2d(wide, outputs, 1))

    def forward(self, x: Tensor, below: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return features for the next scale, and the raw predictions (N, 3 * (5 + classes), h, w)."""
        if self.lift is not None and below is not None:
            x = torch.cat([F.interpolate(self.lift(below), scale_factor=2.0, mode="nearest"), x], dim=1)
        features = self.body(x)
        return features, self.predict(features)


class YOLOv3(nn.Module):
    """Darknet-53 with three heads; the channels of every convolution are a multiple of ``width``, the first one's."""

    def __init__(self, classes: int = 80, width: int = 32) -> None:  # of the public weights
        super().__init__()
        self.classes, self.width = classes, width
        stages = [[_conv(3, width, 3)]]
        for index, blocks in enumerate((1, 2, 8, 8, 4)):
            channels = 2 * width * 2**index
            stages.append([_conv(channels // 2, channels, 3, stride=2), *(Residual(channels) for _ in range(blocks))])
        self.darknet = nn.ModuleList(nn.Sequential(*stage) for stage in stages)
        outputs = len(ANCHORS[0]) * (5 + classes)
        self.heads = nn.ModuleList(
            Head(channels, outputs, lifts=level > 0)
            for level, channels in enumerate((16 * width, 8 * width, 4 * width))
        )

    def maps(self, images: Tensor) -> list[Tensor]:
        """Return raw predictions (N, 3 * (5 + classes), h, w) at strides 32, 16 and 8."""
        features = [images]
        for stage in self.darknet:
            features.append(stage(features[-1]))
        below, raw = None, []
        for head, x in zip(self.heads, features[:-4:-1], strict=True):
            below, prediction = head(x, below)
            raw.append(prediction)
        return raw

    def forward(self, images: Tensor) -> Tensor:
        """Find boxes in float (N, 3, H, W) RGB pictures in 0..1, H and W multiples of 32: see :func:`decode_maps`."""
        return decode_maps(self.maps(images))


def decode_maps(maps: list[Tensor]) -> Tensor:
    """Decode raw predictions into boxes.

    Args:
        maps: (N, 3 * (5 + classes), h, w) at strides 32, 16 and 8; channels are anchor by anchor x, y, width, height,
            objectness, classes.

    Returns:
        (N, boxes, 5 + classes): centre x, centre y, width, height in pixels of the network's input, then objectness and
        the classes' probabilities in 0..1; boxes by stride, anchor, row, column.
    """
    decoded = []
    for raw, stride, anchors in zip(maps, STRIDES, ANCHORS, strict=True):
        n, channels, height, width = raw.shape
        values = raw.reshape(n, len(anchors), channels // len(anchors), height, width).permute(0, 1, 3, 4, 2)
        y, x = torch.meshgrid(
            torch.arange(height, device=raw.device), torch.arange(width, device=raw.device), indexing="ij"
        )
        sizes = torch.tensor(anchors, dtype=raw.dtype, device=raw.device)[:, None, None]
        centres = (torch.sigmoid(values[..., :2]) + torch.stack([x, y], dim=-1)) * stride
        boxes = [centres, torch.exp(values[..., 2:4]) * sizes, torch.sigmoid(values[..., 4:])]
        decoded.append(torch.cat(boxes, dim=-1).reshape(n, -1, channels // len(anchors)))
    return torch.cat(decoded, dim=1)


class PersonGraph(nn.Module):
    """A YOLOv3 in eval mode as a graph of the contract of detectors: pictures in, boxes and scores of persons out."""

    #: Names of the outputs in their order.
    outputs = (BOXES, SCORES)

    def __init__(self, network: YOLOv3) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map uint8 (N, H, W, 3) RGB pictures to boxes (N, K, 4) xyxy in their pixels and scores (N, K), both float32.

        All boxes of :func:`decode_maps` in its order; the score is the objectness times the probability of a person.
        """
        # As numbers first: TensorRT permutes no uint8.
        maps = self.network.maps((images.float() / 255).permute(0, 3, 1, 2))
        rows = decode_maps([_persons(raw) for raw in maps])
        centre, half = rows[..., :2], rows[..., 2:4] / 2
        return torch.cat([centre - half, centre + half], dim=-1), rows[..., 4] * rows[..., 5]


def _persons(raw: Tensor) -> Tensor:
    """Return raw predictions (N, 3 * (5 + classes), h, w) without the classes after the first, (N, 3 * 6, h, w)."""
    channels, height, width = raw.shape[1:]
    count = len(ANCHORS[0])
    return raw.reshape(-1, count, channels // count, height, width)[:, :, :6].reshape(-1, 6 * count, height, width)


#: Bytes of public weight files that are mistaken for YOLOv3's.
_OTHERS = {
    35_434_956: "yolov3-tiny.weights",
    252_209_544: "yolov3-spp.weights",
    257_717_640: "yolov4.weights",
    24_251_276: "yolov4-tiny.weights",
    203_934_260: "yolov2.weights",
}


def load_darknet(network: YOLOv3, path: Path) -> None:
    """Load a public darknet weight file.

    Its header is three int32 (major, minor, revision) and the number of images seen, an int64 from version 0.2 on and
    an int32 before; then float32, little endian, per convolution in the order of the network: the batch norm's bias,
    weight, mean and variance, or the bias where there is none, then the kernel (pjreddie/darknet, ``src/parser.c``).

    Raises:
        UsageError: the file cannot be read, is of another size than the network's weights, or holds numbers that are
            no weights: NaN, infinity or a negative variance.
    """
    slots = weight_order(network)
    try:
        if not path.is_file():  # a pipe would wait for its writer for ever
            what = "is no file" if path.exists() else "does not exist"
            raise UsageError(f"weights {path}: {what}, expected a darknet .weights file")
        with path.open("rb") as file:
            major, minor = struct.unpack("<2i", file.read(8).ljust(8, b"\0"))
            header = 20 if major * 10 + minor >= 2 else 16
            size, wanted = path.stat().st_size, header + 4 * sum(slot.numel() for slot in slots)
            if size != wanted:
                raise _of_another_size(path, size, wanted)
            file.seek(header)
            values = torch.from_numpy(np.fromfile(file, dtype="<f4").astype(np.float32, copy=False))
    except OSError as error:
        raise UsageError(f"weights {path}: {error.strerror}, expected a darknet .weights file") from error
    parts = values.split([slot.numel() for slot in slots])
    variances = {id(layer.running_var) for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)}
    if not bool(torch.isfinite(values).all()):
        raise UsageError(f"weights {path} hold NaN or infinity: expected a darknet .weights file of YOLOv3")
    if any(id(slot) in variances and bool((part < 0).any()) for slot, part in zip(slots, parts, strict=True)):
        raise UsageError(f"weights {path} hold a negative variance: expected a darknet .weights file of YOLOv3")
    with torch.no_grad():
        for slot, part in zip(slots, parts, strict=True):
            slot.copy_(part.view_as(slot))


def _of_another_size(path: Path, size: int, wanted: int) -> UsageError:
    known = f", the size of {_OTHERS[size]}" if size in _OTHERS else ""
    kind = "of another network" if known else "truncated" if size < wanted else "too long"
    return UsageError(
        f"weights {path}: {kind}, {size:,} bytes{known} where this YOLOv3 has {wanted:,}; take the whole file of this "
        "network"
    )


def weight_order(network: YOLOv3) -> list[Tensor]:
    """Return the tensors of the network in the order of a weight file."""
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.BatchNorm2d)]
    slots: list[Tensor] = []
    for layer, after in zip(layers, [*layers[1:], None], strict=True):
        if isinstance(layer, nn.Conv2d):
            norm = isinstance(after, nn.BatchNorm2d)
            slots += [after.bias, after.weight, after.running_mean, after.running_var] if norm else [layer.bias]
            slots.append(layer.weight)
    return slots
