"""The public name of the networks' constructor."""

import pytest

pytest.importorskip("torch")


def test_build_model_keeps_its_public_name() -> None:
    from edgepose.models import build_model
    from edgepose.train import models

    assert models.build_model is build_model
