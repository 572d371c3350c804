"""HSRNet and HSR-MSNet against their authors' numbers, MSNet's module against plain loops, and their export."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn

from edgepose.models import build_model
from edgepose.models.cost import macs, macs_by_layer
from edgepose.models.layers import Bottleneck
from edgepose.models.pose_graph import PoseGraph
from edgepose.models.resnet import HSRNETS, HSRBottleneck, MultiscaleConv, ResNetConfig, ResNetPose, SqueezeExcite
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


def authors_name(key: str) -> str:
    """HSR-MSNet's authors also call the two new stages and the convolutions of the groups otherwise."""
    key = re.sub(r"^layer(?=[45])", "new_layer", detnet_name(key))
    return re.sub(r"conv2\.splits\.(\d)\.(\d)", lambda found: f"{('conv', 'bn')[int(found[2])]}_split{found[1]}", key)


@pytest.mark.slow
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


# Of the authors' output for the input of a seed, weights filled by name: row 32, column 24 of every fourth joint's map.
CENTRES = {
    "hsrnet_59": (131, [-0.07416617, -0.03206228, 0.1434982, -0.2536165, -0.006521665]),
    "hsr_msnet_59": (132, [-0.06737251, -0.02946125, 0.1342442, -0.2397391, 0.01758565]),
}


@pytest.mark.parametrize(("model", "centres"), CENTRES.items())
def test_the_authors_network_in_a_few_numbers(model: str, centres: tuple[int, list[float]]) -> None:
    seed, want = centres
    with torch.device("meta"):
        network = build_model(model)
    network = filled(network.to_empty(device="cpu"), authors_name)
    with torch.inference_mode():
        output = network(images_of(seed, 1, 3, 256, 192))
    np.testing.assert_allclose(output[0, ::4, 32, 24], want, atol=5e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "seed"), [("hsrnet_59", 131), ("hsr_msnet_59", 132)])
def test_the_authors_names_shapes_and_output(reference, model: str, seed: int) -> None:
    name = f"{model}_256x192"
    official = reference.load(f"{name}.json")
    network = filled(build_model(model), authors_name)
    assert seed == official["seed"]
    unused = tuple(official["unused_modules"] or ())
    ran = {key: shape for key, shape, _ in official["keys"] if key.rpartition(".")[0] not in unused}
    assert {authors_name(key): list(value.shape) for key, value in network.state_dict().items()} == ran
    count = sum(parameter.numel() for parameter in network.parameters())
    reference.match(f"{name}.json", count, official["n_params_used"])
    with torch.inference_mode():
        output = network(images_of(seed, 1, 3, 256, 192))
    reference.match(f"{name}_out.npz", output, reference.load(f"{name}_out.npz")["output"], atol=5e-6)


# Parameters, and GFLOPs (MAC / 2^30) at 256x192, of the authors' code: what their networks use of what they store.
SIZES = {
    "hsrnet_59": (22_595_921, 6.07),
    "hsrnet_110": (41_588_049, 9.46),
    "hsrnet_161": (57_231_697, 12.85),
    "hsr_msnet_59": (18_839_905, 4.66),
    "hsr_msnet_110": (31_929_633, 6.59),
    "hsr_msnet_161": (42_713_441, 8.52),
}


@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_parameters_and_cost_are_those_of_the_authors_code(name: str, size: tuple[int, float]) -> None:
    network = shapes_only(name)
    assert sum(parameter.numel() for parameter in network.parameters()) == size[0]
    assert macs(network, (256, 192)) / 2**30 == pytest.approx(size[1], abs=0.01)


@pytest.mark.parametrize("kind", ["hsrnet", "hsr_msnet"])
@pytest.mark.parametrize("depth", [59, 110, 161])
def test_networks_have_as_many_layers_as_their_name_says(kind: str, depth: int) -> None:
    """The stem, three a bottleneck (the small ones of a group are one), the head; no projection, no deconvolution."""
    network = shapes_only(f"{kind}_{depth}")
    convolutions = {name: layer for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d)}
    layers = {name.partition(".splits.")[0] for name in convolutions}
    counted = [name for name in layers if not any(part in name for part in ("downsample", ".se."))]
    assert len(counted) == depth
    dilated = {name.split(".")[0] for name, layer in convolutions.items() if layer.dilation == (2, 2)}
    assert dilated == {"layer4", "layer5"}
    assert network.deconv_layers[0].in_channels == 1024


def test_squeeze_and_excitation() -> None:
    def twin(w, x):
        squeezed = relu(conv(x.mean(axis=(2, 3), keepdims=True), w("fc1.weight"), w("fc1.bias")))
        return x * sigmoid(conv(squeezed, w("fc2.weight"), w("fc2.bias")))

    check(randomised(SqueezeExcite(32)), twin, normal(2, 32, 3, 4))


