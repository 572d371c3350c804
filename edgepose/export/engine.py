"""A bundle's graph to an engine for TensorRT or TensorRT-RTX.

The builder code takes the module as a parameter: the two APIs are the same here, and TensorRT-RTX builds without a GPU,
so what is tested there is what runs on a device. Networks are strongly typed on every version: precision is in the
graph, and no builder flag changes it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bundle import ENGINES, Bundle, open_bundle, replace_files
from ..engines import ANY_SM, EngineLayer, EngineRecord, load_target, record_path, recording_logger
from ..errors import CheckError, UsageError, missing_extra
from ..files import atomic_path, sha256, staging_folder
from ..heatmaps import STRIDE
from ..machine import peak_memory_mb
from ..plugins.onnx_function import hand_to_plugin
from ..plugins.registration import Registered, is_registered, plugin_wins, register
from ..plugins.spec import OP_TYPE
from ..runtime.cuda import DeviceInfo, device_info, gpu_missing
from .engine_log import check_precision, count_datatypes, find_listing, read_layers

PRECISIONS = ("fp32",)


def build_engine(
    bundle: Bundle,
    target: str,
    precision: str = "fp32",
    batches: tuple[int, int, int] = (1, 8, 32),
    *,
    plugin: bool = True,
) -> EngineRecord:
    """Build an engine of a bundle's graph into the bundle, with a record beside it, and name both in the manifest.

    ``tensorrt`` builds for the GPU of this machine. ``tensorrt-rtx`` does so too if there is one, and without a GPU
    builds for the SMs that TensorRT-RTX targets by default.

    Args:
        bundle: an opened bundle; its folder gets ``engines/TARGET-VERSION-SM-PRECISION.engine`` and ``.json``.
        target: ``tensorrt`` or ``tensorrt-rtx``.
        precision: one of :data:`PRECISIONS`.
        batches: smallest, typical and largest batch; the engine is fastest at the typical one.
        plugin: run dynamic convolutions in the plugin; else, and always in TensorRT-RTX, by their function body.

    Returns:
        The record; the engine is ``bundle.path / "engines" / record.file_name``.

    Raises:
        UsageError: an option is wrong, the target is not installed or needs a GPU that is not there, or TensorRT cannot
            parse or build the graph.
        CheckError: TensorRT chose another precision than was asked for; nothing is written.
    """
    _check_options(precision, batches)
    trt, gpu = _load(target)
    registered = _choose_plugin(trt, bundle, gpu, wanted=plugin) if target == "tensorrt" else None
    built = _build(trt, bundle, batches, gpu, registered)
    check_precision(built.layers, precision)
    record = EngineRecord(
        target=target,
        version=trt.__version__,
        gpu=gpu.name if gpu else None,
        sm=gpu.sm if gpu else ANY_SM,
        precision=precision,
        batches=batches,
        flags=built.flags,
        layer_count=len(built.layers),
        datatypes=count_datatypes(built.layers),
        source=built.source,
        plugin_hash=registered.sha256 if registered and registered.needed_at_run_time else None,
        graph_sha256=sha256(bundle.graph),
        build_seconds=round(built.seconds, 3),
        peak_memory_mb=peak_memory_mb(),
        layers=built.layers,
    )
    _write(bundle, record, built.plan)
    return record


def _check_options(precision: str, batches: tuple[int, int, int]) -> None:
    if precision not in PRECISIONS:
        raise UsageError(f"engines are built in {', '.join(PRECISIONS)}, got precision {precision!r}")
    smallest, typical, largest = batches
    if not 1 <= smallest <= typical <= largest:
        raise UsageError(f"batches must be 1 <= smallest <= typical <= largest, such as 1,8,32, got {batches}")


def _load(target: str) -> tuple[Any, DeviceInfo | None]:
    """The module of a target, and the GPU to build for: None for the default SMs of TensorRT-RTX."""
    trt, reason = load_target(target), gpu_missing()
    if target == "tensorrt" and reason:
        raise UsageError(f"tensorrt builds engines only on the GPU they will run on: {reason}")
    return trt, None if reason else device_info()


def _choose_plugin(trt: Any, bundle: Bundle, gpu: DeviceInfo | None, *, wanted: bool) -> Registered | None:
    """The plugin, registered, if the graph has a node for it."""
    # Most graphs have none, and need no onnx to be built.
    if gpu is None or OP_TYPE.encode() not in bundle.graph.read_bytes():
        return None
    if wanted:
        return register(trt, gpu.sm)
    if plugin_wins(trt.__version__, registered=is_registered(trt), marked=False):
        raise UsageError(
            f"TensorRT {trt.__version__} would take the plugin that this process has registered: build without it in a "
            "process of its own"
        )
    return None


@dataclass(frozen=True)
class _Built:
    """A serialised engine, the names of the builder flags it was built with, its layers and where they were read."""

    plan: Any
    flags: tuple[str, ...]
    layers: tuple[EngineLayer, ...]
    source: str
    seconds: float


def _build(
    trt: Any, bundle: Bundle, batches: tuple[int, int, int], gpu: DeviceInfo | None, plugin: Registered | None
) -> _Built:
    log = recording_logger(trt, "VERBOSE")
    start = time.perf_counter()
    plan, flags = _compile(trt, log, bundle, batches, gpu, plugin)
    seconds = time.perf_counter() - start
    listing = _inspect(trt, log, plan) if gpu else find_listing(text for _, text in log.messages)
    return _Built(plan, flags, read_layers(listing), "inspector" if gpu else "build log", seconds)


def _compile(
    trt: Any,
    log: Any,
    bundle: Bundle,
    batches: tuple[int, int, int],
    gpu: DeviceInfo | None,
    plugin: Registered | None,
) -> tuple[Any, tuple[str, ...]]:
    """The serialised engine, and the names of the builder flags it was built with."""
    builder = trt.Builder(log)
    network = builder.create_network(_network_flags(trt))
    _parse(trt, log, network, bundle.graph, plugin)
    _check_contract(network, bundle)
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    # On by default, and not visible in any layer's datatype: it would drop 13 of the 23 bits of a float32 mantissa.
    config.clear_flag(trt.BuilderFlag.TF32)
    if gpu and hasattr(trt, "ComputeCapability"):  # TensorRT-RTX; TensorRT knows no other way
        config.num_compute_capabilities = 1
        if not config.set_compute_capability(trt.ComputeCapability.CURRENT, 0):
            raise UsageError(
                f"{trt.__name__} {trt.__version__} cannot build for the SM of this GPU, {gpu.sm} ({gpu.name}): "
                f"{log.reason()}"
            )
    profile = builder.create_optimization_profile()
    images = network.get_input(0)
    profile.set_shape(images.name, *[(batch, *tuple(images.shape)[1:]) for batch in batches])
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise UsageError(f"{trt.__name__} {trt.__version__} cannot build {bundle.graph}: {log.reason()}")
    flags = trt.BuilderFlag.__members__.items()
    return plan, tuple(name for name, flag in flags if config.get_flag(flag))


def _network_flags(trt: Any) -> int:
    """Ask for strong typing where it can be asked for; its bit differs between versions, and 11 has nothing else."""
    flag = trt.NetworkDefinitionCreationFlag.__members__.get("STRONGLY_TYPED")
    return 0 if flag is None else 1 << int(flag)


def _parse(trt: Any, log: Any, network: Any, graph: Path, plugin: Registered | None) -> None:
    parser = trt.OnnxParser(network, log)
    if _parse_graph(parser, graph, plugin):
        return
    if not parser.num_errors:
        raise UsageError(f"{trt.__name__} {trt.__version__} cannot parse {graph}: {log.reason()}")
    error = parser.get_error(0)
    reason = " ".join(error.desc().split())
    if "Plugin not found" in reason:
        reason = "the parser does not know this op, and the graph has no function body for it"
    where = ", ".join([f"op {error.node_operator()}", *(f"in {frame}" for frame in error.local_function_stack())])
    node = f"node {error.node_name() or error.node()} ({where}) of " if error.node_operator() else ""
    raise UsageError(
        f"{trt.__name__} {trt.__version__} cannot parse {node}{graph}: {reason} (export the bundle again, or change "
        "the network)"
    )


def _parse_graph(parser: Any, graph: Path, plugin: Registered | None) -> bool:
    if plugin is None:
        return bool(parser.parse_from_file(str(graph)))
    return bool(parser.parse(hand_to_plugin(_read_graph(graph)).SerializeToString()))


def _read_graph(graph: Path) -> Any:
    try:
        import onnx
    except ImportError as error:
        raise missing_extra("onnx", "tensorrt") from error
    return onnx.load(graph)


def _check_contract(network: Any, bundle: Bundle) -> None:
    """The graph contract, as the parser understood the graph: a side it could not prove static shows as -1."""
    height, width = bundle.manifest.input_size
    joints = len(bundle.skeleton.joints)
    expected = [
        f"images UINT8 {(-1, height, width, 3)}",
        f"keypoints FLOAT {(-1, joints, 3)}",
        f"heatmaps FLOAT {(-1, joints, height // STRIDE, width // STRIDE)}",
    ]
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    outputs = [network.get_output(i) for i in range(network.num_outputs)]
    got = [f"{tensor.name} {tensor.dtype.name} {tuple(tensor.shape)}" for tensor in (*inputs, *outputs)]
    if sorted(got) != sorted(expected):
        raise UsageError(
            f"{bundle.graph} does not keep the graph contract: got {', '.join(got) or 'no inputs and outputs'}, "
            f"expected {', '.join(expected)}: export the bundle again"
        )


def _inspect(trt: Any, log: Any, plan: Any) -> str:
    """The layer listing of an engine; it must be loaded for that, so this needs a GPU."""
    runtime = trt.Runtime(log)
    engine = runtime.deserialize_cuda_engine(plan)
    context = engine.create_execution_context() if engine else None
    if context is None:
        raise CheckError(f"the engine that was just built cannot be loaded on this GPU: {log.reason()}")
    _, typical, _ = engine.get_tensor_profile_shape("images", 0)
    if not context.set_input_shape("images", typical):
        raise CheckError(f"the engine that was just built refuses a batch of {typical[0]}: {log.reason()}")
    inspector = engine.create_engine_inspector()
    # Without shapes TensorRT 10.3 tells no datatypes. The inspector does not keep the context alive; this frame does.
    inspector.execution_context = context
    return str(inspector.get_engine_information(trt.LayerInformationFormat.ONELINE))


def _write(bundle: Bundle, record: EngineRecord, plan: Any) -> None:
    with staging_folder(bundle.path) as folder:
        engine = folder / record.file_name
        with atomic_path(engine) as temporary:
            temporary.write_bytes(plan)
        record.write(record_path(engine))
        # Building takes minutes on a board: add to the manifest as it is now, not as it was when the bundle was opened.
        replace_files(open_bundle(bundle.path), {f"{ENGINES}/{file.name}": file for file in folder.iterdir()})
