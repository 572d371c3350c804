"""Pages that a script writes say what it writes today."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest

from edgepose import __version__

pytest.importorskip("torch")

_ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def model_sizes(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(_ROOT / "benchmarks"))
    return importlib.import_module("model_sizes")


@pytest.mark.slow
def test_the_sizes_of_the_networks_are_those_of_the_code(model_sizes: ModuleType) -> None:
    page = (_ROOT / "docs/models.md").read_text(encoding="utf-8")
    assert page == model_sizes.document(), "run: python benchmarks/model_sizes.py --docs docs/models.md"


def test_every_network_is_on_the_page(model_sizes: ModuleType) -> None:
    from edgepose.models import MODELS

    assert {row.model for row in model_sizes.NETWORKS} == set(MODELS)


def test_the_citation_names_the_version() -> None:
    assert f"\nversion: {__version__}\n" in (_ROOT / "CITATION.cff").read_text(encoding="utf-8")
