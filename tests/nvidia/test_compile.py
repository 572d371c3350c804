"""Kernels compiled at run time: NVRTC needs no GPU."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from edgepose.core.errors import UsageError
from edgepose.nvidia import compile as nvrtc
from edgepose.plugins import launch

pytest.importorskip("cuda.bindings.nvrtc")
try:
    nvrtc.compile_kernel(launch.SOURCE, "edgepose::convolve_any_kernel<float>", "compute_80")
except UsageError as missing:
    pytest.skip(str(missing), allow_module_level=True)

PLANS = [
    plan
    for dtype in launch.TYPES
    for plan in (
        *(launch.forward(38, 64, 48, kernel, dtype) for kernel in launch.SPECIALISED),
        launch.forward(38, 64, 47, (3, 3), dtype),
        launch.kernel_gradient(38, 64, 48, (7, 5), dtype),
    )
]


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.kernel.removeprefix("edgepose::"))
def test_every_kernel_that_is_launched_can_be_compiled_and_takes_its_arguments(plan):
    code, name = nvrtc.compile_kernel(plan.source, plan.kernel, "compute_75")
    declared = re.search(rf"\.entry {re.escape(name.decode())}\((.*?)\)", code.decode(), re.DOTALL)
    kinds = re.findall(r"\.param \.(\w+)", declared[1])
    assert kinds == ["u64", "u64", *["u32"] * len(plan.arguments), "u64"]


def test_machine_code_is_made_for_one_architecture():
    code, _ = nvrtc.compile_kernel(launch.SOURCE, PLANS[0].kernel, "sm_87")
    assert code.startswith(b"\x7fELF")


def test_an_architecture_that_nvrtc_does_not_know_is_named():
    with pytest.raises(UsageError, match=r"NVRTC \d+\.\d+ cannot compile edgepose::.* for compute_10: .*architecture"):
        nvrtc.compile_kernel(launch.SOURCE, PLANS[0].kernel, "compute_10")


def test_a_missing_nvrtc_is_said_with_what_installs_it(monkeypatch):
    from cuda.bindings import nvrtc as bindings

    def absent():
        raise RuntimeError("libnvrtc.so")

    monkeypatch.setattr(bindings, "nvrtcVersion", absent)
    with pytest.raises(UsageError, match="pip install nvidia-cuda-nvrtc"):
        nvrtc.compile_kernel(launch.SOURCE, "edgepose::convolve_any_kernel<float>", "compute_86")


@pytest.mark.parametrize(("dtype", "wide"), [("float32", 2), ("float16", 1), ("bfloat16", 1)])
@pytest.mark.parametrize("kernel", launch.SPECIALISED)
def test_a_strip_is_read_and_written_16_bytes_at_a_time(dtype, wide, kernel):
    code, _ = nvrtc.compile_kernel(launch.SOURCE, launch.forward(38, 64, 48, kernel, dtype).kernel, "compute_87")
    reads, writes = (
        re.findall(rb"\bld\.global\.nc\.v4\.[uf]32", code),
        re.findall(rb"\bst\.global\.v4\.[uf]32", code),
    )
    input_rows = launch.ROWS + kernel[0] - 1
    halo = 2 * input_rows if dtype == "float32" and kernel[1] == 7 else 0  # 4 columns of 4 bytes on either side
    assert len(reads) == wide * input_rows + halo
    assert len(writes) == wide * launch.ROWS
    assert not re.search(rb"\b(ld|st)\.local", code)


@pytest.fixture
def disassemble(tmp_path: Path):
    """The instructions of a kernel's machine code, by CUDA's own disassembler: the toolkit's or its wheels'."""
    wheels = Path(sysconfig.get_path("purelib")) / "nvidia" / "cu13" / "bin"
    path = os.pathsep.join([os.environ["PATH"], str(wheels)])
    tool = shutil.which("cuobjdump", path=path)
    if tool is None or shutil.which("nvdisasm", path=path) is None:
        pytest.skip("cuobjdump and nvdisasm are not installed: pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm")

    def instructions(code: bytes) -> list[str]:
        (tmp_path / "kernel.cubin").write_bytes(code)
        command = [tool, "-sass", tmp_path / "kernel.cubin"]
        listing = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "PATH": path})
        return re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z][\w.]*)", listing.stdout, re.MULTILINE)

    return instructions


@pytest.mark.parametrize("sm", ["sm_87", "sm_90"])
@pytest.mark.parametrize(("dtype", "wide"), [("float32", 20), ("float16", 10), ("bfloat16", 10)])
def test_the_machine_code_is_multiply_adds_and_wide_loads(disassemble, dtype, wide, sm):
    code, _ = nvrtc.compile_kernel(launch.SOURCE, launch.forward(38, 64, 48, (7, 5), dtype).kernel, sm)
    instructions = disassemble(code)
    assert sum(name.startswith("LDG.E.128") for name in instructions) == wide
    assert sum(name.startswith("STG.E.128") for name in instructions) == launch.ROWS * (2 if dtype == "float32" else 1)
    assert not [name for name in instructions if name.startswith(("LDL", "STL"))]
    assert instructions.count("FFMA") == launch.ROWS * launch.STRIP * 7 * 5
    assert instructions.count("FFMA") > 0.6 * len(instructions)
