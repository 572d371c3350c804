"""SimpleBaseline against the official implementation's names and numbers."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from reference_weights import filled, images_of  # noqa: E402

from edgepose.train.models import build_model, macs_by_layer  # noqa: E402

NAME = "simplebaseline_r50_256x192"


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
