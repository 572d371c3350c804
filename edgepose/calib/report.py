"""The report of a calibration."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..accuracy.agreement import Agreement
from ..backends.environment import environment
from ..bundle.bundle import Bundle
from ..core.report import Report
from ..core.tables import text_table
from ..graphs.sixteen_bit import Unsafe
from .search import SearchResult


@dataclass(frozen=True)
class Variant:
    """One graph, measured.

    Attributes:
        precision: one of :data:`edgepose.bundle.manifest.PRECISIONS`.
        megabytes: size of the file in MB (10^6 bytes).
        int8: number of convolutions in INT8.
        agreement: agreement with FP32's keypoints or boxes.
        accuracy: AP against the labels, in percent; None without labels.
    """

    precision: str
    megabytes: float
    int8: int
    agreement: Agreement
    accuracy: float | None

    @property
    def cells(self) -> tuple[str, ...]:
        """A row of the report's table."""
        shares = [f"{share:.2f} %" for share in asdict(self.agreement).values()]
        accuracy = "-" if self.accuracy is None else f"{self.accuracy:.2f} %"
        return (self.precision, f"{self.megabytes:.1f}", str(self.int8), *shares, accuracy)


@dataclass(frozen=True)
class CalibrationReport(Report):
    """The results of :func:`edgepose.calib.calibrate`; ``str(report)`` is a table.

    Attributes:
        bundle: the bundle with the new graphs.
        crops: one line that describes the crops.
        calibrated, judged: number of crops that set the ranges, and that accuracy was measured on.
        method: method that chose the ranges.
        unsafe: nodes that FP16 cannot hold.
        variants: FP32, and the graphs that were made.
        search: result of the search; None without one.
    """

    bundle: Bundle
    crops: str
    calibrated: int
    judged: int
    method: str
    unsafe: tuple[Unsafe, ...]
    variants: tuple[Variant, ...]
    search: SearchResult | None = None

    def __str__(self) -> str:
        shares = ("AP against FP32", "identical", "moved > 4 px")
        head = ("precision", "MB", "INT8 convolutions", *shares, "AP against labels")
        rows = [variant.cells for variant in self.variants]
        lines = [
            f"{self.crops}: {self.calibrated} set the ranges ({self.method}), accuracy is measured on {self.judged}",
            text_table(head, rows),
            *map(str, self.unsafe),
        ]
        return "\n".join([*lines, str(self.search)] if self.search else lines)

    def to_json(self) -> dict[str, Any]:
        """Return the results as JSON values, with the files' hashes and the environment."""
        return {
            "bundle": self.bundle.manifest.name,
            **{name: getattr(self, name) for name in ("crops", "calibrated", "judged", "method")},
            "unsafe": [asdict(found) for found in self.unsafe],
            "variants": [asdict(variant) for variant in self.variants],
            "search": self.search.to_json() if self.search else None,
            "files": self.bundle.manifest.files,
            "environment": environment(),
        }
