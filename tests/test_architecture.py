"""The direction of imports, and what may not be loaded by looking at a module."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tools.architecture import FRONT_DOORS, PACKAGE, ROOMS, Import, arrows, breaches, imports, picture

#: Most rooms, and most pairs of a room and one that it imports from.
MOST_ROOMS, MOST_ARROWS = 24, 115
PICTURE = PACKAGE.parent / "docs" / "architecture.svg"


@pytest.fixture(scope="module")
def found() -> list[Import]:
    return imports()


def test_every_room_is_in_the_list() -> None:
    there = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert there - {"__init__", "__main__"} == set(ROOMS)


def test_a_folder_imports_only_folders_above_it_and_of_another_command_what_it_offers(found: list[Import]) -> None:
    assert breaches(found) == []


def test_nobody_imports_a_front_door(found: list[Import]) -> None:
    assert {one.room for one in found if one.target in FRONT_DOORS} <= set(FRONT_DOORS)


def test_rooms_and_arrows_stay_few(found: list[Import]) -> None:
    assert len(ROOMS) <= MOST_ROOMS
    assert len(arrows(found)) <= MOST_ARROWS


def test_the_picture_is_drawn_from_todays_imports(found: list[Import]) -> None:
    assert PICTURE.read_text(encoding="utf-8") == picture(found), "the imports have changed: run make docs"


def test_the_picture_has_one_cell_per_arrow() -> None:
    drawn = picture([Import("bundle/x.py", 1, "bundle", "core", 2), Import("bundle/y.py", 1, "bundle", "core", 1)])
    assert drawn.count('rx="3"') == 1
    assert f"{len(ROOMS)} rooms, 1 arrows" in drawn
    assert drawn.count("<text") == 2 * len(ROOMS) + 1


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A package ``edgepose`` with a few rooms of one or two empty modules."""
    package = tmp_path / "edgepose"
    for file in ("core/files.py", "runtime/run.py", "build/engine.py", "calib/crops.py", "cli/commands.py"):
        path = package / file
        path.parent.mkdir(parents=True)
        path.touch()
        (path.parent / "__init__.py").touch()
    (package / "demo.py").touch()
    return package


@pytest.mark.parametrize(
    ("file", "line", "want"),
    [
        ("runtime/run.py", "from ..core.files import write_text", ("core", 2)),
        ("runtime/run.py", "from ..core import files", ("core", 2)),
        ("runtime/run.py", "from .. import core", ("core", 1)),
        ("runtime/run.py", "def f():\n    from edgepose.build import build_engine", ("build", 1)),
        ("runtime/run.py", "import edgepose.build.engine", ("build", 2)),
        ("runtime/__init__.py", "from ..core.files import write_text", ("core", 2)),
        ("demo.py", "from .build.engine import build_engine", ("build", 2)),
        ("cli/commands.py", "from .. import demo, __version__", ("demo", 1)),
    ],
)
def test_imports_are_found_in_every_form(house: Path, file: str, line: str, want: tuple[str, int]) -> None:
    (house / file).write_text(line)
    assert [(one.target, one.depth) for one in imports(house)] == [want]


@pytest.mark.parametrize(
    "line", ["from .engine import x", "import os", "from numpy import core", "from .. import __version__"]
)
def test_what_is_no_import_of_another_room_is_not_found(house: Path, line: str) -> None:
    (house / "build/engine.py").parent.joinpath("other.py").write_text(line)
    assert imports(house) == []


@pytest.mark.parametrize(
    ("file", "line", "why"),
    [
        ("core/files.py", "from ..runtime.run import f", "runtime does not stand above core"),
        ("build/engine.py", "def f():\n    from ..calib import g", "calib does not stand above build"),
        ("calib/crops.py", "from ..build.engine import f", "expected: from ..build import NAME"),
        ("calib/crops.py", "from ..build import engine", "expected: from ..build import NAME"),
        ("calib/crops.py", "from ..build import f", None),
        ("cli/commands.py", "from ..build.engine import f", None),
        ("runtime/run.py", "from ..demo import f", "demo does not stand above runtime"),
        ("demo.py", "from .attic import f", None),
    ],
)
def test_breaches_are_named(house: Path, file: str, line: str, why: str | None) -> None:
    (house / file).write_text(line)
    sentences = breaches(imports(house))
    assert [sentence.partition(": ")[2] for sentence in sentences] == ([why] if why else [])
    assert all(sentence.startswith(f"{file}:") for sentence in sentences)


def test_a_room_that_the_list_lacks_is_named(house: Path) -> None:
    (house / "attic").mkdir()
    (house / "attic/x.py").write_text("from ..core.files import f")
    assert breaches(imports(house)) == ["attic/x.py:1 imports core: a room that the list lacks"]


#: Modules that take long to load, or that a board lacks.
HEAVY = {
    "cuda",
    "matplotlib",
    "ml_dtypes",
    "onnx",
    "onnxruntime",
    "onnxsim",
    "openvino",
    "pycocotools",
    "scipy",
    "skimage",
    "tensorrt",
    "tensorrt_rtx",
    "torch",
    "tqdm",
}
#: Rooms whose networks are PyTorch's own.
PYTORCH = {"models", "train", "export"}


def test_the_whole_package_but_pytorchs_rooms_loads_nothing_heavy() -> None:
    rooms = [room for room in ROOMS if room not in PYTORCH]
    code = (
        "import sys, edgepose, importlib\n"
        f"for room in {rooms}:\n"
        "    importlib.import_module(f'edgepose.{room}')\n"
        f"    print(room, sorted({HEAVY} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == [f"{room} []" for room in rooms]


@pytest.mark.parametrize(
    "room", ["core", "nvidia", "bundle", "data", "plugins", "backends", "detectors", "runtime", "accuracy"]
)
def test_every_module_of_the_runtime_loads_nothing_heavy(room: str) -> None:
    """``plugins/torch_op.py`` is PyTorch's by name."""
    files = [path for path in sorted((PACKAGE / room).rglob("*.py")) if not path.stem.startswith("torch_")]
    modules = [".".join((PACKAGE.name, *path.relative_to(PACKAGE).with_suffix("").parts)) for path in files]
    code = (
        f"import sys, importlib\nfor name in {modules}:\n    importlib.import_module(name)\n"
        f"print(sorted({HEAVY} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
