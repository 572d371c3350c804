"""Which form of the plugin TensorRT gets, and what it is told: on doubles, and in the registry of its lean runtime."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from edgepose.core.errors import UsageError
from edgepose.nvidia import compile as nvrtc
from edgepose.nvidia import launch as driver
from edgepose.plugins import launch, python_plugin, registration
from edgepose.plugins.library import PluginLibrary
from edgepose.plugins.registration import Registered, plugin_wins, register

try:
    nvrtc.compile_kernel(launch.SOURCE, "edgepose::convolve_any_kernel<float>", "compute_80")
except UsageError as missing:
    pytest.skip(str(missing), allow_module_level=True)

NAME = "edgepose::DynamicDepthwiseConv2d"


class TensorDesc:
    """TensorRT's description of a tensor while it builds: -1 is a side it does not know, and an expression for it."""

    def __init__(self, dtype: Any, *shape: int) -> None:
        self.dtype, self.shape, self.shape_expr = dtype, shape, shape
        self.copied = False

    def like(self) -> TensorDesc:
        return TensorDesc(self.dtype, *self.shape)


class QuickPlugins(ModuleType):
    """``tensorrt.plugin``: keeps what the decorators are given."""

    TensorDesc = TensorDesc
    KernelLaunchParams = SimpleNamespace
    SymExprs = tuple
    SymIntExprs = SimpleNamespace(from_tuple=tuple)
    SymInt32 = staticmethod(lambda value: ("int32", value))
    AutoTuneCombination = str

    def __init__(self) -> None:
        super().__init__("fake_tensorrt.plugin")
        self.functions: dict[str, Any] = {}

    def _decorator(self, kind: str) -> Any:
        def named(name: str) -> Any:
            assert name == NAME
            return lambda function: self.functions.setdefault(kind, function)

        return named

    def __getattr__(self, name: str) -> Any:
        if name in ("register", "autotune", "aot_impl"):
            return self._decorator(name)
        raise AttributeError(name)


