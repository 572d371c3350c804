"""The command line, result file and exit code that the benchmarks share."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from edgepose.backends.environment import environment
from edgepose.core.errors import CheckError, UsageError
from edgepose.core.files import write_text

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Outcome:
    """The result of one benchmark.

    Attributes:
        text: the tables to print.
        figures: the same and more, as JSON values for the result file.
        excess: a sentence for each limit that is exceeded.
    """

    text: str
    figures: dict[str, Any]
    excess: list[str] = field(default_factory=list)


def run_benchmark(parser: argparse.ArgumentParser, measure: Callable[[argparse.Namespace], Outcome]) -> int:
    """Parse the options, measure, print, and write ``results/NAME.json``.

    Returns:
        the exit code: 0 within the limits, 1 above one, 2 for wrong usage or input.
    """
    script = Path(sys.argv[0]).resolve().relative_to(RESULTS.parent.parent).as_posix()
    name = Path(script).stem
    parser.add_argument("--json", type=Path, default=RESULTS / f"{name}.json", help="default: results/%(prog)s.json")
    parser.prog = name
    options = parser.parse_args()
    try:
        outcome = measure(options)
    except (CheckError, UsageError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1 if isinstance(error, CheckError) else 2
    command = " ".join(["python", script, *map(portable, sys.argv[1:])])
    figures = {**outcome.figures, "excess": outcome.excess, "environment": {**environment(), "command": command}}
    write_text(options.json, json.dumps(figures, indent=2) + "\n")
    print(outcome.text)
    for sentence in outcome.excess:
        print(f"ABOVE THE LIMIT: {sentence}")
    return 1 if outcome.excess else 0


def portable(argument: str) -> str:
    """Return an argument without the folders of this machine: absolute paths keep their last part.

    >>> portable("lsp:/home/me/lspet"), portable("../shared/a.mp4")
    ('lsp:lspet', '../shared/a.mp4')
    """
    kind, colon, path = argument.rpartition(":")
    return f"{kind}{colon}{PurePath(path).name}" if PurePath(path).is_absolute() else argument
