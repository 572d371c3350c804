"""TensorRT's timing cache beside the engines of a bundle, which makes later builds faster.

It is for one TensorRT version and one GPU, and is not in the manifest: a missing or damaged one only makes a build take
longer. The file holds the sha256 of the rest (32 bytes), then TensorRT's data.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from ..core.errors import UsageError
from ..core.files import atomic_path

_DIGEST = 32


def attach_cache(config: Any, path: Path) -> tuple[Any, str | None]:
    """Attach the cache in a file, or a new one, to a builder configuration.

    Returns:
        the cache, which must outlive the build; and a sentence on why the file was not used, or None.
    """
    data = _read(path)
    if data:
        cache = config.create_timing_cache(data)
        if cache is not None and config.set_timing_cache(cache, False):
            return cache, None
    note = None if data == b"" else f"timing cache {path} is damaged or of another GPU: started a new one"
    cache = config.create_timing_cache(b"")
    if cache is None or not config.set_timing_cache(cache, False):
        return None, "TensorRT made no timing cache: the next build takes as long as this one"
    return cache, note


def keep_cache(cache: Any, path: Path) -> str | None:
    """Write a cache after the build; return a sentence on why that failed, or None."""
    data = bytes(cache.serialize())
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(hashlib.sha256(data).digest() + data)
    except UsageError as error:
        return f"no timing cache was written, the next build takes as long as this one: {error}"
    return None


def _read(path: Path) -> bytes | None:
    """Return TensorRT's data: empty if there is no file, None if it is damaged."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError:
        return None
    digest, data = content[:_DIGEST], content[_DIGEST:]
    return data if data and hashlib.sha256(data).digest() == digest else None
