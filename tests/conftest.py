"""What several test files share."""

from pathlib import Path

import pytest

_SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture
def shared() -> Path:
    """The folder of reference numbers and real images beside the project; a test that needs it skips without it."""
    if not _SHARED.is_dir():
        pytest.skip("needs the reference data beside the project (../shared)")
    return _SHARED
