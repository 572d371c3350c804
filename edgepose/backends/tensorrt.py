"""TensorRT and TensorRT-RTX on an NVIDIA GPU, with one session class for both modules."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from ..bundle.bundle import Bundle
from ..bundle.contract import TensorSpec
from ..bundle.engine_record import AMPERE_PLUS, ANY_SM, VERSION_COMPATIBLE, EngineRecord, read_record, rebuild_command
from ..bundle.manifest import PRECISIONS
from ..core.errors import UsageError
from ..nvidia import device, tensorrt
from ..nvidia.device import CudaError
from ..nvidia.stream import Stream, open_stream
from ..nvidia.tensorrt import recording_logger
from .backend import Backend
from .session import Arrays, running


class TensorRtSession:
    """An engine file of a bundle on the GPU of this machine.

    An engine contains code: load only engines of bundles that you trust. Its record lies beside it.

    Raises:
        UsageError: the engine or its record is missing, it was built for another version or SM, the backend is not
            installed, there is no GPU, or TensorRT cannot load the engine.
    """

    def __init__(self, engine: Path, backend: str) -> None:
        if not engine.is_file():
            raise UsageError(f"engine {engine} does not exist: {rebuild_command(engine.parent.parent, backend)}")
        record = read_record(engine)
        command = rebuild_command(engine.parent.parent, backend, record.precision)
        trt = tensorrt.load_target(backend)
        missing = device.gpu_missing()
        misfit = record.misfit(backend, trt.__version__, None if missing else device.device_info().sm)
        if misfit:
            raise UsageError(f"engine {engine} {misfit}: {command}")
        if missing:
            raise UsageError(f"engine {engine} needs an NVIDIA GPU to run: {missing}")
        self.backend = backend
        if record.plugin_hash is not None:
            from ..plugins.registration import register  # import edgepose is faster without it

            plugin = register(trt, device.device_info().sm)
            if plugin.sha256 != record.plugin_hash:
                raise UsageError(f"engine {engine} was built with another plugin than {plugin}: {command}")
        try:
            portable = VERSION_COMPATIBLE in record.flags
            self._executor: Any = Executor(trt, open_stream(), engine.read_bytes(), host_code=portable)
        except (CudaError, UsageError) as error:
            raise UsageError(f"engine {engine} cannot be loaded ({error}): {command}") from error
        self.inputs = self._executor.inputs
        self.outputs = self._executor.outputs

    def run(self, feeds: Arrays) -> Arrays:
        with running(self, self._executor, feeds):
            return self._executor.run(feeds)

    def close(self) -> None:
        if self._executor is not None:
            self._executor.close()
        self._executor = None


class Executor:
    """One execution context of an engine, with device buffers for the largest batch of its profile.

    Args:
        trt, plan: the module ``tensorrt`` or ``tensorrt_rtx``, and the serialised engine.
        stream: owned by the executor; closed if this fails.
        host_code: allow CPU code in the plan, which version-compatible engines contain.

    Raises:
        UsageError: TensorRT cannot load the plan, it has no inputs, or NumPy lacks the type of an input or output.
        CudaError: the buffers do not fit into the GPU's memory, or TensorRT refuses them. All methods may raise it.
    """

    def __init__(self, trt: Any, stream: Stream, plan: bytes, *, host_code: bool = False) -> None:
        self._stream = stream
        try:
            self._log = recording_logger(trt, "ERROR")
            self._runtime = trt.Runtime(self._log)
            if host_code:
                self._runtime.engine_host_code_allowed = True
            self._engine = self._runtime.deserialize_cuda_engine(plan)
            self._context: Any = self._engine.create_execution_context() if self._engine else None
            if self._context is None:
                raise UsageError(self._log.reason())
            names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
            specs = {name: _spec(trt, self._engine, name) for name in names}
            inputs = [name for name in names if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
            self.inputs = tuple(specs[name] for name in inputs)
            self.outputs = tuple(specs[name] for name in names if name not in inputs)
            if not self.inputs:
                raise UsageError("the engine has no inputs, expected at least one")
            smallest, _, largest = self._engine.get_tensor_profile_shape(self.inputs[0].name, 0)
            self.smallest, self.largest = smallest[0], largest[0]
            self._addresses = {name: self._allocate(spec) for name, spec in specs.items()}
        except Exception:
            self.close()
            raise

    def run(self, feeds: Arrays) -> Arrays:
        """Run a batch of any size, in parts of at most the profile's largest batch; arrays by name."""
        self._stream.make_current()
        count = len(feeds[self.inputs[0].name])
        results: Arrays = {spec.name: np.empty((count, *_sample_shape(spec)), spec.dtype) for spec in self.outputs}
        for start in range(0, count, self.largest):
            part = slice(start, start + self.largest)
            own = {name: np.ascontiguousarray(array[part]) for name, array in feeds.items()}
            self._run_part(own, {name: array[part] for name, array in results.items()})
        return results

    def close(self) -> None:
        """Free the engine and its buffers; may be called again."""
        self._context = self._engine = self._runtime = None  # in this order: each uses the next
        self._stream.close()

    def _allocate(self, spec: TensorSpec) -> int:
        nbytes = self.largest * math.prod(_sample_shape(spec)) * spec.dtype.itemsize
        address = self._stream.allocate(nbytes)
        if not self._context.set_tensor_address(spec.name, address):
            raise CudaError(f"TensorRT refused a buffer for {spec.name}: {self._log.reason()}")
        return address

    def _run_part(self, feeds: Arrays, results: Arrays) -> None:
        for name, array in feeds.items():
            # A batch below the profile's smallest is filled up with what is in the buffer; those results are not read.
            shape = (max(len(array), self.smallest), *array.shape[1:])
            if not self._context.set_input_shape(name, shape):
                raise CudaError(f"TensorRT refused shape {shape} for {name}: {self._log.reason()}")
            self._stream.upload(self._addresses[name], array)
        if not self._context.execute_async_v3(self._stream.handle):
            raise CudaError(f"TensorRT could not run the engine: {self._log.reason()}")
        for name, array in results.items():
            self._stream.download(self._addresses[name], array)
        self._stream.synchronise()


