"""A bundle proves itself: before its network first runs on a machine, a few goldens are replayed on it.

What was proven is remembered for the user, one small file each in ``~/.cache/edgepose/proven``, under the hash of all
that it depends on. A folder that cannot be read or written only means that it is proven again.
"""

from __future__ import annotations

import hashlib
import json
from importlib import import_module
from pathlib import Path

from ..bundle.bundle import Bundle
from ..bundle.goldens import Goldens
from ..bundle.limits import KINDS, examine, limits_for, read_goldens
from ..bundle.manifest import GOLDENS
from ..core.errors import CheckError, UsageError
from ..core.files import cache_folder, sha256, write_text
from ..core.machine import cpu_name
from ..nvidia import device
from .plan import ENGINE_BACKENDS, module_of_backend, session_file
from .session import Session

#: Goldens that are replayed; where they fail, all are, so that nothing is refused that ``edgepose verify`` passes.
CROPS = 3


def self_check(bundle: Bundle, session: Session, precision: str) -> bool:
    """Replay a few goldens on an opened session, unless that was done here before.

    Args:
        bundle: the bundle that the session was opened from; one without goldens has nothing to prove itself with.
        session: runs its network.
        precision: what it computes in.

    Returns:
        whether goldens were replayed.

    Raises:
        CheckError: the outputs are not within the limits of the precision.
        UsageError: the goldens are damaged, or the engine fails on them.
    """
    if GOLDENS not in bundle.manifest.files:
        return False
    proof = proof_of(bundle, session.backend, precision)
    key = hashlib.sha256(json.dumps(proof, sort_keys=True).encode()).hexdigest()
    if _is_known(key):
        return False
    goldens = read_goldens(bundle)
    if _problem(session, goldens.first(CROPS), precision):
        problem, kind = _problem(session, goldens, precision), KINDS[goldens.decode]
        if problem:
            raise CheckError(
                f"backend {session.backend} in {precision} does not give {kind.reference}'s {kind.points} of the "
                f"golden crops on this machine ({problem}): run edgepose verify {bundle.path}"
            )
    _remember(key, proof)
    return True


def proof_of(bundle: Bundle, backend: str, precision: str) -> dict[str, object]:
    """All that the outputs of a network depend on, and the limits that they were held to."""
    file, limits = session_file(bundle, backend, precision), limits_for(precision, bundle.manifest.decode)
    return {
        "file": bundle.manifest.files.get(file.relative_to(bundle.path).as_posix()) or sha256(file),
        "goldens": bundle.manifest.files[GOLDENS],
        "backend": backend,
        "version": str(getattr(import_module(module_of_backend(backend)), "__version__", None)),
        "precision": precision,
        "machine": device.device_info().name if backend in ENGINE_BACKENDS else cpu_name(),
        "limits": (limits.score, limits.p50, limits.p99),
    }


def proof_path(key: str) -> Path:
    """Where a proof is remembered."""
    return cache_folder() / "proven" / f"{key}.json"


def _problem(session: Session, goldens: Goldens, precision: str) -> str | None:
    return examine(goldens, session.run({"images": goldens.images}), precision)[1]


def _is_known(key: str) -> bool:
    try:
        return proof_path(key).is_file()
    except (OSError, RuntimeError):  # a folder that may not be read; a user without a home
        return False


def _remember(key: str, proof: dict[str, object]) -> None:
    try:
        write_text(proof_path(key), json.dumps(proof, indent=2) + "\n")
    except (OSError, RuntimeError, UsageError):
        return
