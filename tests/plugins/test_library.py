"""The plugin library: compiled against TensorRT's headers, and loaded into the registry of its lean runtime."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgepose.core.errors import UsageError
from edgepose.plugins import library as module
from edgepose.plugins.library import FILE_NAME, SOURCES, PluginLibrary, build_library, find_library, load_library

#: Folders of unpacked TensorRT releases, each with include/, separated by ":"; the last one builds the library.
HEADERS = [Path(folder) for folder in os.environ.get("EDGEPOSE_TENSORRT_HEADERS", "").split(":") if folder]

needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="there is no nvcc")
needs_headers = pytest.mark.skipif(not HEADERS, reason="EDGEPOSE_TENSORRT_HEADERS names no folders of TensorRT headers")


@pytest.mark.slow
@needs_nvcc
def test_the_kernels_compile_for_every_architecture_without_spills_or_local_memory(tmp_path):
    known = subprocess.run(["nvcc", "--list-gpu-code"], capture_output=True, text=True, check=True).stdout.split()
    wanted = [sm for sm in ("sm_75", "sm_80", "sm_86", "sm_87", "sm_89", "sm_90", "sm_110", "sm_120") if sm in known]
    assert len(wanted) >= 6
    codes = [f"-gencode=arch=compute_{sm[3:]},code={sm}" for sm in wanted]
    strict = ["-Xcompiler=-Wall,-Wextra,-Werror", "-Werror=all-warnings", "-Xptxas=-v"]
    command = ["nvcc", "-std=c++17", *codes, *strict, "-c", SOURCES / "dynamic_conv.cu", "-o", tmp_path / "kernels.o"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", said)
    kernels = 3 * 4  # three sizes and any, by three types; the gradient is for NVRTC alone
    assert len(frames) == kernels * len(wanted)
    assert set(frames) == {("0", "0", "0")}


@pytest.mark.slow
@needs_nvcc
def test_the_launcher_checks_its_arguments(tmp_path):
    program = tmp_path / "arguments"
    sources = [SOURCES / "dynamic_conv.cu", Path(__file__).with_name("dynamic_conv_arguments.cpp")]
    command = ["nvcc", "-std=c++17", "-Xcompiler=-Wall,-Wextra", f"-I{SOURCES}", "-arch=sm_90", *sources, "-o", program]
    subprocess.run(command, check=True)
    said = subprocess.run([program], capture_output=True, text=True, check=True).stdout.splitlines()
    shape, kernel = (
        "x is too large for one launch, or has a negative side",
        "the sides of the kernels must be odd, from 1 to 11",
    )
    assert dict(line.split(": ", 1) for line in said) == {
        **dict.fromkeys(("even", "large", "zero"), kernel),
        **dict.fromkeys(("negative", "huge batch", "huge map", "huge grid"), shape),
        "null": "a tensor has no memory",
        "type": "the type must be float32, float16 or bfloat16",
        **dict.fromkeys(("empty batch", "empty map"), "done"),
    }


@needs_nvcc
@needs_headers
@pytest.mark.parametrize("headers", HEADERS, ids=lambda folder: folder.name)
def test_the_plugin_compiles_without_warnings(headers, tmp_path):
    strict = ["-std=c++17", "-Xcompiler=-Wall,-Wextra,-Werror", "-isystem", headers / "include"]
    subprocess.run(["nvcc", *strict, "-c", SOURCES / "plugin.cpp", "-o", tmp_path / "plugin.o"], check=True)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> PluginLibrary:
    if not HEADERS or shutil.which("nvcc") is None:
        pytest.skip("EDGEPOSE_TENSORRT_HEADERS names no folders of TensorRT headers, or there is no nvcc")
    return build_library(tmp_path_factory.mktemp("plugins") / FILE_NAME, HEADERS[-1], "87,90")


def test_a_built_library_says_what_it_was_built_for(built):
    version = (HEADERS[-1] / "include" / "NvInferVersion.h").read_text()
    major = re.search(r"define (?:NV_TENSORRT_MAJOR|TRT_MAJOR_ENTERPRISE) (\d+)", version)[1]
    assert built.tensorrt[0] == int(major)
    assert built.architectures == ("sm87", "sm90")
    assert find_library(built.path) == built


def test_tensorrts_own_registry_finds_the_plugin(built, capfd):
    trt = pytest.importorskip("tensorrt_lean_bindings", reason="tensorrt-lean-cu13-bindings is not installed")
    load_library(trt, built, "sm90")
    load_library(trt, built, None)  # a second time is nothing
    creator = trt.get_plugin_registry().get_creator("DynamicDepthwiseConv2d", "1", "edgepose")
    assert (creator.name, creator.plugin_version, creator.plugin_namespace) == (
        "DynamicDepthwiseConv2d",
        "1",
        "edgepose",
    )
    plugin = creator.create_plugin("conv", trt.PluginFieldCollection([]), trt.TensorRTPhase.BUILD)
    assert plugin is not None
    field = trt.PluginField("stride", b"\1\0\0\0", trt.PluginFieldType.INT32)
    assert creator.create_plugin("conv", trt.PluginFieldCollection([field]), trt.TensorRTPhase.BUILD) is None
    assert "edgepose::DynamicDepthwiseConv2d: got the attribute stride, but it takes none" in capfd.readouterr().err


LIBRARY = PluginLibrary(Path("p.so"), (10, 3), ("sm86", "sm87"))


@pytest.mark.parametrize(
    ("version", "sm", "complaint"),
    [
        (
            "11.1.0",
            None,
            r"p.so \(TensorRT 10.3, sm86 sm87\) does not fit TensorRT 11.1.0: run: edgepose plugins build",
        ),
        ("10.13.2", "sm90", r"has no code for this GPU, sm90: run: edgepose plugins build --arch 90"),
        ("10.13.2", "sm87", r"TensorRT 10.13.2 found no edgepose::DynamicDepthwiseConv2d in p.so"),
    ],
)
def test_a_library_that_does_not_fit_is_refused(version, sm, complaint):
    empty = SimpleNamespace(get_creator=lambda *_: None, load_library=lambda _: None)
    trt = SimpleNamespace(__version__=version, get_plugin_registry=lambda: empty)
    with pytest.raises(UsageError, match=complaint):
        load_library(trt, LIBRARY, sm)


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"text"])
def test_a_file_that_is_no_library_is_refused(content, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEPOSE_PLUGINS", str(tmp_path))
    assert find_library() is None
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(UsageError, match=r"cannot be loaded as a plugin library .*: run: edgepose plugins build"):
        find_library()


@pytest.mark.parametrize("tool", ["cmake", "nvcc"])
def test_a_missing_tool_is_named_with_what_installs_it(tool, tmp_path, monkeypatch):
    monkeypatch.setattr(module.shutil, "which", lambda name: None if name == tool else f"/usr/bin/{name}")
    with pytest.raises(UsageError, match=f"{tool} is not on the PATH, but the plugin library is built with it: "):
        build_library(tmp_path / FILE_NAME)


def test_missing_headers_are_said_before_anything_is_built(tmp_path, monkeypatch):
    monkeypatch.setattr(module.shutil, "which", lambda name: f"/usr/bin/{name}")
    with pytest.raises(UsageError, match=r"has no include/NvInferRuntime.h: give the folder"):
        build_library(tmp_path / FILE_NAME, tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_output_that_cannot_be_written_is_said_before_anything_is_built(tmp_path, monkeypatch):
    monkeypatch.setattr(module.shutil, "which", lambda name: pytest.fail(f"looked for {name}"))
    with pytest.raises(UsageError, match=r"cannot write .*: it is a folder"):
        build_library(tmp_path)


@needs_nvcc
@pytest.mark.parametrize(
    ("architectures", "complaint"),
    [
        ("orin", "expected SMs separated by commas, such as 87,90"),
        ("87,66", r"this nvcc does not support SM 66: expected some of .*\b87\b"),
    ],
)
def test_architectures_are_some_that_nvcc_knows(architectures, complaint, tmp_path):
    if shutil.which("cmake") is None:
        pytest.skip("there is no cmake")
    (tmp_path / "NvInferRuntime.h").touch()
    with pytest.raises(UsageError, match=complaint):
        build_library(tmp_path / FILE_NAME, tmp_path, architectures)


@pytest.mark.slow
@needs_nvcc
def test_sources_that_do_not_compile_are_one_sentence_and_leave_no_file(tmp_path):
    if shutil.which("cmake") is None:
        pytest.skip("there is no cmake")
    (tmp_path / "NvInferRuntime.h").write_text("#error these are no headers of TensorRT\n")
    with pytest.raises(
        UsageError, match=r"could not be built, cmake failed: .*these are no headers of TensorRT"
    ) as caught:
        build_library(tmp_path / FILE_NAME, tmp_path, "90")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["NvInferRuntime.h"]
