"""SimpleBaseline against the official implementation's names and numbers."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgepose.models import build_model
from edgepose.models.cost import macs_by_layer
from edgepose.models.resnet import ResNetConfig, ResNetPose
from tests.doubles.networks import filled, images_of
from tests.doubles.plain_layers import normal

NAME = "simplebaseline_r50_256x192"


@pytest.mark.slow
def test_simplebaseline_has_the_official_names_shapes_and_output(reference) -> None:
    official = reference.load(f"{NAME}.json")
    network = filled(build_model("simplebaseline_r50"))
    names = [[key, list(value.shape)] for key, value in network.state_dict().items()]
    assert names == [key[:2] for key in official["keys"]]
    with torch.inference_mode():
        output = network(images_of(111, 1, 3, 256, 192))
    reference.match(f"{NAME}_out.npz", output, reference.load(f"{NAME}_out.npz")["output"], atol=5e-6)
    costs = macs_by_layer(network, (256, 192))
    deconvolutions = sum(cost for name, cost in costs.items() if name.startswith("deconv_layers"))
    want = official["macs_one_image"]
    got = {"conv": sum(costs.values()) - deconvolutions, "deconv": deconvolutions}
    reference.match(f"{NAME}.json", list(got.values()), [want[kind] for kind in got])


def deconvolution(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Stride 2: every input pixel (N, C, h, w) adds its kernel around (2i, 2j); what falls outside 2h x 2w is lost."""
    n, _, height, width = x.shape
    kernel = weight.shape[2]
    before = (kernel - 1) // 2
    y = np.zeros((n, weight.shape[1], 2 * height, 2 * width))
    for i, j, u, v in np.ndindex(height, width, kernel, kernel):
        row, column = 2 * i - before + u, 2 * j - before + v
        if 0 <= row < 2 * height and 0 <= column < 2 * width:
            y[:, :, row, column] += x[:, :, i, j] @ weight[:, :, u, v]
    return y


@pytest.mark.parametrize("kernel", [2, 3, 4])
def test_deconvolutions_double_the_size(kernel: int) -> None:
    layer = ResNetPose(ResNetConfig((1, 1, 1, 1)), None, kernel=kernel).deconv_layers[3]
    x = normal(1, 256, 3, 4)
    want = deconvolution(x, layer.weight.detach().double().numpy())
    with torch.inference_mode():
        got = layer(torch.from_numpy(x)).numpy()
    assert np.ptp(want) > 0.05
    np.testing.assert_allclose(got, want, atol=1e-6)


# Padding and output padding by kernel: lib/models/pose_resnet.py of the official code, _get_deconv_cfg.
DECONVOLUTIONS = {2: (0, 0), 3: (1, 1), 4: (1, 0)}


@pytest.mark.parametrize(("name", "count"), [("simplebaseline_r50", 3), ("hsrnet_59", 2), ("simplebaseline_lite", 3)])
@pytest.mark.parametrize(("kernel", "paddings"), DECONVOLUTIONS.items())
def test_deconvolutions_are_padded_as_officially(name: str, count: int, kernel: int, paddings: tuple[int, int]) -> None:
    with torch.device("meta"):
        network = build_model(name, deconv_kernel=kernel)
    found = [layer for layer in network.deconv_layers if isinstance(layer, torch.nn.ConvTranspose2d)]
    assert len(found) == count
    for layer in found:
        assert (layer.kernel_size, layer.stride, layer.bias) == ((kernel, kernel), (2, 2), None)
        assert (layer.padding, layer.output_padding) == tuple((pad, pad) for pad in paddings)


def test_a_deconvolution_of_kernel_3_by_hand() -> None:
    """One pixel in the last corner: its kernel's centre lands on (2, 2) of 4x4, and the padded last row is written."""
    layer = ResNetPose(ResNetConfig((1, 1, 1, 1), width=4), None, kernel=3).deconv_layers[3]
    weight = torch.zeros(16, 16, 3, 3)
    weight[0, 0] = torch.arange(1.0, 10.0).reshape(3, 3)
    x = torch.zeros(1, 16, 2, 2)
    x[0, 0, 1, 1] = 1.0
    with torch.inference_mode():
        layer.weight.copy_(weight)
        got = layer(x)[0, 0].tolist()
    assert got == [[0, 0, 0, 0], [0, 1, 2, 3], [0, 4, 5, 6], [0, 7, 8, 9]]


@pytest.mark.parametrize("name", ["simplebaseline_r50", "hsr_msnet_59"])
def test_the_kernel_is_an_option(name: str) -> None:
    for kernel in (2, 3):
        with torch.device("meta"):
            network = build_model(name, deconv_kernel=kernel)
        assert network.deconv_layers[0].weight.shape[2:] == (kernel, kernel)
        assert network.eval()(torch.zeros(1, 3, 64, 96, device="meta")).shape == (1, 17, 16, 24)
