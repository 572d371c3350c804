"""The progress bar of a build, and Ctrl-C during a build, which TensorRT's own code ignores."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from ..core.progress import bar

#: A function that shows a fraction from 0 to 1 and the name of the current phase.
Show = Callable[[float, str], None]


def build_with_progress(trt: Any, builder: Any, network: Any, config: Any) -> Any:
    """Call ``builder.build_serialized_network(network, config)`` with a bar on stderr if that is a terminal.

    The build runs in a thread, so that Python gets a signal; Ctrl-C ends it at TensorRT's next step, and is raised
    then.
    """
    with progress_bar() as show, ThreadPoolExecutor(1) as pool:
        monitor = progress_monitor(trt, show)
        config.progress_monitor = monitor
        try:
            return pool.submit(builder.build_serialized_network, network, config).result()
        except KeyboardInterrupt:
            monitor.stopped = True
            show(monitor.phases.fraction, "stopping at TensorRT's next step")
            raise  # leaving the pool waits for its thread


class Phases:
    """The progress of TensorRT's phases, which nest and have numbered steps, as one ``fraction``; thread-safe."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[str | None, int, int]] = {}  # by name: parent, steps, steps done
        self._lock = threading.Lock()
        self.fraction = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """Begin a phase with this number of steps within its parent's current step."""
        with self._lock:
            self._open[name] = (parent, max(steps, 1), 0)

    def step(self, name: str, number: int) -> None:
        """Count a step, numbered from 0, as done."""
        with self._lock:
            if name in self._open:
                parent, steps, _ = self._open[name]
                self._open[name] = (parent, steps, number + 1)
                self.fraction = max(self.fraction, self._done(next(iter(self._open))))

    def finish(self, name: str) -> None:
        """End a phase; its parent reports its own step."""
        with self._lock:
            self._open.pop(name, None)

    def _done(self, name: str) -> float:
        """Return the completed fraction of a phase; its latest open child counts as its current step."""
        _, steps, done = self._open[name]
        children = [child for child, (parent, _, _) in self._open.items() if parent == name]
        within = self._done(children[-1]) if children else 0.0
        return min(1.0, (done + min(within, 1.0)) / steps)


def progress_monitor(trt: Any, show: Show) -> Any:
    """Return a progress monitor that shows every step; set its ``stopped`` to True to cancel the build."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)  # pybind11 refuses super()
            self.stopped = False
            self.phases = Phases()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.phases.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self.phases.step(phase_name, step)
            if not self.stopped:
                show(self.phases.fraction, phase_name)
            return not self.stopped

        def phase_finish(self, phase_name: str) -> None:
            self.phases.finish(phase_name)

    return Monitor()


@contextmanager
def progress_bar() -> Iterator[Show]:
    """Show a bar on stderr if that is a terminal and tqdm is installed, and remove it at the end."""
    lock = threading.Lock()
    with bar("building") as progress:

        def show(fraction: float, phase: str) -> None:
            with lock:
                progress(int(100 * fraction), 100, phase)

        yield show