def find_engine(bundle: Bundle, backend: str, precision: str = "auto") -> Path:
    """Return the engine of a bundle that fits this machine's TensorRT version and GPU; ``auto`` is any precision.

    ``mixed`` comes first, then the most exact precision; within a precision, an engine for exactly this SM comes first.

    Raises:
        UsageError: the backend is not installed, or the bundle has no fitting engine.
    """
    version = tensorrt.load_target(backend).__version__
    return select_engine(bundle, backend, version, None if device.gpu_missing() else device.device_info().sm, precision)


def select_engine(bundle: Bundle, backend: str, version: str, sm: str | None, precision: str = "auto") -> Path:
    """Return the engine for a TensorRT version and an SM (None: unknown), as :func:`find_engine` does."""
    records = {path: read_record(path) for path in bundle.engines() if path.name.startswith(f"{backend}-")}
    records = {path: record for path, record in records.items() if record.target == backend}
    asked = {path: record for path, record in records.items() if precision in ("auto", record.precision)}
    command = rebuild_command(bundle.path, backend, "fp32" if precision == "auto" else precision)
    if not asked:
        others = f", only {', '.join(sorted({r.precision for r in records.values()}))}" if records else ""
        kind = backend if precision == "auto" else f"{backend} {precision}"
        raise UsageError(f"bundle {bundle.path} has no {kind} engine{others}: {command}")
    misfits = {path: _stale(bundle, record) or record.misfit(backend, version, sm) for path, record in asked.items()}
    fitting = [path for path, misfit in misfits.items() if misfit is None]
    if not fitting:
        path, misfit = next(iter(misfits.items()))
        command = rebuild_command(bundle.path, backend, records[path].precision)
        raise UsageError(f"bundle {bundle.path} has no {backend} engine that fits: {path.name} {misfit}: {command}")

    def rank(path: Path) -> tuple[bool, int, bool, str]:
        record = records[path]
        portable = record.sm in (ANY_SM, AMPERE_PLUS)
        return record.precision != "mixed", PRECISIONS.index(record.precision), portable, path.name

    return min(fitting, key=rank)


def _stale(bundle: Bundle, record: EngineRecord) -> str | None:
    """Return half a sentence if an engine was built from another graph than the bundle's, else None."""
    graph = bundle.manifest.graph_name(record.precision)
    if bundle.manifest.files.get(graph, record.graph_sha256) == record.graph_sha256:
        return None
    return f"was built from another {graph} than the bundle's"


def _sample_shape(spec: TensorSpec) -> tuple[int, ...]:
    """Return the shape without the batch; ``build`` has checked that it is static."""
    return tuple(side for side in spec.shape[1:] if side is not None)


def _spec(trt: Any, engine: Any, name: str) -> TensorSpec:
    sides = tuple(None if side == -1 else side for side in engine.get_tensor_shape(name))
    kind = engine.get_tensor_dtype(name)
    try:
        return TensorSpec(name, sides, np.dtype(trt.nptype(kind)))
    except TypeError as error:  # nptype's, for a type that NumPy lacks
        got = getattr(kind, "name", kind)
        raise UsageError(f"{name} of the engine is {got}, expected a type of NumPy such as float32") from error


class EngineBackend(Backend):
    """TensorRT or TensorRT-RTX, which run engine files; a bundle has them for few precisions or none."""

    def unavailable(self) -> str | None:
        return super().unavailable() or device.gpu_missing()

    def precisions(self, bundle: Bundle) -> tuple[str, ...]:  # noqa: ARG002
        return PRECISIONS

    def choose(self, bundle: Bundle, asked: str) -> tuple[str, Path]:
        engine = find_engine(bundle, self.name, asked)
        return read_record(engine).precision, engine

    def open(self, bundle: Bundle, file: Path) -> TensorRtSession:  # noqa: ARG002
        return TensorRtSession(file, self.name)


TENSORRT = EngineBackend("tensorrt", "tensorrt")
TENSORRT_RTX = EngineBackend("tensorrt-rtx", "tensorrt_rtx")
