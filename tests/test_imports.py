"""The direction of imports: the runtime stands without the stages that make bundles."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import edgepose

PACKAGE = Path(edgepose.__file__).parent
#: What each folder may import of the others; the plain modules at the top are open to all.
ALLOWED = {
    "plugins": set(),
    "train": {"plugins"},
    "export": {"plugins", "train", "runtime"},
    "runtime": set(),
}
#: The reference backend needs the network itself, when it is asked for.
EXCEPTIONS = {("runtime/backends/torch.py", "train")}


def imported_folders(path: Path) -> set[str]:
    """Folders of the package that a file imports from, at any depth."""
    here = path.relative_to(PACKAGE).parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = (*here[: len(here) - node.level + 1], *(node.module or "").split("."))
            found.add(base[0])
    return found & ALLOWED.keys()


@pytest.mark.parametrize("folder", ALLOWED)
def test_folders_import_one_way(folder):
    wrong = {
        (str(path.relative_to(PACKAGE)), other)
        for path in (PACKAGE / folder).rglob("*.py")
        for other in imported_folders(path) - ALLOWED[folder] - {folder}
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


@pytest.mark.parametrize("module", ["runtime", "cli", "doctor", "verify", "bench"])
def test_heavy_modules_load_only_when_needed(module):
    code = f"import sys, edgepose.{module}; print(sorted({HEAVY} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
