"""Build the plugin library from its CUDA sources, find it, and load it into TensorRT."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import UsageError
from ..core.files import atomic_path, cache_folder
from ..nvidia.device import sm_number
from .spec import DOMAIN, OP_TYPE, VERSION

SOURCES = Path(__file__).parent / "cuda"
FILE_NAME = "libedgepose_plugins.so"
BUILD = "run: edgepose plugins build"


@dataclass(frozen=True)
class PluginLibrary:
    """A built library.

    Attributes:
        path: the library's file.
        tensorrt: (major, minor) version of the headers it was compiled with.
        architectures: SMs that it has code for, such as ``sm86``.
    """

    path: Path
    tensorrt: tuple[int, int]
    architectures: tuple[str, ...]

    def __str__(self) -> str:
        version = ".".join(map(str, self.tensorrt))
        return f"{self.path} (TensorRT {version}, {' '.join(self.architectures)})"

    def serves(self, sm: str) -> bool:
        """Return whether the library runs on an SM: code runs on its own SM and on later ones of the same major.

        >>> PluginLibrary(Path("p.so"), (10, 3), ("sm80", "sm87")).serves("sm89")
        True
        >>> PluginLibrary(Path("p.so"), (10, 3), ("sm80", "sm87")).serves("sm90")
        False
        """
        number = sm_number(sm)
        return any(number // 10 == own // 10 and own <= number for own in map(sm_number, self.architectures))


def library_path() -> Path:
    """Return the default path: in the folder that ``EDGEPOSE_PLUGINS`` names, else in the user's cache."""
    return Path(os.environ.get("EDGEPOSE_PLUGINS") or cache_folder() / "plugins") / FILE_NAME


def find_library(path: Path | None = None) -> PluginLibrary | None:
    """Return the library built at ``path`` (None for :func:`library_path`), or None if there is no such file.

    Raises:
        UsageError: the file is not edgepose's plugin library, or cannot be loaded.
    """
    path = path or library_path()
    if not path.is_file():
        return None
    try:
        describe = ctypes.CDLL(str(path)).edgeposeBuildInfo
        describe.restype = ctypes.c_char_p
        info = json.loads(describe())
        architectures = tuple(f"sm{number // 10}" for number in info["architectures"])
        return PluginLibrary(path, tuple(info["tensorrt"]), architectures)
    except (OSError, AttributeError, ValueError, KeyError) as error:
        raise UsageError(f"{path} cannot be loaded as a plugin library ({error}): {BUILD}") from error


def build_library(
    output: Path | None = None, tensorrt_root: Path | None = None, architectures: str | None = None
) -> PluginLibrary:
    """Compile the library with CMake and nvcc.

    Args:
        output: the file to write; None for :func:`library_path`.
        tensorrt_root: folder with ``include/NvInferRuntime.h``; None for the system's, such as JetPack's.
        architectures: SMs separated by commas, such as ``87,90``; None for all on edgepose's list that nvcc supports.

    Raises:
        UsageError: a tool or the headers are missing, an architecture is unknown, or the sources do not compile.
    """
    output = output or library_path()
    for tool, install in (
        ("cmake", "sudo apt-get install cmake, or pip install cmake"),
        ("nvcc", "install the CUDA toolkit and put its bin folder on the PATH; JetPack has it in /usr/local/cuda/bin"),
    ):
        if shutil.which(tool) is None:
            raise UsageError(f"{tool} is not on the PATH, but the plugin library is built with it: {install}")
    _require_headers(tensorrt_root)
    with tempfile.TemporaryDirectory(prefix="edgepose-plugins-") as folder:
        configure = ["cmake", "-S", str(SOURCES), "-B", folder]
        if tensorrt_root is not None:
            configure.append(f"-DTENSORRT_ROOT={tensorrt_root.resolve()}")
        if architectures is not None:
            configure.append(f"-DCMAKE_CUDA_ARCHITECTURES={_architecture_list(architectures)}")
        _run(configure)
        _run(["cmake", "--build", folder, "--parallel"])
        with atomic_path(output) as temporary:
            shutil.copy(Path(folder) / FILE_NAME, temporary)
    library = find_library(output)
    assert library is not None
    return library


def load_library(trt: Any, library: PluginLibrary, sm: str | None) -> None:
    """Register a library's plugin with TensorRT, unless it is registered already.

    ``sm`` is the GPU's SM, such as ``sm87``; None skips the check that the library has code for it.

    Raises:
        UsageError: the library is for another TensorRT major or lacks this GPU's code, or TensorRT cannot load it.
    """
    major = int(trt.__version__.split(".")[0])
    if library.tensorrt[0] != major:
        raise UsageError(f"the plugin library {library} does not fit TensorRT {trt.__version__}: {BUILD}")
    if sm is not None and not library.serves(sm):
        raise UsageError(f"the plugin library {library} has no code for this GPU, {sm}: {BUILD} --arch {sm_number(sm)}")
    if not is_registered(trt):
        trt.get_plugin_registry().load_library(str(library.path))
    if not is_registered(trt):
        raise UsageError(f"TensorRT {trt.__version__} found no {DOMAIN}::{OP_TYPE} in {library}: {BUILD}")


def is_registered(trt: Any) -> bool:
    """Return whether the plugin is in TensorRT's registry, in any form."""
    return trt.get_plugin_registry().get_creator(OP_TYPE, str(VERSION), DOMAIN) is not None


def _require_headers(root: Path | None) -> None:
    """Raise UsageError unless CMake will find TensorRT's headers: its own error is pages long."""
    system = [Path("/usr/include"), Path("/usr/local/include"), *Path("/usr/include").glob("*-linux-gnu")]
    folders = system if root is None else [root / "include", root]
    if any((folder / "NvInferRuntime.h").is_file() for folder in folders):
        return
    if root is not None:
        raise UsageError(f"{root} has no include/NvInferRuntime.h: give the folder that TensorRT was unpacked to")
    raise UsageError(
        "TensorRT's headers are not installed: sudo apt-get install libnvinfer-headers-dev (JetPack has them), or "
        "name the folder that TensorRT's archive was unpacked to with --tensorrt"
    )


def _architecture_list(text: str) -> str:
    """Return CMake's form of a list of SMs: of ``87,sm90``, ``87-real;90-real``."""
    numbers = [part.strip().removeprefix("sm").lstrip("_") for part in text.split(",")]
    if not all(number.isdigit() for number in numbers):
        raise UsageError(f"architectures {text!r}: expected SMs separated by commas, such as 87,90")
    listing = subprocess.run(["nvcc", "--list-gpu-code"], capture_output=True, text=True, check=False).stdout
    known = [code.removeprefix("sm_") for code in listing.split()]
    if unknown := [number for number in numbers if number not in known]:
        raise UsageError(f"this nvcc does not support SM {', '.join(unknown)}: expected some of {', '.join(known)}")
    return ";".join(f"{number}-real" for number in numbers)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        reasons = [line for line in lines if "error" in line.lower() and "errors occurred" not in line] or lines
        reason = reasons[0] if reasons else f"exit code {done.returncode}"
        raise UsageError(f"the plugin library could not be built, {command[0]} failed: {reason}")
