"""Pages that a script writes say what it writes today."""

import importlib
from pathlib import Path

import pytest

pytest.importorskip("torch")

_ROOT = Path(__file__).resolve().parents[1]


def test_the_sizes_of_the_networks_are_those_of_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(_ROOT / "benchmarks"))
    document = importlib.import_module("model_sizes").document()
    page = (_ROOT / "docs/models.md").read_text(encoding="utf-8")
    assert page == document, "run: python benchmarks/model_sizes.py --docs docs/models.md"
