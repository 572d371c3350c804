"""The ``edgepose`` command: parse the arguments, and call one function per command.

Exit codes: 0 success; 1 a check failed; 2 wrong usage or input, with one line on stderr.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from pathlib import Path

from .. import __version__
from ..core.errors import CheckError, UsageError
from ..core.files import STDOUT, place
from .commands import close_stdout
from .options import COMMANDS, DEBUG, Parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        with _printing(arguments):
            arguments.call(arguments)
    except (CheckError, UsageError) as error:
        if arguments.debug:
            raise
        print(f"edgepose: {error}", file=sys.stderr)
        return 1 if isinstance(error, CheckError) else 2
    except KeyboardInterrupt:
        print("edgepose: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        close_stdout()
    return 0


def _printing(arguments: argparse.Namespace) -> AbstractContextManager[object]:
    """Print to stderr instead of stdout if a result is written to standard output (``--save-json -``)."""
    paths = [value for value in vars(arguments).values() if isinstance(value, Path)]
    return redirect_stdout(sys.stderr) if place(STDOUT) in map(place, paths) else nullcontext()


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="edgepose", description="Pose networks from PyTorch to the edge, verified.")
    parser.add_argument("--version", action="version", version=f"edgepose {__version__}")
    parser.add_argument("--debug", action="store_true", help=DEBUG)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in COMMANDS:
        add(commands)
    for command in commands.choices.values():  # accept --debug after the command too; SUPPRESS keeps the value before
        command.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=DEBUG)
    return parser
