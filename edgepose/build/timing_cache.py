"""TensorRT's timing cache, kept beside the engines of a bundle: what was timed once is not timed again.

It fits one TensorRT version and one GPU. The manifest neither names nor hashes it: without it, or with a damaged one,
a build takes longer and nothing else changes. The file is the sha256 of what follows, 32 bytes, and TensorRT's own.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from ..bundle.bundle import Bundle
from ..bundle.manifest import ENGINES
from ..core.errors import UsageError
from ..core.files import atomic_path

_DIGEST = 32


def cache_path(bundle: Bundle, target: str, version: str, sm: str) -> Path:
    """``engines/TARGET-VERSION-SM.timing`` of a bundle."""
    return bundle.path / ENGINES / f"{target}-{version}-{sm}.timing"


def attach_cache(config: Any, path: Path) -> tuple[Any, str | None]:
    """Give a builder configuration the cache of a file, or a new one.

    Returns:
        The cache, which must outlive the build; and why the file was not used, a sentence, or None.
    """
    data = _read(path)
    if data:
        cache = config.create_timing_cache(data)
        if cache is not None and config.set_timing_cache(cache, False):
            return cache, None
    note = None if data == b"" else f"timing cache {path} is damaged or another GPU's: made anew"
    cache = config.create_timing_cache(b"")
    if cache is None or not config.set_timing_cache(cache, False):
        return None, "TensorRT made no timing cache: the next build takes as long as this one"
    return cache, note


def keep_cache(cache: Any, path: Path) -> str | None:
    """Write a cache after the build; returns why it could not be, a sentence, or None."""
    data = bytes(cache.serialize())
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(hashlib.sha256(data).digest() + data)
    except UsageError as error:
        return f"the timing cache is lost, the next build takes as long as this one: {error}"
    return None


def _read(path: Path) -> bytes | None:
    """TensorRT's bytes: empty if there is no file, None if it is damaged."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError:
        return None
    digest, data = content[:_DIGEST], content[_DIGEST:]
    return data if data and hashlib.sha256(data).digest() == digest else None
