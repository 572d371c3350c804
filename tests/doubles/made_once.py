"""Files that are dear to make are made once for all workers of pytest-xdist, and again when the package changes."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

import edgepose

#: What the files are made with, beside the package.
_LIBRARIES = ("numpy", "onnx", "onnxscript", "onnxsim", "scikit-image", "torch")


def made_once(
    name: str, make: Callable[[Path], None], tmp_path_factory: pytest.TempPathFactory, config: pytest.Config
) -> Path:
    """Return a folder of this session's own with what ``make`` writes into the folder that it is given.

    The files are kept in pytest's cache, under a hash of the sources and of the versions of what makes them; without
    a cache (``-p no:cacheprovider``) they are made anew.
    """
    own = tmp_path_factory.mktemp(name)
    if getattr(config, "cache", None) is None:
        make(own)
        return own
    kept = config.cache.mkdir("made-once")
    with (kept / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed
        wanted = kept / f"{name}-{_key()}"
        if not wanted.is_dir():
            for older in kept.glob(f"{name}-*"):
                shutil.rmtree(older)
            half = wanted.with_name(f"half-{name}")
            shutil.rmtree(half, ignore_errors=True)
            half.mkdir()
            make(half)
            half.rename(wanted)
        return Path(shutil.copytree(wanted, own, dirs_exist_ok=True))


@cache
def _key() -> str:
    digest = sha256(repr([_version(name) for name in _LIBRARIES]).encode())
    folders = Path(edgepose.__file__).parent, Path(__file__).parent
    files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.suffix in (".py", ".onnx")]
    for path in (*files, Path(__file__).parents[1] / "conftest.py"):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
