"""The self-check: a few goldens are replayed before a bundle's network first runs on a machine.

Each result is stored in ``~/.cache/edgepose/proven``, in a file named by the hash of everything that it depends on. If
the cache cannot be read or written, the check runs again next time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TypeVar

from ..bundle.contract import IMAGES
from ..bundle.goldens import read_goldens, verdict
from ..bundle.manifest import GOLDENS
from ..core.errors import CheckError, UsageError
from ..core.files import cache_folder, sha256, write_text
from ..core.machine import cpu_name
from ..nvidia import device
from ..nvidia.tensorrt import TARGETS
from .plan import Runner, get_backend
from .session import Session

_Network = TypeVar("_Network")

#: Number of goldens that are replayed; if they fail, all are, as in ``edgepose verify``, which may pass then.
IMAGES_CHECKED = 3


def open_checked(runner: Runner, wrap: Callable[[Session], _Network], check: bool) -> _Network:
    """Open a runner's network, wrap its session, and if ``check``, replay goldens; close it if any of this fails."""
    session = runner.open()
    try:
        network = wrap(session)
        if check:
            self_check(runner, session)
    except Exception:
        session.close()
        raise
    return network


def self_check(runner: Runner, session: Session) -> bool:
    """Replay a few goldens on the opened session of a runner; return False if that was done here before.

    Raises:
        CheckError: the outputs are not within the limits of the precision.
        UsageError: the goldens are damaged, or the engine fails on them.
    """
    bundle, proof = runner.bundle, proof_of(runner)
    key = hashlib.sha256(json.dumps(proof, sort_keys=True).encode()).hexdigest()
    with suppress(OSError, RuntimeError):  # no permission to read the folder; a user without a home
        if _proof_path(key).is_file():
            return False
    goldens, problem, task = read_goldens(bundle), None, bundle.task
    reference = bundle.manifest.reference
    for replayed in (goldens.first(IMAGES_CHECKED), goldens):
        problem = verdict(replayed, session.run({IMAGES: replayed.images}), runner.precision)[1]
        if not problem:
            break
    if problem:
        raise CheckError(
            f"backend {runner.backend} in {runner.precision} does not give {reference}'s {task.points} of the "
            f"golden {task.image}s on this machine ({problem}): run edgepose verify {bundle.path}"
        )
    with suppress(OSError, RuntimeError, UsageError):
        write_text(_proof_path(key), json.dumps(proof, indent=2) + "\n")
    return True


def proof_of(runner: Runner) -> dict[str, object]:
    """Return everything that the outputs of a network depend on, and the limits for their errors."""
    bundle, backend = runner.bundle, get_backend(runner.backend)
    limits = bundle.task.limits(runner.precision)
    return {
        "file": bundle.manifest.files.get(runner.file.relative_to(bundle.path).as_posix()) or sha256(runner.file),
        "goldens": bundle.manifest.files[GOLDENS],
        "backend": backend.name,
        "version": str(getattr(import_module(backend.module), "__version__", None)),
        "precision": runner.precision,
        "machine": device.device_info().name if backend.name in TARGETS else cpu_name(),
        "limits": (limits.score, limits.p50, limits.p99),
    }


def _proof_path(key: str) -> Path:
    return cache_folder() / "proven" / f"{key}.json"
