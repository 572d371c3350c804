"""What building and running an engine share: the targets, their log, and the record beside each engine file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .errors import UsageError, missing_extra
from .files import write_text

#: The module behind each target, and the extra that installs it.
_MODULES = {"tensorrt": ("tensorrt", "tensorrt"), "tensorrt-rtx": ("tensorrt_rtx", "rtx")}
TARGETS = tuple(_MODULES)

#: In place of an SM: the engine holds code for the SMs that TensorRT-RTX targets by default.
ANY_SM = "any"
#: These SMs, of which the last stands for every later one too (NVIDIA's TensorRT-RTX documentation, "CPU-Only AOT and
#: TensorRT-RTX Engines", Compute Capability). 7.5 must be asked for; 8.7 (Orin) and 9.0 (H100) are not among them.
DEFAULT_SMS = (80, 86, 89, 120)


def load_target(target: str) -> Any:
    """Import ``tensorrt`` or ``tensorrt_rtx``, whose Python APIs are the same as far as edgepose uses them.

    Raises:
        UsageError: no target has that name, or its module is not installed or broken.
    """
    if target not in _MODULES:
        raise UsageError(f"unknown engine target {target!r}: expected one of {', '.join(TARGETS)}")
    module, extra = _MODULES[target]
    if find_spec(module) is None:
        raise missing_extra(module, extra)
    try:
        return import_module(module)
    except Exception as error:  # of a library it lacks, or a driver that does not fit: anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"import {module} fails: {reason}: see edgepose doctor") from error


def recording_logger(trt: Any, threshold: str) -> Any:
    """A logger that keeps messages of severity ``threshold`` (``VERBOSE`` ... ``ERROR``) and worse, and prints none.

    Its ``messages`` are (severity name, text), in order; ``reason()`` is the first error. The logger must outlive every
    object made with it.
    """
    limit = int(getattr(trt.ILogger.Severity, threshold))

    class RecordingLogger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # pybind11 refuses super().__init__() of a class with a trampoline
            self.messages: list[tuple[str, str]] = []

        def log(self, severity: Any, message: str) -> None:
            if int(severity) <= limit:
                self.messages.append((severity.name, message))

        def reason(self) -> str:
            errors = (text for severity, text in self.messages if severity in ("ERROR", "INTERNAL_ERROR"))
            return " ".join(next(errors, "no reason was logged").split())

    return RecordingLogger()


@dataclass(frozen=True)
class EngineLayer:
    """One layer of a built engine.

    Attributes:
        name: as TensorRT calls it; fused layers carry names of their own.
        kind: TensorRT's layer type.
        reads: datatypes of its inputs and constants, such as ``float32``; sorted, each once.
        writes: datatypes of its outputs.
    """

    name: str
    kind: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]


@dataclass(frozen=True)
class EngineRecord:
    """The content of the ``.json`` beside an engine: what it was built from and for, and what TensorRT chose.

    Attributes:
        target: ``tensorrt`` or ``tensorrt-rtx``.
        version: of the target's module; an engine runs on this version only.
        gpu: name of the GPU it was built on, None without one.
        sm: the SM it was built for, such as ``sm86``, or :data:`ANY_SM`.
        precision: what was asked for.
        batches: smallest, typical and largest batch of the optimisation profile.
        flags: names of the builder flags that were set.
        layer_count: layers of the engine.
        datatypes: by datatype, the number of layers that read or write it: the precisions actually chosen; ``unknown``
            where TensorRT does not tell.
        source: where the layers were read from, ``inspector`` or ``build log``.
        plugin_hash: sha256 of the plugin that has to be registered to run the engine, None for none.
        graph_sha256: of the ONNX file it was built from.
        build_seconds: parsing and building.
        peak_memory_mb: most resident memory of the building process since its start (10^6 bytes), which may have been
            taken before the build, such as by an export; None where the system does not tell.
        layers: every layer, in order.
    """

    target: str
    version: str
    gpu: str | None
    sm: str
    precision: str
    batches: tuple[int, int, int]
    flags: tuple[str, ...]
    layer_count: int
    datatypes: dict[str, int]
    source: str
    plugin_hash: str | None
    graph_sha256: str
    build_seconds: float
    peak_memory_mb: float | None
    layers: tuple[EngineLayer, ...]

    def __str__(self) -> str:
        chosen = ", ".join(f"{count} {datatype}" for datatype, count in self.datatypes.items())
        memory = "" if self.peak_memory_mb is None else f" (process peak {self.peak_memory_mb / 1000:.1f} GB)"
        return (
            f"{self.target} {self.version} for {self.gpu or 'any supported GPU'}, batches "
            f"{'/'.join(map(str, self.batches))}, built in {self.build_seconds:.1f} s{memory}\n"
            f"{self.precision} asked; {self.layer_count} layers by datatype ({self.source}): {chosen}"
        )

    @property
    def file_name(self) -> str:
        """``TARGET-VERSION-SM-PRECISION.engine``; the version is cut to three numbers."""
        version = ".".join(self.version.split(".")[:3])
        return f"{self.target}-{version}-{self.sm}-{self.precision}.engine"

    def misfit(self, target: str, version: str, sm: str | None) -> str | None:
        """Why the engine cannot run on a target version and SM (None: not known), as half a sentence, or None."""
        if self.target != target or self.version != version:
            return f"was built with {self.target} {self.version}, this machine has {target} {version}"
        if sm is None or sm == self.sm:
            return None
        if self.sm != ANY_SM:
            return f"was built for {self.sm} ({self.gpu}); this GPU is {sm}"
        number = int(sm.removeprefix("sm"))
        if number in DEFAULT_SMS or number > DEFAULT_SMS[-1]:
            return None
        return f"was built for {', '.join(f'sm{known}' for known in DEFAULT_SMS)} and later; this GPU is {sm}"

    def write(self, path: Path) -> None:
        """Write as JSON, atomically."""
        write_text(path, json.dumps(asdict(self), indent=2) + "\n")


def record_path(engine: Path) -> Path:
    """The record that belongs to an engine file."""
    return engine.with_suffix(".json")


def rebuild_command(bundle: Path, target: str) -> str:
    """The command that builds a bundle's engine on this machine."""
    return f"edgepose build {bundle} --target {target}"


def read_record(engine: Path) -> EngineRecord:
    """Read the record beside an engine.

    Raises:
        UsageError: it is missing, or is not a record this edgepose knows.
    """
    path = record_path(engine)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        layers = tuple(
            EngineLayer(layer["name"], layer["kind"], tuple(layer["reads"]), tuple(layer["writes"]))
            for layer in values["layers"]
        )
        smallest, typical, largest = values["batches"]
        known = {"batches": (smallest, typical, largest), "flags": tuple(values["flags"]), "layers": layers}
        return EngineRecord(**{**values, **known})
    except FileNotFoundError as error:
        raise UsageError(
            f"engine {engine} has no {path.name} beside it that says where it can run: build it again (edgepose build)"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is not an engine record of this edgepose: build it again (edgepose build)") from error
