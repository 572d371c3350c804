"""DITN's modules against a plain NumPy twin, written from the equations with loops."""

import numpy as np
import pytest

pytest.importorskip("torch")

from edgepose.core.skeletons import Skeleton
from edgepose.models.ditn import (
    ChannelAttention,
    Decoder,
    DitnSwitches,
    InformationTransfer,
    ParameterAdapter,
    SpatialAttention,
)
from tests.doubles.dynamic_conv_loops import dynamic_depthwise_conv2d
from tests.doubles.plain_layers import check, conv, normal, pool, randomised, relu, sigmoid

CHAIN = Skeleton("chain", ("a", "b", "c"), ((0, 1), (1, 2)), ())


def decoder(w, f, *, linear, form):
    y = relu(w.bn("expand.1", conv(f, w("expand.0.weight"))))
    y = w.bn("reduce.1", conv(y, w("reduce.0.weight"), padding=1))
    y = relu(y) + f if form == 1 else relu(f + y)
    if linear:
        return conv(y, w("head.weight"), w("head.bias"))
    return relu(w.bn("head.1", conv(y, w("head.0.weight"))))


@pytest.mark.parametrize("form", [1, 2])
@pytest.mark.parametrize("linear", [False, True])
def test_decoder(linear, form):
    module = randomised(Decoder(4, 3, linear=linear, form=form))
    check(module, lambda w, f: decoder(w, f, linear=linear, form=form), normal(2, 4, 6, 5))


def adapter(w, bones, prefix=""):
    groups = bones.shape[1] // 2
    y = pool(conv(bones, w(f"{prefix}conv1.weight"), stride=2, groups=groups))
    y = pool(conv(y, w(f"{prefix}conv2.weight"), padding=1, groups=groups))
    y = conv(y, w(f"{prefix}conv3.weight"), padding=1, groups=groups)
    return y[:, :, : y.shape[2] - (y.shape[2] + 1) % 2, : y.shape[3] - (y.shape[3] + 1) % 2]


@pytest.mark.parametrize("maps", [(32, 24), (24, 40)])  # 24 gives an even side, which loses its last row
def test_parameter_adapter(maps):
    check(randomised(ParameterAdapter(2)), adapter, normal(2, 4, *maps))


#: Readings of both gates: the authors' code, its ReLU left out, and the form before.
GATES = [{}, {"gate_relu": False}, {"form": 1}]


def gate_of(y, gate_relu=True, form=2):
    return 1 + sigmoid(relu(y) if gate_relu and form == 2 else y)


def channel_attention(w, x, prefix="", **gate):
    groups = x.shape[1] // 2
    g = relu(w.bn(f"{prefix}bn", conv(x, w(f"{prefix}conv.weight"), padding=1, groups=groups)))
    y = conv(g.mean(axis=(2, 3), keepdims=True), w(f"{prefix}gate.weight"), w(f"{prefix}gate.bias"), groups=groups)
    if gate.get("form", 2) == 2:
        y = w.bn(f"{prefix}gate_bn", y)
    return gate_of(y, **gate) * g


@pytest.mark.parametrize("gate", GATES, ids=str)
def test_channel_attention(gate):
    module = randomised(ChannelAttention(3, **gate))
    check(module, lambda w, x: channel_attention(w, x, **gate), normal(2, 6, 7, 5))


@pytest.mark.parametrize("gate", GATES, ids=str)
def test_spatial_attention(gate):
    def twin(w, x):
        g = relu(w.bn("residual.1", conv(x, w("residual.0.weight"), padding=1)))
        y = relu(w.bn("point.1", conv(g, w("point.0.weight"))))
        return gate_of(w.bn("bn", conv(y, w("depth.weight"), padding=4, groups=x.shape[1])), **gate) * g

    check(randomised(SpatialAttention(3, **gate)), twin, normal(2, 3, 11, 10))


def transfer(w, joints, bones, form):
    grouped = conv(joints, w("mix.weight"))[:, [0, 1, 1, 2]]  # bone ab, bone bc
    theta = adapter(w, bones[:, [0, 0, 1, 1]], "adapter.")
    refined = grouped + channel_attention(w, dynamic_depthwise_conv2d(grouped, theta), "attention.", form=form)
    middle = refined[:, 1] + refined[:, 2]
    return np.stack([refined[:, 0], middle / 2 if form == 1 else middle, refined[:, 3]], axis=1)


@pytest.mark.parametrize("form", [1, 2])
def test_information_transfer(form):
    module = randomised(InformationTransfer(CHAIN, DitnSwitches(form=form)))
    check(module, lambda w, joints, bones: transfer(w, joints, bones, form), normal(2, 3, 32, 24), normal(2, 2, 32, 24))
