"""The command ``bench``: the latency of a network on each engine, or the times of a pipeline's stages."""

from .network import BATCHES, BenchReport, Row, bench, plot
from .pipeline import PipelineReport, bench_pipeline

__all__ = ["BATCHES", "BenchReport", "PipelineReport", "Row", "bench", "bench_pipeline", "plot"]
