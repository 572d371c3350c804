"""The record beside each engine file: what it was built from, for which GPUs, and what TensorRT chose."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..core.errors import UsageError
from ..core.files import write_text
from ..core.machine import version_numbers
from ..nvidia.device import sm_number

#: The builder flag of an engine that later versions can run.
VERSION_COMPATIBLE = "VERSION_COMPATIBLE"
#: In place of an SM: the engine holds code for the SMs that TensorRT-RTX targets by default.
ANY_SM = "any"
#: The SMs of such an engine; the last includes every later SM (NVIDIA's TensorRT-RTX documentation, "CPU-Only AOT and
#: TensorRT-RTX Engines", Compute Capability). 7.5 must be asked for; 8.7 (Orin) and 9.0 (H100) are not included.
DEFAULT_SMS = (80, 86, 89, 120)
#: In place of an SM: the hardware-compatible engine of TensorRT, for Ampere and every later GPU but Jetson's.
AMPERE_PLUS = "sm80+"
#: Orin and Thor.
JETSON_SMS = (87, 101, 110)


@dataclass(frozen=True)
class EngineLayer:
    """One layer of a built engine, with TensorRT's name and type; fused layers have names of their own.

    Attributes:
        reads, writes: datatypes of its inputs and constants, and of its outputs, sorted, such as ``float32``.
        nodes: names of the ONNX nodes that it computes; several layers may share a node.
    """

    name: str
    kind: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class EngineRecord:
    """The content of the ``.json`` beside an engine; the options are the build's others, and notes are sentences.

    Attributes:
        version: version of the target's module; without the flag VERSION_COMPATIBLE the engine needs exactly this one.
        gpu: name of the GPU it was built on, None without one.
        sm: the SM it was built for, such as ``sm86``, or :data:`ANY_SM`, or :data:`AMPERE_PLUS`.
        batches: smallest, typical and largest batch of the optimisation profile.
        flags: names of the builder flags that were set.
        datatypes: number of layers that read or write each datatype, as chosen by TensorRT; ``unknown`` counts layers
            without this information.
        source: where the layers were read from, ``inspector`` or ``build log``.
        asked, chosen: number of convolutions that compute in each datatype in the graph, and likewise in the engine.
        plugin: name, version, namespace and form of the plugin it was built with, None for none.
        plugin_hash: sha256 of the plugin that must be registered to run the engine, None for none.
        graph_sha256: sha256 of the ONNX file it was built from.
        build_seconds: time for parsing and building.
        peak_memory_mb: peak resident memory of the building process since its start, also before the build, in 10^6
            bytes; None where the system does not report it.
    """

    target: str
    version: str
    gpu: str | None
    sm: str
    precision: str
    batches: tuple[int, int, int]
    flags: tuple[str, ...]
    options: dict[str, int | bool | None] = field(default_factory=dict)
    layer_count: int
    datatypes: dict[str, int]
    source: str
    asked: dict[str, int] = field(default_factory=dict)
    chosen: dict[str, int] = field(default_factory=dict)
    plugin: str | None = None
    plugin_hash: str | None
    graph_sha256: str
    build_seconds: float
    peak_memory_mb: float | None
    notes: tuple[str, ...] = ()
    layers: tuple[EngineLayer, ...]

    def __str__(self) -> str:
        memory = "" if self.peak_memory_mb is None else f" (process peak {self.peak_memory_mb / 1000:.1f} GB)"
        lines = (
            f"{self.target} {self.version} for {self._built_for()}, batches {'/'.join(map(str, self.batches))}, "
            f"built in {self.build_seconds:.1f} s{memory}",
            f"{self.precision} asked; {self.layer_count} layers by datatype ({self.source}): {_listed(self.datatypes)}",
            f"convolutions: {_listed(self.asked)} in the graph, {_listed(self.chosen)} in the engine",
            f"plugin: {self.plugin or 'none'}",
            *(f"note: {note}" for note in self.notes),
        )
        return "\n".join(lines)

    @property
    def file_name(self) -> str:
        """The name of the engine file, ``TARGET-VERSION-SM-PRECISION.engine``."""
        return engine_name(self.target, self.version, self.sm, self.precision) + ".engine"

    def misfit(self, target: str, version: str, sm: str | None) -> str | None:
        """Return half a sentence on why the engine cannot run on a target version and SM (None: unknown), or None."""
        if self.target != target or not self._runs_on(version):
            later = " for it and later versions" if VERSION_COMPATIBLE in self.flags else ""
            return f"was built with {self.target} {self.version}{later}, this machine has {target} {version}"
        if sm is None or sm == self.sm:
            return None
        if self.sm not in (ANY_SM, AMPERE_PLUS):
            return f"was built for {self.sm} ({self.gpu}); this GPU is {sm}"
        number = sm_number(sm)
        if self.sm == AMPERE_PLUS:
            fits = number >= 80 and number not in JETSON_SMS
        else:
            fits = number in DEFAULT_SMS or number > DEFAULT_SMS[-1]
        return None if fits else f"was built for {self._built_for()}; this GPU is {sm}"

    def _runs_on(self, version: str) -> bool:
        if VERSION_COMPATIBLE not in self.flags:
            return version == self.version
        here, built = version_numbers(version, 3), version_numbers(self.version, 3)
        return built <= here and here[0] <= built[0] + 1

    def _built_for(self) -> str:
        if self.sm == ANY_SM:
            return f"{', '.join(f'sm{known}' for known in DEFAULT_SMS)} and later"
        return "sm80 and later, not Jetson" if self.sm == AMPERE_PLUS else f"{self.gpu} ({self.sm})"

    def write(self, path: Path) -> None:
        """Write as JSON, atomically."""
        write_text(path, json.dumps(asdict(self), indent=2) + "\n")


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"


def engine_name(target: str, version: str, sm: str, precision: str) -> str:
    """Return ``TARGET-VERSION-SM-PRECISION``, with the first three numbers of the version."""
    return f"{target}-{'.'.join(version.split('.')[:3])}-{sm}-{precision}"


def record_path(engine: Path) -> Path:
    """Return the path of the record of an engine file."""
    return engine.with_suffix(".json")


def rebuild_command(bundle: Path, target: str, precision: str = "fp32") -> str:
    """Return the command that builds a bundle's engine on this machine."""
    return f"edgepose build {bundle} --target {target}{'' if precision == 'fp32' else f' --precision {precision}'}"


def read_record(engine: Path) -> EngineRecord:
    """Read the record beside an engine; raise UsageError if it is missing or this edgepose cannot read it."""
    path = record_path(engine)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        layers = tuple(
            EngineLayer(
                layer["name"], layer["kind"], tuple(layer["reads"]), tuple(layer["writes"]), tuple(layer["nodes"])
            )
            for layer in values["layers"]
        )
        smallest, typical, largest = values["batches"]
        texts = {name: tuple(values[name]) for name in ("flags", "notes")}
        return EngineRecord(**{**values, **texts, "batches": (smallest, typical, largest), "layers": layers})
    except FileNotFoundError as error:
        raise UsageError(
            f"engine {engine} has no record {path.name} beside it: build it again (edgepose build)"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is not an engine record of this edgepose: build it again (edgepose build)") from error
