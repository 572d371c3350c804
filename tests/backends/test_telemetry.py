"""What importing and running the engines leaves in the user's home: nothing but edgepose's own cache."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.doubles.pose_network import make_bundle

CODE = """
import sys
import edgepose

for backend in sys.argv[2:]:
    with edgepose.load(sys.argv[1], backend) as estimator:
        print(estimator.backend)
"""


@pytest.mark.slow
def test_no_engine_writes_into_the_home_of_the_user(tmp_path: Path) -> None:
    """An identifier of the machine would be written there by ONNX Runtime's telemetry, and by OpenVINO's."""
    backends = ("onnxruntime", "openvino")
    for module in backends:
        pytest.importorskip(module)
    bundle, home = make_bundle(tmp_path / "tiny.edgepose"), tmp_path / "home"
    home.mkdir()
    elsewhere = ("XDG_", "ORT_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(elsewhere)}
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(bundle.path), *backends],
        env={**environment, "HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout.split()) == (0, [*backends]), done.stderr
    written = [path.relative_to(home) for path in home.rglob("*") if path.is_file()]
    assert len(written) == 2, written
    assert {path.parent for path in written} == {Path(".cache/edgepose/proven")}
