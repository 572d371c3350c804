"""The direction of imports: the runtime stands without the stages that make bundles."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import edgepose

PACKAGE = Path(edgepose.__file__).parent
#: Modules at the top that import only each other, and are open to all.
PLAIN = {
    *(
        "bundle",
        "coco_eval",
        "engines",
        "errors",
        "files",
        "geometry",
        "heatmaps",
        "images",
        "limits",
        "metrics",
        "persons",
        "photos",
        "skeletons",
    ),
    "tables",
    "timing",
}
#: What each folder may import beside the plain modules.
ALLOWED = {
    **{part: set() for part in PLAIN},
    "plugins": set(),
    "runtime": {"plugins"},
    "train": {"plugins"},
    "machine": {"runtime"},
    "export": {"machine", "plugins", "runtime", "train"},
    "calib": {"export", "machine", "plugins", "runtime", "train"},
}
#: One command each, on top of all: these may import everything, and of the others nobody imports them.
COMMANDS = {"bench", "bench_pipeline", "cli", "demo", "doctor", "evaluate", "prove", "verify"}
PARTS = ALLOWED.keys() | COMMANDS
#: The reference backend needs the network itself, when it is asked for; the detector's training has people found in
#: pictures where not everyone is labelled.
EXCEPTIONS = {("runtime/backends/torch.py", "train"), ("train/detector/teacher.py", "runtime")}


def files_of(part: str) -> list[Path]:
    """A module at the top, or all of a folder."""
    folder = PACKAGE / part
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]


def imported_parts(path: Path) -> set[str]:
    """Folders and top-level modules of the package that a file imports from, at any depth."""
    here = path.relative_to(PACKAGE).parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = (*here[: len(here) - node.level + 1], *filter(None, (node.module or "").split(".")))
            found |= {base[0]} if base else {alias.name for alias in node.names}
    return found & PARTS


def test_every_part_is_listed():
    there = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert there - {"__init__", "__main__"} == PARTS


def test_imports_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    file = tmp_path / "runtime" / "backends" / "x.py"
    file.parent.mkdir(parents=True)
    file.write_text(
        "from ... import bundle\ndef f():\n    from ...train.data import y\nfrom ..cuda import z\nimport os"
    )
    assert imported_parts(file) == {"bundle", "train", "runtime"}
    (tmp_path / "top.py").write_text("from . import demo, __version__\nfrom .export.graph import a")
    assert imported_parts(tmp_path / "top.py") == {"demo", "export"}


@pytest.mark.parametrize("part", sorted(ALLOWED))
def test_parts_import_one_way(part):
    wrong = {
        (path.relative_to(PACKAGE).as_posix(), other)
        for path in files_of(part)
        for other in imported_parts(path) - ALLOWED[part] - PLAIN - {part}
    }
    assert wrong - EXCEPTIONS == set()


HEAVY = {
    "cuda",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "openvino",
    "scipy",
    "skimage",
    "tensorrt",
    "tensorrt_rtx",
    "torch",
}


@pytest.mark.parametrize(
    "module",
    ["runtime", "cli", "doctor", "verify", "bench", "bench_pipeline", "evaluate", "demo", "engines", "machine"],
)
def test_heavy_modules_load_only_when_needed(module):
    code = f"import sys, edgepose.{module}; print(sorted({HEAVY} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
