"""Build a TensorRT or TensorRT-RTX engine from a bundle's graph.

The builder code takes the module as a parameter, because both APIs are the same here: TensorRT-RTX builds without a
GPU, so tests cover the code that runs on a device. Networks are strongly typed on every version: the graph defines the
precision, and no builder flag changes it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bundle.bundle import Bundle, replace_files
from ..bundle.contract import IMAGES
from ..bundle.engine_record import AMPERE_PLUS, ANY_SM, EngineRecord, engine_name, record_path
from ..bundle.manifest import ENGINES
from ..core.errors import CheckError, UsageError
from ..core.files import atomic_path, sha256, staging_folder, write_text
from ..core.machine import peak_memory_mb
from ..nvidia import device, tensorrt
from ..nvidia.device import DeviceInfo
from ..nvidia.tensorrt import recording_logger
from ..plugins.library import is_registered
from ..plugins.registration import Registered, plugin_wins, register
from ..plugins.spec import OP_TYPE
from . import listing
from .monitor import build_with_progress
from .options import DEFAULTS, BuildOptions
from .parse import parse_network
from .timing_cache import attach_cache, keep_cache


def build_engine(
    bundle: Bundle, target: str, precision: str = "fp32", options: BuildOptions = DEFAULTS
) -> EngineRecord:
    """Build an engine from a bundle's graph, and add it to the bundle with its record.

    Engines are built for this machine's GPU; ``tensorrt-rtx`` builds for its default SMs if there is no GPU. The
    builder's log is written to ``reports/build-ENGINE.log``, also if the build fails.

    Args:
        bundle: an opened bundle; it gets ``engines/TARGET-VERSION-SM-PRECISION.engine`` and ``.json``.
        target: ``tensorrt`` or ``tensorrt-rtx``.
        precision: one of :data:`edgepose.bundle.manifest.PRECISIONS` for which the bundle has a graph.
        options: batches, memory, compatibility.

    Returns:
        the record; the engine is ``bundle.path / "engines" / record.file_name``.

    Raises:
        UsageError: an option is not supported, the bundle has no such graph, the target is not installed or lacks a
            GPU, TensorRT cannot parse or build the graph, or the disk is full. The bundle's engines do not change.
        CheckError: TensorRT chose another precision than requested; only the log is written.
        KeyboardInterrupt: Ctrl-C; nothing is written.
    """
    graph = bundle.graph_for(precision)
    trt, gpu = _load(target, options)
    options.check_target(target, trt, gpu.sm if gpu else None)
    plugin = _choose_plugin(trt, graph, gpu, options) if target == "tensorrt" else None
    job, log = _Job(bundle, graph, trt, target, precision, options, gpu, plugin), recording_logger(trt, "VERBOSE")
    try:
        plan, record = _build(job, log)
    except (UsageError, CheckError) as error:
        raise type(error)(f"{error} ({_where_log(job, log)})") from error
    _keep_log(job, log)
    with staging_folder(bundle.path) as folder:
        engine = folder / record.file_name
        with atomic_path(engine) as temporary:
            temporary.write_bytes(plan)
        record.write(record_path(engine))
        replace_files(bundle, {f"{ENGINES}/{file.name}": file for file in folder.iterdir()})
    return record


@dataclass(frozen=True)
class _Job:
    """The input of a build; ``gpu`` is None for the default SMs of TensorRT-RTX."""

    bundle: Bundle
    graph: Path
    trt: Any
    target: str
    precision: str
    options: BuildOptions
    gpu: DeviceInfo | None
    plugin: Registered | None

    @property
    def sm(self) -> str:
        if self.gpu is None:
            return ANY_SM
        return AMPERE_PLUS if self.options.hardware_compatible else self.gpu.sm


def _load(target: str, options: BuildOptions) -> tuple[Any, DeviceInfo | None]:
    """Return the module of a target, and the GPU to build for (None: the default SMs of TensorRT-RTX)."""
    trt, reason = tensorrt.load_target(target), device.gpu_missing()
    if target == "tensorrt" and reason:
        raise UsageError(f"tensorrt builds engines only on the GPU they will run on: {reason}")
    for_all = target != "tensorrt" and options.hardware_compatible
    return trt, None if reason or for_all else device.device_info()


def cannot_build(target: str, options: BuildOptions = DEFAULTS) -> str | None:
    """Return why no engine of a target can be built on this machine, in one sentence, or None if one can."""
    try:
        _load(target, options)
    except UsageError as error:
        return str(error)
    return None


def _choose_plugin(trt: Any, graph: Path, gpu: DeviceInfo | None, options: BuildOptions) -> Registered | None:
    """Register and return the plugin if the graph has a node for it, else return None."""
    # Search the bytes: most graphs have no such node, and can be built without onnx.
    if gpu is None or not graph.is_file() or OP_TYPE.encode() not in graph.read_bytes():
        return None
    if options.plugin:
        if options.hardware_compatible or options.version_compatible:
            raise UsageError("the plugin fits one GPU and TensorRT version: add --no-plugin for a compatible engine")
        return register(trt, gpu.sm)
    if plugin_wins(trt.__version__, registered=is_registered(trt), marked=False):
        raise UsageError(
            f"TensorRT {trt.__version__} would use the plugin that is registered in this process: build without it in "
            "a new process"
        )
    return None


def _build(job: _Job, log: Any) -> tuple[Any, EngineRecord]:
    """Return the serialised engine and its record."""
    start = time.perf_counter()
    builder = job.trt.Builder(log)
    network = parse_network(job.trt, log, builder, job.bundle, job.graph, plugin=job.plugin is not None)
    asked = listing.asked_convolutions(job.trt, network)
    listing.check_graph(asked, job.precision, job.graph)
    config = _configure(job, log, builder, network)
    plan, notes = _compile(job, log, builder, network, config)
    seconds = time.perf_counter() - start
    text = _inspect(job, log, plan) if job.gpu else listing.find_listing(text for _, text in log.messages)
    layers = listing.read_layers(text)
    chosen = listing.chosen_convolutions(layers, asked)
    listing.check_convolutions(asked, chosen, job.precision)
    listing.check_precision(layers, job.precision)
    plugin, flags = job.plugin, job.trt.BuilderFlag.__members__.items()
    record = EngineRecord(
        target=job.target,
        version=job.trt.__version__,
        gpu=job.gpu.name if job.gpu else None,
        sm=job.sm,
        precision=job.precision,
        batches=job.options.profile,
        flags=tuple(name for name, flag in flags if config.get_flag(flag)),
        options=job.options.recorded(),
        layer_count=len(layers),
        datatypes=listing.count_datatypes(layers),
        source="inspector" if job.gpu else "build log",
        asked=listing.count_convolutions(asked),
        chosen=listing.count_convolutions(chosen),
        plugin=str(plugin) if plugin else None,
        plugin_hash=plugin.sha256 if plugin and plugin.needed_at_run_time else None,
        graph_sha256=sha256(job.graph),
        build_seconds=round(seconds, 3),
        peak_memory_mb=peak_memory_mb(),
        notes=notes,
        layers=layers,
    )
    return plan, record


def _configure(job: _Job, log: Any, builder: Any, network: Any) -> Any:
    trt, config = job.trt, builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    # TF32 is on by default and visible in no layer's datatype: it would drop 13 of the 23 bits of a float32 mantissa.
    config.clear_flag(trt.BuilderFlag.TF32)
    if job.gpu and hasattr(trt, "ComputeCapability"):  # TensorRT-RTX; TensorRT always builds for this GPU
        config.num_compute_capabilities = 1
        if not config.set_compute_capability(trt.ComputeCapability.CURRENT, 0):
            raise UsageError(
                f"{trt.__name__} {trt.__version__} cannot build for the SM of this GPU, {job.gpu.sm} ({job.gpu.name}): "
                f"{log.reason()}"
            )
    job.options.configure(trt, config, job.target)
    profile = builder.create_optimization_profile()
    images = network.get_input(0)
    profile.set_shape(images.name, *[(batch, *tuple(images.shape)[1:]) for batch in job.options.profile])
    config.add_optimization_profile(profile)
    return config


def _compile(job: _Job, log: Any, builder: Any, network: Any, config: Any) -> tuple[Any, tuple[str, ...]]:
    """Return the serialised engine, and notes on the timing cache."""
    cache, notes, path = None, [], None
    if job.target == "tensorrt":  # TensorRT-RTX times nothing before the engine runs
        sm = job.gpu.sm if job.gpu else ANY_SM
        path = job.bundle.path / ENGINES / f"{job.target}-{job.trt.__version__}-{sm}.timing"
        cache, note = attach_cache(config, path)
        notes.append(note)
    plan = build_with_progress(job.trt, builder, network, config)
    if plan is None:
        reason = log.reason()
        short = any(word in reason for word in ("OutOfMemory", "workspace"))
        advice = "; allow more by --workspace, or smaller batches by --batch" if short else ""
        raise UsageError(f"{job.trt.__name__} {job.trt.__version__} cannot build {job.graph}: {reason}{advice}")
    if cache is not None and path is not None:
        notes.append(keep_cache(cache, path))
    return plan, tuple(note for note in notes if note)


def _inspect(job: _Job, log: Any, plan: Any) -> str:
    """Return the layer listing of an engine; this loads the engine, so it needs a GPU."""
    runtime = job.trt.Runtime(log)
    if job.options.version_compatible:
        runtime.engine_host_code_allowed = True  # the lean runtime in the engine, which this process has just built
    engine = runtime.deserialize_cuda_engine(plan)
    context = engine.create_execution_context() if engine else None
    if context is None:
        raise CheckError(f"the new engine cannot be loaded on this GPU: {log.reason()}")
    _, typical, _ = engine.get_tensor_profile_shape(IMAGES, 0)
    if not context.set_input_shape(IMAGES, typical):
        raise CheckError(f"the new engine refuses a batch of {typical[0]}: {log.reason()}")
    inspector = engine.create_engine_inspector()
    # Without shapes TensorRT 10.3 lists no datatypes. The inspector does not keep the context alive; this frame does.
    inspector.execution_context = context
    return str(inspector.get_engine_information(job.trt.LayerInformationFormat.ONELINE))


def _keep_log(job: _Job, log: Any) -> Path:
    """Write the builder's whole log, and return its path."""
    name = engine_name(job.target, job.trt.__version__, job.sm, job.precision)
    path = job.bundle.reports / f"build-{name}.log"
    write_text(path, log.text())
    return path


def _where_log(job: _Job, log: Any) -> str:
    """Write the log after a failure, and return where it is or why it could not be written."""
    try:
        return f"log: {_keep_log(job, log)}"
    except UsageError as error:
        return f"no log: {error}"
