"""The programs in ``examples/`` run, and are as short as promised."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgepose.core.images import write_image
from edgepose.core.skeletons import LSP14

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run(name: str, *arguments: object) -> str:
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=EXAMPLES.parent)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def photographer(tmp_path: Path) -> Path:
    """A folder with one real picture: the first golden crop of the shipped bundle, a standing person."""
    with np.load(EXAMPLES.parent / "edgepose/assets/ditn_lite.edgepose/golden.npz") as goldens:
        write_image(tmp_path / "pictures" / "person.png", goldens["images"][0])
    return tmp_path / "pictures"


def test_all_are_here_and_short() -> None:
    programs = {path.stem: len(path.read_text().splitlines()) for path in EXAMPLES.glob("*.py")}
    assert sorted(programs) == ["estimator", "folder_to_csv", "own_detector", "own_sink", "own_source"]
    assert max(programs.values()) <= 30
    readme = (EXAMPLES / "README.md").read_text()
    assert all(f"({name}.py)" in readme for name in programs)


def test_estimator(photographer: Path) -> None:
    lines = run("estimator", photographer / "person.png", 20, 20, 170, 240).splitlines()
    assert [line.split()[0] for line in lines] == list(LSP14.joints)
    assert all(0 < float(line.split()[-1]) <= 1.5 for line in lines)


def test_own_source() -> None:
    assert run("own_source").startswith("5 frames, ")


@pytest.mark.slow
def test_own_sink(photographer: Path) -> None:
    *people, end = run("own_sink", photographer).splitlines()
    assert end == "end"
    assert all(line.startswith("person.png: person ") for line in people)


def test_own_detector(photographer: Path) -> None:
    assert run("own_detector", photographer / "person.png") == "(1, 14, 3)\n"


def test_folder_to_csv(photographer: Path, tmp_path: Path) -> None:
    run("folder_to_csv", photographer, tmp_path / "out.csv")
    head, *rows = csv.reader((tmp_path / "out.csv").open())
    assert head[:3] == ["picture", "score", "right_ankle_x"] and len(head) == 2 + 2 * len(LSP14.joints)
    assert all(row[0] == "person.png" and len(row) == len(head) for row in rows)
