"""Compile CUDA kernels at run time with NVRTC, for the GPU in use and without an installed compiler."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from ..core.errors import UsageError


@lru_cache(maxsize=256)
def compile_kernel(source: Path, kernel: str, architecture: str) -> tuple[bytes, bytes]:
    """Compile one kernel of a CUDA file; return the code, and the kernel's name in it.

    Args:
        source: the file; it must not include others.
        kernel: C++ expression that names the kernel, see :mod:`edgepose.plugins.launch`.
        architecture: ``compute_86`` for PTX, ``sm_86`` for machine code.

    Raises:
        UsageError: cuda-python or NVRTC is not installed, or NVRTC cannot compile the kernel for this architecture.
    """
    nvrtc = _import_nvrtc()
    (program,) = _check(nvrtc, nvrtc.nvrtcCreateProgram(source.read_bytes(), source.name.encode(), 0, [], []))
    try:
        expression = kernel.encode()
        _check(nvrtc, nvrtc.nvrtcAddNameExpression(program, expression))
        options = [b"--std=c++17", f"--gpu-architecture={architecture}".encode()]
        result = nvrtc.nvrtcCompileProgram(program, len(options), options)
        if result[0] != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise UsageError(
                f"NVRTC {_version(nvrtc)} cannot compile {kernel} for {architecture}: {_log(nvrtc, program)}"
            )
        (name,) = _check(nvrtc, nvrtc.nvrtcGetLoweredName(program, expression))
        kind = "CUBIN" if architecture.startswith("sm_") else "PTX"
        (size,) = _check(nvrtc, getattr(nvrtc, f"nvrtcGet{kind}Size")(program))
        code = bytearray(size)
        _check(nvrtc, getattr(nvrtc, f"nvrtcGet{kind}")(program, code))
        return bytes(code), bytes(name)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _import_nvrtc() -> Any:
    try:
        from cuda.bindings import nvrtc

        nvrtc.nvrtcVersion()
    except ImportError as error:
        raise UsageError("the Python module 'cuda.bindings' is needed here: pip install cuda-python") from error
    except RuntimeError as error:
        raise UsageError(
            "NVRTC is not installed: install the CUDA toolkit, or pip install nvidia-cuda-nvrtc"
        ) from error
    return nvrtc


def _check(nvrtc: Any, result: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the values of a cuda-python result; raise UsageError if its first element is an error."""
    error, *values = result
    if error != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise UsageError(f"NVRTC {_version(nvrtc)} reported {nvrtc.nvrtcGetErrorString(error)[1].decode()}")
    return tuple(values)


def _version(nvrtc: Any) -> str:
    _, major, minor = nvrtc.nvrtcVersion()
    return f"{major}.{minor}"


def _log(nvrtc: Any, program: Any) -> str:
    """Return the first line of the compiler's log."""
    (size,) = _check(nvrtc, nvrtc.nvrtcGetProgramLogSize(program))
    text = bytearray(size)
    _check(nvrtc, nvrtc.nvrtcGetProgramLog(program, text))
    return bytes(text).rstrip(b"\0").decode().strip().partition("\n")[0]
