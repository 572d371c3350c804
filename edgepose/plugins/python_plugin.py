"""TensorRT's plugin in Python, for machines without the compiled library; NVRTC compiles the same kernel.

From TensorRT 10.9 on, the kernel's PTX is stored in the engine ("ahead of time"), which then runs without Python. For
10.0 to 10.8 the plugin is a Python class, which has to be registered in the process that runs the engine.
"""

# ruff: noqa: ARG001, ARG002  TensorRT decides the arguments.
# No ``from __future__ import annotations``: TensorRT evaluates the annotations, so they must not be strings.
from typing import Any

from ..nvidia import launch as nvidia_launch
from ..nvidia.compile import compile_kernel
from . import launch
from .launch import LARGEST_KERNEL
from .spec import DOMAIN, OP_TYPE, QUALIFIED_NAME, VERSION


def define_ahead_of_time(trt: Any, trtp: Any, sm: int) -> None:
    """Register the ahead-of-time plugin with ``trt`` 10.9 or later, whose module ``plugin`` is ``trtp``.

    The engine is for the GPU with SM number ``sm``, such as 87.
    """
    types = {trt.float32: "float32", trt.float16: "float16", trt.bfloat16: "bfloat16"}

    @trtp.register(QUALIFIED_NAME)
    def describe(x: trtp.TensorDesc, kernels: trtp.TensorDesc) -> trtp.TensorDesc:
        return x.like()

    @trtp.autotune(QUALIFIED_NAME)
    def allow(
        x: trtp.TensorDesc, kernels: trtp.TensorDesc, outputs: tuple[trtp.TensorDesc]
    ) -> list[trtp.AutoTuneCombination]:
        return [trtp.AutoTuneCombination("FP32|FP16|BF16, FP32|FP16|BF16, FP32|FP16|BF16")]

    @trtp.aot_impl(QUALIFIED_NAME)
    def implement(
        x: trtp.TensorDesc, kernels: trtp.TensorDesc, outputs: tuple[trtp.TensorDesc], tactic: int
    ) -> tuple[str | bytes, str | bytes, trtp.KernelLaunchParams, trtp.SymExprs]:
        planes = x.shape_expr[0] * x.shape_expr[1]
        plan = launch.forward(planes, x.shape[2], x.shape[3], (kernels.shape[2], kernels.shape[3]), types[x.dtype])
        code, name = compile_kernel(plan.source, plan.kernel, f"compute_{sm}")
        grid = trtp.KernelLaunchParams(grid_x=plan.grid, block_x=plan.threads)
        arguments = trtp.SymIntExprs.from_tuple([trtp.SymInt32(value) for value in plan.arguments])
        return name, code.rstrip(b"\0"), grid, arguments


def creator_class(trt: Any) -> type:
    """Return the class-based plugin's creator class, for ``registry.register_creator``; ``trt`` is 10.0 or later."""
    plugin = _plugin_class(trt)

    class Creator(trt.IPluginCreatorV3One):
        def __init__(self) -> None:
            trt.IPluginCreatorV3One.__init__(self)
            self.name, self.plugin_version, self.plugin_namespace = OP_TYPE, str(VERSION), DOMAIN
            self.field_names = trt.PluginFieldCollection([])

        def create_plugin(self, name: str, fields: Any, phase: Any) -> Any:
            if len(fields):
                raise ValueError(f"{QUALIFIED_NAME}: got the attribute {fields[0].name}, but it takes none")
            return plugin()

    return Creator


def _plugin_class(trt: Any) -> type:
    types = {trt.float32: "float32", trt.float16: "float16", trt.bfloat16: "bfloat16"}

    class Plugin(trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime):
        def __init__(self) -> None:
            for base in (trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime):
                base.__init__(self)
            self.plugin_name, self.plugin_version, self.plugin_namespace = OP_TYPE, str(VERSION), DOMAIN
            self.num_outputs = 1
            self.timing_cache_id = f"{DOMAIN}-{OP_TYPE}-{VERSION}"

        def get_capability_interface(self, kind: Any) -> Any:
            return self

        def get_output_data_types(self, inputs: list[Any]) -> list[Any]:
            return [inputs[0]]

        def get_output_shapes(self, inputs: list[Any], shapes: list[Any], builder: Any) -> list[Any]:
            return [trt.DimsExprs(inputs[0])]

        def supports_format_combination(self, position: int, tensors: list[Any], inputs: int) -> bool:
            mine, first = tensors[position].desc, tensors[0].desc
            return mine.format == trt.TensorFormat.LINEAR and mine.type == first.type and mine.type in types

        def configure_plugin(self, inputs: list[Any], outputs: list[Any]) -> None:
            check_shapes(tuple(inputs[0].desc.dims), tuple(inputs[1].desc.dims))

        def on_shape_change(self, inputs: list[Any], outputs: list[Any]) -> None:
            check_shapes(tuple(inputs[0].dims), tuple(inputs[1].dims))

        def enqueue(
            self,
            input_descs: list[Any],
            output_descs: list[Any],
            inputs: list[int],
            outputs: list[int],
            workspace: int,
            stream: int,
        ) -> None:
            (n, c, height, width), (_, _, kh, kw) = input_descs[0].dims, input_descs[1].dims
            if n * c * height * width == 0:
                return
            plan = launch.forward(n * c, height, width, (kh, kw), types[input_descs[0].type])
            nvidia_launch.run(plan, inputs[0], inputs[1], outputs[0], stream)

        def attach_to_context(self, context: Any) -> Any:
            return self.clone()

        def get_fields_to_serialize(self) -> Any:
            return trt.PluginFieldCollection([])

        def clone(self) -> Any:
            return Plugin()

    return Plugin


def check_shapes(x: tuple[int, ...], kernels: tuple[int, ...]) -> None:
    """Raise ValueError for shapes that the plugin cannot run; -1 is a size that is not known yet.

    >>> check_shapes((-1, 38, 64, 48), (-1, 38, 7, 5))
    """
    fits = len(x) == len(kernels) == 4 and all(a == b or -1 in (a, b) for a, b in zip(x[:2], kernels[:2], strict=True))
    sides = kernels[2:] if fits else ()
    if not fits or any(side != -1 and (side % 2 == 0 or not 1 <= side <= LARGEST_KERNEL) for side in sides):
        raise ValueError(
            f"{QUALIFIED_NAME}: x {x} needs kernels (N, C, kh, kw) with the same N and C, kh and kw odd and at most "
            f"{LARGEST_KERNEL}; got {kernels}"
        )