class Registry:
    def __init__(self) -> None:
        self.creators: list[Any] = []

    def get_creator(self, *_: str) -> Any:
        return self.creators[0] if self.creators else None

    def register_creator(self, creator: Any, namespace: str) -> bool:
        assert namespace == "edgepose"
        self.creators.append(creator)
        return True


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A module with as much of TensorRT as the plugin touches; its version is set by the test."""
    trt: Any = ModuleType("fake_tensorrt")
    registry = Registry()
    trt.get_plugin_registry = lambda: registry
    trt.float32, trt.float16, trt.bfloat16, trt.int8 = "FP32", "FP16", "BF16", "INT8"
    trt.TensorFormat = SimpleNamespace(LINEAR="linear", HWC8="hwc8")
    trt.DimsExprs = trt.PluginFieldCollection = list
    for name in ("IPluginV3", "IPluginV3OneCore", "IPluginV3OneBuild", "IPluginV3OneRuntime", "IPluginCreatorV3One"):
        setattr(trt, name, type(name, (), {}))
    trt.plugin = QuickPlugins()
    monkeypatch.setitem(sys.modules, "fake_tensorrt", trt)
    monkeypatch.setitem(sys.modules, "fake_tensorrt.plugin", trt.plugin)
    monkeypatch.setenv("EDGEPOSE_PLUGINS", str(tmp_path))
    monkeypatch.setattr(registration, "_registered", {})
    return trt


@pytest.mark.parametrize(
    ("version", "form"),
    [("10.0.1", "Python class"), ("10.8.0", "Python class"), ("10.9.0", "ahead of time"), ("11.4.0", "ahead of time")],
)
def test_the_version_decides_the_form_and_it_is_registered_once(tensorrt, version, form):
    tensorrt.__version__ = version
    registered = register(tensorrt, "sm87")
    assert str(registered) == f"{NAME} version 1, namespace edgepose ({form})"
    assert registered.needed_at_run_time == (form == "Python class")
    assert register(tensorrt, "sm87") is registered
    assert len(tensorrt.get_plugin_registry().creators) == (form == "Python class")
    assert set(tensorrt.plugin.functions) == (
        {"register", "autotune", "aot_impl"} if form == "ahead of time" else set()
    )


def test_a_built_library_comes_first(tensorrt, monkeypatch, tmp_path):
    tensorrt.__version__ = "11.1.0"
    (tmp_path / "p.so").write_bytes(b"code")
    monkeypatch.setattr(registration, "find_library", lambda: PluginLibrary(tmp_path / "p.so", (11, 1), ("sm87",)))
    with pytest.raises(UsageError, match="has no code for this GPU, sm90"):
        register(tensorrt, "sm90")
    registry = tensorrt.get_plugin_registry()
    registry.load_library = lambda path: registry.creators.append(path)
    assert register(tensorrt, "sm87").form == "library"
    assert registry.creators == [str(tmp_path / "p.so")]


def test_a_tensorrt_without_this_kind_of_plugins_is_refused(tensorrt):
    tensorrt.__version__ = "8.6.1"
    with pytest.raises(UsageError, match=r"TensorRT 8.6.1 is too old for the plugin: expected 10.0 or later"):
        register(tensorrt, "sm87")


@pytest.mark.parametrize(("dtype", "name"), [("FP32", "float32"), ("FP16", "float16"), ("BF16", "bfloat16")])
@pytest.mark.parametrize("batch", [1, 32])
def test_the_kernel_is_handed_over_ahead_of_time(tensorrt, dtype, name, batch):
    tensorrt.__version__ = "10.13.0"
    register(tensorrt, "sm87")
    functions = tensorrt.plugin.functions
    x, kernels = TensorDesc(dtype, batch, 38, 64, 48), TensorDesc(dtype, batch, 38, 7, 5)
    assert functions["register"](x, kernels).shape == x.shape
    assert functions["autotune"](x, kernels, (x,)) == ["FP32|FP16|BF16, FP32|FP16|BF16, FP32|FP16|BF16"]
    kernel, code, grid, arguments = functions["aot_impl"](x, kernels, (x,), 0)
    plan = launch.forward(batch * 38, 64, 48, (7, 5), name)
    assert b".target sm_87" in code and b".entry " + kernel + b"(" in code and not code.endswith(b"\0")
    assert (grid.grid_x, grid.block_x) == (plan.grid, 128)
    assert arguments == tuple(("int32", value) for value in plan.arguments)


def desc(dtype: str, shape: tuple[int, ...], layout: str = "linear") -> Any:
    plain = SimpleNamespace(type=dtype, dims=shape, format=layout)
    return SimpleNamespace(desc=plain, **vars(plain))


@pytest.fixture
def plugin(tensorrt: Any) -> Any:
    tensorrt.__version__ = "10.3.0"
    register(tensorrt, "sm87")
    return tensorrt.get_plugin_registry().get_creator().create_plugin("conv", [], "build")


def test_the_python_class_takes_three_types_in_one_layout(plugin):
    x, kernels, y = (desc("FP16", shape) for shape in ((-1, 38, 64, 48), (-1, 38, 7, 5), (-1, 38, 64, 48)))
    assert all(plugin.supports_format_combination(i, [x, kernels, y], 2) for i in range(3))
    assert not plugin.supports_format_combination(0, [desc("INT8", (1, 1, 1, 1)), kernels, y], 2)
    assert not plugin.supports_format_combination(1, [x, desc("FP32", (1, 1, 1, 1)), y], 2)
    assert not plugin.supports_format_combination(2, [x, kernels, desc("FP16", (1, 1, 1, 1), "hwc8")], 2)
    assert plugin.get_output_data_types(["FP16", "FP16"]) == ["FP16"]
    assert plugin.get_output_shapes([[1, 2, 3, 4], [1, 2, 7, 5]], [], None) == [[1, 2, 3, 4]]


def test_the_python_class_launches_the_kernel_on_tensorrts_stream(plugin, monkeypatch):
    launched: list[Any] = []
    monkeypatch.setattr(driver, "run", lambda *arguments: launched.append(arguments))
    x, kernels = desc("FP16", (3, 38, 64, 48)), desc("FP16", (3, 38, 7, 5))
    plugin.configure_plugin([x, kernels], [x])
    plugin.on_shape_change([x, kernels], [x])
    plugin.attach_to_context(None).enqueue([x, kernels], [x], [0x100, 0x200], [0x300], 0, 7)
    assert launched == [(launch.forward(3 * 38, 64, 48, (7, 5), "float16"), 0x100, 0x200, 0x300, 7)]
    plugin.enqueue([desc("FP16", (0, 38, 64, 48)), kernels], [x], [0, 0x200], [0], 0, 7)
    assert len(launched) == 1, "an empty batch is nothing to launch"


@pytest.mark.parametrize("kernels", [(1, 38, 6, 5), (1, 38, 13, 5), (1, 37, 7, 5), (2, 38, 7, 5), (38, 7, 5)])
def test_the_python_class_refuses_shapes_that_do_not_fit(plugin, kernels):
    with pytest.raises(ValueError, match=r"x \(1, 38, 64, 48\) needs kernels .* at most 11; got \("):
        plugin.on_shape_change([desc("FP16", (1, 38, 64, 48)), desc("FP16", kernels)], [])


def test_an_attribute_is_refused_by_its_name(tensorrt, plugin):  # noqa: ARG001
    creator = tensorrt.get_plugin_registry().get_creator()
    with pytest.raises(ValueError, match="got the attribute stride, but it takes none"):
        creator.create_plugin("conv", [SimpleNamespace(name="stride")], "build")


def test_tensorrts_own_registry_takes_the_python_class():
    trt = pytest.importorskip("tensorrt_lean_bindings", reason="tensorrt-lean-cu13-bindings is not installed")
    registry, creator = trt.get_plugin_registry(), python_plugin.creator_class(trt)()
    if registry.get_creator("DynamicDepthwiseConv2d", "1", "edgepose") is not None:
        pytest.skip("the compiled library is registered in this process")
    assert registry.register_creator(creator, "edgepose")
    found = registry.get_creator("DynamicDepthwiseConv2d", "1", "edgepose")
    plugin = found.create_plugin("conv", trt.PluginFieldCollection([]), trt.TensorRTPhase.BUILD)
    assert plugin.clone().timing_cache_id == "edgepose-DynamicDepthwiseConv2d-1"
    registry.deregister_creator(creator)


#: TensorRT's parser and a node with both a function body and a plugin (``facts``: versions, registered, marked, wins).
PRECEDENCE = [
    (("10.0.1", "10.3.0", "10.6.0"), True, True, False),
    (("10.7.0", "10.13.2", "10.14.1"), True, False, True),
    (("10.7.0", "10.14.1"), False, True, False),
    (("10.15.0", "11.1.0"), True, False, False),
    (("10.15.0", "11.1.0"), True, True, True),
    (("10.15.0", "11.1.0"), False, True, False),
]


@pytest.mark.parametrize(("versions", "registered", "marked", "wins"), PRECEDENCE)
def test_who_wins_between_function_and_plugin(versions, registered, marked, wins):
    for version in versions:
        assert plugin_wins(version, registered=registered, marked=marked) == wins, version


def test_registered_says_what_it_is():
    assert not Registered("ahead of time", "0").needed_at_run_time
    assert Registered("library", "0").needed_at_run_time
