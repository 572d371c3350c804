"""Errors, and the one table of what installs which module."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import Any

import pytest

import edgepose
from edgepose.backends import plan
from edgepose.core.errors import EXTRAS, CheckError, EdgeposeError, UsageError, install_line, missing_extra
from edgepose.doctor import examine

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

PACKAGE = Path(edgepose.__file__).parent
PYPROJECT = PACKAGE.parent / "pyproject.toml"

#: The distribution that brings a module, where its name is another one.
DISTRIBUTIONS = {
    "cv2": "opencv-python-headless",
    "skimage": "scikit-image",
    "cuda": "cuda-python",
    "tensorrt_rtx": "tensorrt-rtx-cu13",
    "google": "onnx",  # which needs protobuf
}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    if not PYPROJECT.is_file():
        pytest.skip("needs the source tree: pyproject.toml is not beside the package")
    return tomllib.loads(PYPROJECT.read_text())["project"]


def distributions(project: dict[str, Any], extra: str) -> set[str]:
    """What an extra installs by name, with the extras that it names itself; "" is the package without extras."""
    found = set()
    for line in project["optional-dependencies"][extra] if extra else project["dependencies"]:
        own = re.match(r"edgepose\[(.+)\]", line)
        if own:
            found |= {name for other in own[1].split(",") for name in distributions(project, other)}
        else:
            found.add(re.split(r"[^\w-]", line, maxsplit=1)[0])
    return found


def imported_modules(folder: Path) -> set[str]:
    """The first parts of all modules that the files of a folder import by an absolute name, at any depth."""
    found = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                found.add(node.module.partition(".")[0])
    return found


def test_every_module_that_is_imported_is_in_the_table() -> None:
    others = imported_modules(PACKAGE) - sys.stdlib_module_names
    assert others - {"tensorrt"} <= set(EXTRAS)


def test_every_module_comes_with_its_extra(project: dict[str, Any]) -> None:
    for module, extra in EXTRAS.items():
        assert DISTRIBUTIONS.get(module, module) in distributions(project, extra), (module, extra)


@pytest.mark.parametrize("extra", ["", "onnx", "openvino", "tensorrt", "rtx"])
def test_what_a_board_installs_brings_no_pytorch(project: dict[str, Any], extra: str) -> None:
    assert not distributions(project, extra) & {"torch", "onnxscript", "safetensors", "tensorboard"}


def test_all_is_everything_but_tensorrt_itself(project: dict[str, Any]) -> None:
    declared = set(project["optional-dependencies"]) - {"all", "dev"}
    wanted = {name for extra in declared for name in distributions(project, extra)}
    assert distributions(project, "all") == wanted
    assert "tensorrt" not in wanted


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("onnx", "pip install 'edgepose[onnx]'"),
        ("matplotlib", "pip install 'edgepose[onnx]'"),
        ("google.protobuf.message", "pip install 'edgepose[onnx]'"),
        ("onnxruntime", "pip install edgepose"),
        ("torch", "pip install 'edgepose[train]'"),
        ("onnxscript", "pip install 'edgepose[export]'"),
        ("tensorrt_rtx", "pip install 'edgepose[rtx]'"),
        ("flatbuffers", "pip install flatbuffers"),
    ],
)
def test_a_missing_module_is_told_with_its_line(module: str, line: str) -> None:
    said = f"the Python module '{module}' is not installed: {line}"
    assert str(missing_extra(module)) == said


def test_tensorrt_comes_from_jetpack_or_pip() -> None:
    assert install_line("tensorrt").startswith("pip install tensorrt; on Jetson it is part of JetPack")


@pytest.mark.parametrize("backend", plan.BACKENDS)
def test_doctor_and_the_backends_name_the_same_line(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgepose.backends.backend.find_spec", lambda _: None)
    monkeypatch.setattr("edgepose.doctor.find_spec", lambda _: None)
    line = next(finding.install for finding in examine() if finding.item == f"backend {backend}")
    assert str(plan.unavailable(backend)).endswith(line)
    assert line == install_line(plan.BACKENDS[backend].module)


def test_both_errors_have_one_base() -> None:
    assert edgepose.EdgeposeError is EdgeposeError
    for kind in (UsageError, CheckError):
        assert issubclass(kind, EdgeposeError)
        with pytest.raises(edgepose.EdgeposeError, match="why"):
            raise kind("why")
