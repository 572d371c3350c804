"""Bench: how long a network takes on each engine, and where the time of a frame goes."""

from .network import BATCHES, BenchReport, Row, bench, plot
from .pipeline import PipelineReport, bench_pipeline

__all__ = ["BATCHES", "BenchReport", "PipelineReport", "Row", "bench", "bench_pipeline", "plot"]
