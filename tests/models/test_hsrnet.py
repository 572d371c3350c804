"""HSRNet against DetNet's numbers, MSNet's module against plain loops, and their export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn

from edgepose.models.cost import macs_by_layer
from edgepose.models.pose_graph import PoseGraph
from edgepose.models.resnet import HSRNETS, MultiscaleBottleneck, ResNetConfig, ResNetPose, SqueezeExcite
from tests.doubles.networks import filled, images_of, shapes_only
from tests.doubles.plain_layers import check, conv, normal, randomised, relu, sigmoid


class Classifier(nn.Module):
    """DetNet-59: HSRNet-59's encoder, the mean over positions, 1000 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = ResNetPose(HSRNETS[59], None)
        self.backbone.deconv_layers = nn.Identity()
        self.fc = nn.Linear(1024, 1000)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.backbone.encode(images).mean(dim=(2, 3)))


def detnet_name(key: str) -> str:
    """DetNet calls the projections of its dilated layers otherwise."""
    key = key.removeprefix("backbone.")
    return key.replace("downsample", "extra_conv") if key.startswith(("layer4", "layer5")) else key


def test_hsrnet_59_is_detnet_59(reference) -> None:
    official = reference.load("detnet59.json")
    network = filled(Classifier(), detnet_name)
    names = [[detnet_name(key), list(value.shape)] for key, value in network.state_dict().items()]
    assert names == [key[:2] for key in official["keys"]]
    with torch.inference_mode():
        output = network(images_of(121, 1, 3, 224, 224))
    reference.match("detnet59_out.npz", output, reference.load("detnet59_out.npz")["output"], atol=5e-6)
    costs = macs_by_layer(network, (224, 224))
    want = official["macs_one_image"]
    reference.match("detnet59.json", [sum(costs.values()) - costs["fc"], costs["fc"]], [want["conv"], want["linear"]])


@pytest.mark.parametrize("kind", ["hsrnet", "hsr_msnet"])
@pytest.mark.parametrize("depth", [59, 110, 161])
def test_networks_have_as_many_layers_as_their_name_says(kind: str, depth: int) -> None:
    """The stem, three a bottleneck (the small ones of a group are one), the head; no projection, no deconvolution."""
    network = shapes_only(f"{kind}_{depth}")
    convolutions = {name: layer for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d)}
    layers = {name.rsplit(".", 2)[0] if ".scales." in name else name for name in convolutions}
    counted = [name for name in layers if not any(part in name for part in ("downsample", "attention"))]
    assert len(counted) == depth
    dilated = {name.split(".")[0] for name, layer in convolutions.items() if layer.dilation == (2, 2)}
    assert dilated == {"layer4", "layer5"}
    assert network.deconv_layers[0].in_channels == 1024


def test_squeeze_and_excitation() -> None:
    def twin(w, x):
        squeezed = relu(conv(x.mean(axis=(2, 3), keepdims=True), w("reduce.weight"), w("reduce.bias")))
        return x * sigmoid(conv(squeezed, w("expand.weight"), w("expand.bias")))

    check(randomised(SqueezeExcite(32)), twin, normal(2, 32, 3, 4))


def multiscale_block(w, x, *, stride, project):
    """One group after another, as the paper writes them."""
    inner = relu(w.bn("bn1", conv(x, w("conv1.weight"))))
    width = inner.shape[1] // 4
    outputs = []
    for i in range(4):
        group = inner[:, i * width : (i + 1) * width]
        if i > 0 and stride == 1:
            group = group + outputs[-1]
        outputs.append(relu(w.bn(f"scales.{i}.1", conv(group, w(f"scales.{i}.0.weight"), stride=stride, padding=1))))
    y = w.bn("bn3", conv(np.concatenate(outputs, axis=1), w("conv3.weight")))
    squeezed = relu(conv(y.mean(axis=(2, 3), keepdims=True), w("attention.reduce.weight"), w("attention.reduce.bias")))
    y = y * sigmoid(conv(squeezed, w("attention.expand.weight"), w("attention.expand.bias")))
    shortcut = w.bn("downsample.1", conv(x, w("downsample.0.weight"), stride=stride)) if project else x
    return relu(y + shortcut)


@pytest.mark.parametrize(("cin", "stride", "project"), [(32, 1, False), (12, 1, True), (32, 2, True)])
def test_multiscale_bottleneck(cin: int, stride: int, project: bool) -> None:
    block = MultiscaleBottleneck(cin, 8, stride=stride, project=project)
    assert block.scales[0][0].weight.shape == (3, 3, 3, 3)  # floor(8 * 26 / 64) channels
    check(randomised(block), lambda w, x: multiscale_block(w, x, stride=stride, project=project), normal(2, cin, 6, 5))


def test_layers_1_to_3_alone_are_multiscale() -> None:
    network = shapes_only("hsr_msnet_59")
    kinds = {name: {type(block) for block in getattr(network, name)} for name in ("layer1", "layer3", "layer5")}
    assert kinds["layer1"] == kinds["layer3"] == {MultiscaleBottleneck} != kinds["layer5"]
    strides = [network.layer2[0].scales[i][0].stride for i in range(4)]
    assert strides == 4 * [(2, 2)]


@pytest.mark.slow
def test_the_graph_gives_pytorchs_numbers(liven: Callable[..., nn.Module], tmp_path: Path) -> None:
    """Groups, SE, dilations and deconvolutions of kernel 3 (which pad their output) in ONNX Runtime."""
    for module in ("onnx", "onnxscript", "onnxsim"):
        pytest.importorskip(module)
    import onnxruntime

    from edgepose.export.to_onnx import export_graph

    crops = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    network = liven(ResNetPose(ResNetConfig((1, 1, 1, 1, 1), multiscale=True), 14, kernel=3), crops)
    export_graph(network, (64, 64), tmp_path / "x.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "x.onnx")
    for batch in (1, 3):
        with torch.inference_mode():
            keypoints, heatmaps = PoseGraph(network)(torch.from_numpy(crops[:batch]))
        got = session.run(["keypoints", "heatmaps"], {"images": crops[:batch]})
        spread = np.ptp(heatmaps.numpy())
        np.testing.assert_allclose(got[1], heatmaps, atol=1e-4 * spread)
        np.testing.assert_allclose(got[0][..., :2], keypoints[..., :2], atol=1e-3)
