"""Run the parts of a GPU's day, each within its own limit, and keep a summary that a cut run leaves, too.

``summary.json`` is written before and after every part; a part that was cut with the whole run is ``running`` there.
The exit code is 1 if a part failed or timed out, 2 without a GPU, else 0. Only the standard library is imported, so
that whatever is missing on the machine is a part's reason and not the end of the run.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from parts import GRACE, LONGEST, PARTS, ROOT, SKIPPED, Part, write_json

#: Lines of a part's log that its JSON file keeps, and that are printed where it fails.
KEPT_LINES, SHOWN_LINES = 80, 15
#: Characters of a reason in the printed table.
REASON_WIDTH = 100


@dataclass(frozen=True)
class Result:
    """What became of a part.

    Attributes:
        part: its name.
        state: ``running``, ``passed``, ``failed``, ``skipped`` or ``timed out``.
        seconds: how long it took.
        limit: seconds that it was allowed.
        reason: why it was skipped or ended; the last line that it printed where it ran to its end.
        exit_code: of its process, None where none ran to its end.
    """

    part: str
    state: str
    seconds: float = 0.0
    limit: int = 0
    reason: str = ""
    exit_code: int | None = None


@dataclass(frozen=True)
class Places:
    """Folders, all absolute: results, scratch space, and the wheels to install."""

    out: Path
    work: Path
    wheels: Path

    @property
    def site(self) -> Path:
        """The folder in which the wheels are installed."""
        return self.work / "site"

    def fill(self, text: str) -> str:
        """Replace the placeholders of a part's command."""
        return text.format(python=sys.executable, **vars(self), site=self.site)

    def store(self, name: str, value: dict[str, Any]) -> None:
        """Write a JSON file of results without the folders of this machine, so that it can be shown to anybody."""
        text = json.dumps(value)
        names = {sys.executable: "python", self.out: "OUT", self.work: "WORK", self.wheels: "WHEELS", ROOT: "."}
        for path, shown in names.items():  # the interpreter first: it may lie in one of the folders
            text = text.replace(str(path), shown)
        write_json(self.out / name, json.loads(text))


def select(names: Sequence[str] | None, parts: Sequence[Part] = PARTS) -> list[Part]:
    """Return the parts of some names, in order, with the first and all that they need; without names all."""
    if names is None:
        return list(parts)
    by_name = {part.name: part for part in parts}
    wanted, pending = {parts[0].name}, list(names)
    while pending:
        name = pending.pop()
        wanted.add(name)
        pending += [need.removeprefix("part ") for need in by_name[name].needs if need.startswith("part ")]
    return [part for part in parts if part.name in wanted]


def is_importable(module: str) -> bool:
    """Return whether a module, or one inside a package, can be found."""
    try:
        return find_spec(module) is not None
    except ImportError:
        return False


def missing(part: Part, no_gpu: str | None, states: Mapping[str, str]) -> str | None:
    """Return the first of a part's needs that is not met, as a reason, or None.

    Args:
        part: to be run next.
        no_gpu: why there is no GPU, None where there is one or nobody could tell.
        states: of the parts before it, by name.
    """
    for need in part.needs:
        kind, _, name = need.partition(" ")
        if kind == "gpu" and no_gpu:
            return f"no GPU: {no_gpu}"
        if kind == "module" and not is_importable(name):
            return f"the Python module {name} is not installed"
        if kind == "tool" and shutil.which(name) is None:
            return f"the program {name} is not on the PATH"
        if kind == "part" and states.get(name) != "passed":
            return f"the part {name} {states.get(name, 'did not run')}"
    return None


def run_process(part: Part, places: Places, allowed: int) -> Result:
    """Run a part's command, its output in ``NAME.log``; ``timeout`` ends it, even when this process was killed."""
    command = ["timeout", f"--kill-after={GRACE}", str(allowed), *map(places.fill, part.command)]
    path = ":".join(filter(None, [str(ROOT), str(places.site), os.environ.get("PYTHONPATH")]))
    variables = {name: places.fill(value) for name, value in part.variables}
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **variables}
    log = log_of(part, places)
    start = time.monotonic()
    with log.open("wb") as sink:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=sink, stderr=subprocess.STDOUT)
        try:
            code = process.wait()
        except BaseException:  # Ctrl-C or SIGTERM: nothing is left running
            process.terminate()
            raise
    seconds = round(time.monotonic() - start, 1)
    last = next(iter(last_lines(log, 1)), "it printed nothing")
    ended = Result(part.name, "failed", seconds, allowed, f"exit code {code}: {last}", code)
    if code == 0:
        return replace(ended, state="passed", reason=last)
    if code == SKIPPED:
        return replace(ended, state="skipped", reason=last)
    if code in (124, -signal.SIGKILL) and seconds >= allowed:
        return replace(ended, state="timed out", reason=f"cut after {allowed} s: {last}")
    return ended


def log_of(part: Part, places: Places) -> Path:
    """Return the file of a part's output."""
    return places.out / f"{part.name}.log"


