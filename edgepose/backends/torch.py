"""PyTorch on the CPU: the reference that the other backends are verified against."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..bundle.bundle import Bundle
from ..bundle.contract import IMAGES, TensorSpec
from ..bundle.manifest import CHECKPOINT
from ..core.errors import UsageError, missing_extra
from .backend import Backend
from .session import Arrays, running


class TorchSession:
    """A bundle's checkpoint behind the graph contract, in eager mode.

    Raises:
        UsageError: PyTorch is not installed, or the checkpoint does not fit the network.
    """

    backend = "torch"

    def __init__(self, bundle: Bundle) -> None:
        try:
            import torch
        except ImportError as error:
            raise missing_extra("torch") from error
        from ..models.reference import reference_graph

        contract = bundle.contract
        self._torch = torch
        self._graph: Any = reference_graph(bundle)
        self.inputs: tuple[TensorSpec, ...] = (contract.images,)
        self.outputs: tuple[TensorSpec, ...] = contract.outputs_in(self._graph.outputs)

    def run(self, feeds: Arrays) -> Arrays:
        with running(self, self._graph, feeds), self._torch.inference_mode():
            results = self._graph(self._torch.from_numpy(feeds[IMAGES]))
            return {spec.name: result.numpy() for spec, result in zip(self.outputs, results, strict=True)}

    def close(self) -> None:
        self._graph = None


class _Torch(Backend):
    def refuses(self, precision: str) -> str | None:
        return None if precision == "fp32" else f"torch, the reference, computes in fp32 only, got {precision}"

    def precisions(self, bundle: Bundle) -> tuple[str, ...]:  # noqa: ARG002
        return ("fp32",)

    def choose(self, bundle: Bundle, asked: str) -> tuple[str, Path]:
        checkpoint = bundle.path / CHECKPOINT
        if not checkpoint.is_file():
            raise UsageError(f"the bundle has no {CHECKPOINT}")
        if reason := self.refuses("fp32" if asked == "auto" else asked):
            raise UsageError(reason)
        return "fp32", checkpoint

    def open(self, bundle: Bundle, file: Path) -> TorchSession:  # noqa: ARG002
        return TorchSession(bundle)


TORCH = _Torch("torch", "torch")
