"""A process that dies before a call that changes the file system, as Python's audit events tell of each."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Crash(BaseException):
    """Raised in place of dying; nothing but a test catches it, and clean-up changes nothing any more."""


class Calls:
    """Counts the calls that change files.

    Attributes:
        made: the events so far, such as ``os.rename``.
        last: how many of them are let through.
    """

    def __init__(self, last: int) -> None:
        self.made: list[str] = []
        self.last = last

    def hear(self, event: str, arguments: tuple[object, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES
        if not (writes or event in _CHANGES):
            return
        if len(self.made) >= self.last:
            raise Crash(event)
        self.made.append(event)


_armed: list[Calls] = []


def _hear(event: str, arguments: tuple[object, ...]) -> None:
    if _armed and (event == "open" or event.startswith("os.")):
        _armed[-1].hear(event, arguments)


@cache
def _listen() -> None:
    sys.addaudithook(_hear)  # it stays for good, hence the cache


@contextmanager
def crash_after(calls: int) -> Iterator[Calls]:
    """Let a number of calls that change files through; before the next one raise :class:`Crash`, and so at all others.

    The block ends normally where the crash, or its own end, comes.
    """
    _listen()
    counted = Calls(calls)
    _armed.append(counted)
    try:
        yield counted
    except Crash:
        pass
    finally:
        _armed.remove(counted)
