"""The options of a build, and what they are in TensorRT's words."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..bundle.engine_record import AMPERE_PLUS, VERSION_COMPATIBLE
from ..core.errors import UsageError
from ..nvidia.device import sm_number

#: Smallest, typical and largest batch; and with ``low_memory``.
BATCHES, LOW_MEMORY_BATCHES = (1, 8, 32), (1, 1, 4)
#: More images than these per call gain nothing, and an engine for them may need more memory than any GPU has.
LARGEST_BATCH = 1024
#: Memory a layer may use for itself with ``low_memory``, in MB (10^6 bytes).
LOW_MEMORY_WORKSPACE_MB = 256
#: Jetson Linux has this file.
_JETSON = Path("/etc/nv_tegra_release")


@dataclass(frozen=True)
class BuildOptions:
    """How an engine is built; precision is not among these, it is in the graph.

    Attributes:
        batches: smallest, typical and largest batch; the engine is fastest at the typical one. None for
            :data:`BATCHES`, or :data:`LOW_MEMORY_BATCHES` with ``low_memory``.
        workspace_mb: the most memory that a layer may use for itself, in MB (10^6 bytes), while it is tried and in the
            engine; where TensorRT compiles the whole network as one, all activations count. None for all of the GPU's,
            or :data:`LOW_MEMORY_WORKSPACE_MB` with ``low_memory``.
        hardware_compatible: one engine for other GPUs, too. tensorrt: for Ampere and every later one, at some cost in
            speed; not on Jetson. tensorrt-rtx: for every SM that it targets by default, as without a GPU, instead of
            this GPU only.
        version_compatible: tensorrt: later versions, up to the next major one, can run the engine, at some cost in
            speed. tensorrt-rtx has no such engines.
        low_memory: for boards of 4 GB. Next to smaller batches and workspace: builder optimisation level 1, which by
            NVIDIA's documentation tries only the tactics that its heuristics put first and compiles kernels briefly,
            and no auxiliary streams, so that all activations share their memory.
        plugin: run dynamic convolutions in the plugin; else, and always in tensorrt-rtx, by their function body.

    Raises:
        UsageError: a number is out of its range.
    """

    batches: tuple[int, int, int] | None = None
    workspace_mb: int | None = None
    hardware_compatible: bool = False
    version_compatible: bool = False
    low_memory: bool = False
    plugin: bool = True

    def __post_init__(self) -> None:
        smallest, typical, largest = self.profile
        if not 1 <= smallest <= typical <= largest:
            raise UsageError(
                "--batch must be 1 <= smallest <= typical <= largest, such as 1,8,32, got "
                f"{smallest},{typical},{largest}"
            )
        if largest > LARGEST_BATCH:
            raise UsageError(
                f"--batch is at most {LARGEST_BATCH} images per call, got {largest}: larger inputs are split"
            )
        if self.workspace_mb is not None and self.workspace_mb < 1:
            raise UsageError(f"--workspace must be 1 MB or more, got {self.workspace_mb}")

    @property
    def profile(self) -> tuple[int, int, int]:
        """Smallest, typical and largest batch."""
        return self.batches or (LOW_MEMORY_BATCHES if self.low_memory else BATCHES)

    @property
    def workspace(self) -> int | None:
        """MB (10^6 bytes) that a layer may use for itself, None for all."""
        return self.workspace_mb or (LOW_MEMORY_WORKSPACE_MB if self.low_memory else None)

    def recorded(self) -> dict[str, int | bool | None]:
        """For the engine's record, which names the batches elsewhere."""
        values = {**asdict(self), "workspace_mb": self.workspace}
        del values["batches"]
        return values

    def check_target(self, target: str, trt: Any, sm: str | None) -> None:
        """Refuse what a target cannot do.

        Args:
            target: ``tensorrt`` or ``tensorrt-rtx``.
            trt: its module.
            sm: of the GPU that is built on, None without one.

        Raises:
            UsageError: names the option and what to do without it.
        """
        if target != "tensorrt":
            if self.version_compatible:
                raise UsageError(
                    f"--version-compatible is for tensorrt: a {target} engine runs on the version that built it only; "
                    "build it again after an update"
                )
            return
        if self.hardware_compatible:
            self._check_hardware_compatible(trt, sm)
        if self.version_compatible and not hasattr(trt.BuilderFlag, VERSION_COMPATIBLE):
            raise UsageError(f"TensorRT {trt.__version__} makes no such engine: leave --version-compatible out")

    def _check_hardware_compatible(self, trt: Any, sm: str | None) -> None:
        reason = None
        if _JETSON.is_file():
            reason = "TensorRT on Jetson builds for its own GPU only"
        elif not hasattr(getattr(trt, "HardwareCompatibilityLevel", None), "AMPERE_PLUS"):
            reason = f"TensorRT {trt.__version__} has no such level"
        elif sm is not None and sm_number(sm) < 80:
            reason = f"it is for {AMPERE_PLUS} GPUs, this one is {sm}"
        if reason:
            raise UsageError(f"--hardware-compatible cannot be had here ({reason}): leave it out")

    def configure(self, trt: Any, config: Any, target: str) -> None:
        """Set a builder configuration; ask :meth:`check_target` first."""
        if self.workspace is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, self.workspace * 10**6)
        if self.low_memory:
            config.builder_optimization_level = 1
            config.max_aux_streams = 0
        if self.hardware_compatible and target == "tensorrt":
            config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
        if self.version_compatible:
            config.set_flag(getattr(trt.BuilderFlag, VERSION_COMPATIBLE))


#: What a build does when nothing else is said.
DEFAULTS = BuildOptions()