def block(w, x, *, stride, dilation, project, multiscale, se):
    """One group after another, as the authors' code runs them."""
    inner = relu(w.bn("bn1", conv(x, w("conv1.weight"))))
    if multiscale and stride == 1:
        x0, x1, x2, x3 = np.split(inner, 4, axis=1)

        def small(i, group):
            weight = w(f"conv2.splits.{i}.0.weight")
            return w.bn(f"conv2.splits.{i}.1", conv(group, weight, padding=dilation, dilation=dilation))

        y0 = small(0, x0) if dilation == 2 else x0
        y1 = small(1, x1)
        y2 = small(2, y1 + x2)
        y3 = small(3, y2 + x3)
        inner = relu(np.concatenate([y0, y1, y2, y3], axis=1))
    else:
        weight = w("conv2.weight")
        inner = relu(w.bn("bn2", conv(inner, weight, stride=stride, padding=dilation, dilation=dilation)))
    y = w.bn("bn3", conv(inner, w("conv3.weight")))
    if se:
        squeezed = relu(conv(y.mean(axis=(2, 3), keepdims=True), w("se.fc1.weight"), w("se.fc1.bias")))
        y = y * sigmoid(conv(squeezed, w("se.fc2.weight"), w("se.fc2.bias")))
    shortcut = w.bn("downsample.1", conv(x, w("downsample.0.weight"), stride=stride)) if project else x
    return relu(y + shortcut)


@pytest.mark.parametrize(
    ("cin", "how"),
    [
        (32, {}),
        (12, {"project": True}),
        (12, {"project": True, "stride": 2}),
        (32, {"dilation": 2}),
        (32, {"dilation": 2, "project": True}),
        (32, {"se": False}),
        (32, {"dilation": 2, "project": True, "multiscale": False}),
        (32, {"multiscale": False, "se": False}),
    ],
    ids=str,
)
def test_bottleneck(cin: int, how: dict[str, Any]) -> None:
    module = HSRBottleneck(cin, 8, **how)
    how = {"stride": 1, "dilation": 1, "project": False, "multiscale": True, "se": True, **how}
    assert isinstance(module.conv2, MultiscaleConv) == (how["multiscale"] and how["stride"] == 1)
    check(randomised(module), lambda w, x: block(w, x, **how), normal(2, cin, 6, 5))


def test_every_bottleneck_of_stride_1_is_multiscale_and_every_one_has_an_se_block() -> None:
    network = shapes_only("hsr_msnet_59")
    ordinary = set()
    for name, module in network.named_modules():
        if isinstance(module, Bottleneck):
            assert isinstance(module.se, SqueezeExcite)
            assert module.se.fc1.out_channels == module.se.fc1.in_channels // 16
            if not isinstance(module.conv2, MultiscaleConv):
                ordinary.add((name, module.conv2.stride))
            else:
                passes = len(module.conv2.splits[0]) == 0
                assert passes == name.startswith(("layer1", "layer2", "layer3")), name
    assert ordinary == {("layer2.0", (2, 2)), ("layer3.0", (2, 2))}


def test_the_switches_of_table_2() -> None:
    def shapes(name: str, **switches: bool) -> dict[str, torch.Size]:
        with torch.device("meta"):
            return {key: value.shape for key, value in build_model(name, **switches).state_dict().items()}

    whole, plain = shapes("hsr_msnet_59"), shapes("hsrnet_59")
    assert shapes("hsr_msnet_59", se=False, multiscale=False) == plain
    only_se = shapes("hsr_msnet_59", multiscale=False)
    assert {key for key in only_se if ".se." not in key} == plain.keys()
    assert len(only_se) - len(plain) == 4 * 19
    assert shapes("hsr_msnet_59", se=False) == {key: shape for key, shape in whole.items() if ".se." not in key}


def test_the_small_convolutions_start_as_the_authors_do() -> None:
    """Normal(0, 0.001), but in the later bottlenecks of the new stages, which keep PyTorch's own start."""
    network = build_model("hsr_msnet_59")
    own = (3 * 9 * 64) ** -0.5
    for name, spread in {"layer1.0": 0.001, "layer3.5": 0.001, "layer4.0": 0.001, "layer5.2": own}.items():
        weight = network.get_submodule(f"{name}.conv2.splits.3.0").weight
        assert float(weight.detach().std()) == pytest.approx(spread, rel=0.1), name


@pytest.mark.slow
def test_the_graph_gives_pytorchs_numbers(liven: Callable[..., nn.Module], tmp_path: Path) -> None:
    """Groups, SE, dilations and deconvolutions of kernel 3 (which pad their output) in ONNX Runtime."""
    for module in ("onnx", "onnxscript", "onnxsim"):
        pytest.importorskip(module)
    import onnxruntime

    from edgepose.export.to_onnx import export_graph

    crops = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    config = ResNetConfig((1, 1, 1, 1, 1), multiscale=True, se=True)
    network = liven(ResNetPose(config, 14, kernel=3), crops)
    export_graph(network, (64, 64), tmp_path / "x.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "x.onnx")
    for batch in (1, 3):
        with torch.inference_mode():
            keypoints, heatmaps = PoseGraph(network)(torch.from_numpy(crops[:batch]))
        got = session.run(["keypoints", "heatmaps"], {"images": crops[:batch]})
        spread = np.ptp(heatmaps.numpy())
        np.testing.assert_allclose(got[1], heatmaps, atol=1e-4 * spread)
        np.testing.assert_allclose(got[0][..., :2], keypoints[..., :2], atol=1e-3)
