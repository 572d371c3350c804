"""The options of a build, and how they configure TensorRT's builder."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..bundle.engine_record import AMPERE_PLUS, VERSION_COMPATIBLE
from ..core.errors import UsageError
from ..nvidia.device import sm_number

#: Default smallest, typical and largest batch, without and with ``low_memory``.
BATCHES, LOW_MEMORY_BATCHES = (1, 8, 32), (1, 1, 4)
#: Larger batches gain nothing, and an engine for them may need more memory than any GPU has.
LARGEST_BATCH = 1024
#: Workspace of a layer with ``low_memory``, in MB (10^6 bytes).
LOW_MEMORY_WORKSPACE_MB = 256
#: A file that exists on Jetson Linux.
_JETSON = Path("/etc/nv_tegra_release")


@dataclass(frozen=True)
class BuildOptions:
    """The options of a build; the precision is not one of them, because the graph defines it.

    Attributes:
        batches: smallest, typical and largest batch; the engine is fastest at the typical one. None for
            :data:`BATCHES`, or :data:`LOW_MEMORY_BATCHES` with ``low_memory``.
        workspace_mb: largest workspace of a layer, in MB (10^6 bytes), in the build and in the engine; if TensorRT
            compiles the whole network as one layer, all activations count. None for all memory of the GPU, or
            :data:`LOW_MEMORY_WORKSPACE_MB` with ``low_memory``.
        hardware_compatible: build one engine for many GPUs. tensorrt: Ampere and later, slower, not on Jetson.
            tensorrt-rtx: its default SMs, as without a GPU, instead of this GPU only.
        version_compatible: tensorrt: let later versions, up to the next major one, run the engine, which is slower.
            tensorrt-rtx does not support this.
        low_memory: for boards with 4 GB: smaller batches and workspace, no auxiliary streams, so that all activations
            share memory, and builder optimisation level 1, which by NVIDIA's documentation tries only the tactics that
            its heuristics rank first.
        plugin: run dynamic convolutions in the plugin; otherwise, and always in tensorrt-rtx, by their function body.

    Raises:
        UsageError: a number is out of range.
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
            raise UsageError(f"--batch must be at most {LARGEST_BATCH}, got {largest}: larger inputs are split anyway")
        if self.workspace_mb is not None and self.workspace_mb < 1:
            raise UsageError(f"--workspace must be 1 MB or more, got {self.workspace_mb}")

    @property
    def profile(self) -> tuple[int, int, int]:
        """Smallest, typical and largest batch."""
        return self.batches or (LOW_MEMORY_BATCHES if self.low_memory else BATCHES)

    @property
    def workspace(self) -> int | None:
        """Largest workspace of a layer in MB (10^6 bytes), None for all memory."""
        return self.workspace_mb or (LOW_MEMORY_WORKSPACE_MB if self.low_memory else None)

    def recorded(self) -> dict[str, int | bool | None]:
        """Return the options for the engine's record, which stores the batches separately."""
        values = {**asdict(self), "workspace_mb": self.workspace}
        del values["batches"]
        return values

    def check_target(self, target: str, trt: Any, sm: str | None) -> None:
        """Raise UsageError for an option that a target does not support on a GPU of this SM (None without a GPU)."""
        if target != "tensorrt":
            if self.version_compatible:
                raise UsageError(
                    f"--version-compatible is for tensorrt: a {target} engine runs only on the version that built it; "
                    "build it again after an update"
                )
            return
        reason = None
        if _JETSON.is_file():
            reason = "TensorRT on Jetson builds for its own GPU only"
        elif not hasattr(getattr(trt, "HardwareCompatibilityLevel", None), "AMPERE_PLUS"):
            reason = f"TensorRT {trt.__version__} has no such level"
        elif sm is not None and sm_number(sm) < 80:
            reason = f"it is for {AMPERE_PLUS} GPUs, this one is {sm}"
        if self.hardware_compatible and reason:
            raise UsageError(f"--hardware-compatible is not supported here ({reason}): leave it out")
        if self.version_compatible and not hasattr(trt.BuilderFlag, VERSION_COMPATIBLE):
            raise UsageError(f"TensorRT {trt.__version__} does not support it: leave --version-compatible out")

    def configure(self, trt: Any, config: Any, target: str) -> None:
        """Set the options in a builder configuration; call :meth:`check_target` first."""
        if self.workspace is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, self.workspace * 10**6)
        if self.low_memory:
            config.builder_optimization_level = 1
            config.max_aux_streams = 0
        if self.hardware_compatible and target == "tensorrt":
            config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
        if self.version_compatible:
            config.set_flag(getattr(trt.BuilderFlag, VERSION_COMPATIBLE))


#: The default options.
DEFAULTS = BuildOptions()