def last_lines(log: Path, count: int) -> list[str]:
    """Return the last lines of a log that are not empty."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    return [line for line in lines if line.strip()][-count:]


def read_figures(path: Path) -> dict[str, Any]:
    """Return the figures that a part wrote, none where it wrote none or was cut while it wrote."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def run_part(part: Part, places: Places, spare: float, states: Mapping[str, str]) -> Result:
    """Run a part, or skip it, and write ``NAME.json``: its result, its command, the end of its log, and its figures.

    Args:
        part: to be run.
        places: where its files go.
        spare: seconds that earlier parts left; up to the part's own limit is added to it.
        states: of the parts before it, by name.
    """
    figures, log = places.out / f"{part.name}.json", log_of(part, places)
    for old in (figures, log):
        old.unlink(missing_ok=True)
    reason = missing(part, read_figures(places.out / "environment.json").get("no_gpu"), states)
    allowed = part.limit + int(min(part.limit, max(spare, 0)))
    result = Result(part.name, "skipped", reason=reason) if reason else run_process(part, places, allowed)
    command = shlex.join(map(places.fill, part.command))
    about = {**asdict(result), "command": command, "proves": part.proves, "output": last_lines(log, KEPT_LINES)}
    places.store(figures.name, {"part": about, **read_figures(figures)})
    return result


def row(part: str, state: str, seconds: str, reason: str) -> str:
    """Return a line of the summary. All have the same columns, so that lines printed one by one are a table, too."""
    return f"{part:<12} {state:<9} {seconds:>6}  {reason[:REASON_WIDTH]}".rstrip()


def table(results: Sequence[Result]) -> str:
    """Return the summary as text: part, state, seconds, and the reason or the last line printed."""
    rows = [row(r.part, r.state, f"{r.seconds:.1f}", r.reason) for r in results]
    return "\n".join([row("part", "state", "s", ""), *rows])


def exit_code(results: Sequence[Result]) -> int:
    """Return 1 if a part failed or timed out, 2 if parts were skipped because there is no GPU, else 0."""
    if any(result.state in ("failed", "timed out") for result in results):
        return 1
    return 2 if any(result.reason.startswith("no GPU") and result.state == "skipped" for result in results) else 0


def run_all(parts: Sequence[Part], places: Places, say: Callable[[str], None] = print) -> int:
    """Run the parts in order, print a line of the table after each, and all of it at the end.

    Returns:
        The exit code, from :func:`exit_code`.
    """
    for folder in (places.out, places.work):
        folder.mkdir(parents=True, exist_ok=True)
    start, begun = time.monotonic(), datetime.now(timezone.utc).isoformat(timespec="seconds")
    results: list[Result] = []
    promised = 0.0

    def keep(*, running: Sequence[Result] = (), code: int | None = None) -> None:
        rows = [asdict(result) for result in (*results, *running)]
        seconds = round(time.monotonic() - start, 1)
        places.store("summary.json", {"begun": begun, "seconds": seconds, "exit_code": code, "parts": rows})

    for part in parts:
        importlib.invalidate_caches()
        keep(running=[Result(part.name, "running", limit=part.limit)])
        spare = promised - (time.monotonic() - start)
        results.append(run_part(part, places, spare, {result.part: result.state for result in results}))
        promised += part.limit + GRACE
        keep()
        say(table(results) if len(results) == 1 else table(results[-1:]).partition("\n")[2])
        if results[-1].state in ("failed", "timed out"):
            say("\n".join([f"--- the end of {part.name}.log:", *last_lines(log_of(part, places), SHOWN_LINES), "---"]))
    code = exit_code(results)
    keep(code=code)
    say(f"\n{table(results)}")
    return code


def describe(parts: Sequence[Part], places: Places) -> str:
    """Return every part with its limit, its needs and its command."""
    blocks = [
        f"{part.name}: at most {part.limit} s, needs {', '.join(part.needs) or 'nothing'}\n"
        f"  proves: {part.proves}\n"
        f"  {' '.join([*(f'{name}={places.fill(value)}' for name, value in part.variables), command])}"
        for part in parts
        for command in [shlex.join(map(places.fill, part.command))]
    ]
    longest = sum(part.limit + GRACE for part in parts)
    return "\n".join([*blocks, f"{len(parts)} parts, at most {longest} s of {LONGEST} s"])


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="all.sh", description=__doc__.partition("\n")[0])
    out = Path(os.environ.get("OUT") or ROOT / "benchmarks" / "results" / "gpu")
    parser.add_argument("--dry-run", action="store_true", help="print the parts and run none")
    parser.add_argument(
        "--only", nargs="+", metavar="PART", choices=[part.name for part in PARTS], help="and their needs"
    )
    parser.add_argument(
        "--out", type=Path, default=out, help="for the results (default: $OUT, or benchmarks/results/gpu)"
    )
    parser.add_argument("--wheels", type=Path, default=ROOT / "wheels", help="folder of wheels (default: wheels)")
    options = parser.parse_args()
    places = Places(options.out.resolve(), ROOT / "build" / "gpu", options.wheels.resolve())
    parts = select(options.only)
    if options.dry_run:
        print(describe(parts, places))
        return 0
    # Where a part's needs are looked for, too.
    sys.path.append(str(places.site))
    os.environ["PATH"] += f":{os.environ.get('CUDA_HOME', '/usr/local/cuda')}/bin"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print(f"results and logs: {places.out}", flush=True)
    return run_all(parts, places, lambda text: print(text, flush=True))


if __name__ == "__main__":
    raise SystemExit(main())
