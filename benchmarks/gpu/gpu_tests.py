"""Run the tests marked ``gpu`` of some folders, and write what became of each after every test.

Usage: ``gpu_tests.py RESULT.json FOLDER ...``. Only files named ``test_*_on_gpu.py`` are read, so that a machine
without the modules of the other tests can run these. Ends with the code for "skipped" where every test was skipped.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from parts import SKIPPED, write_json

PATTERN = "test_*_on_gpu.py"


@dataclass
class Recorder:
    """A plugin of pytest that keeps every test's outcome and time in a file.

    Attributes:
        result: the file.
        tests: by the test's name ``outcome``, ``seconds`` and ``reason``, None where it passed.
    """

    result: Path
    tests: dict[str, dict[str, object]] = field(default_factory=dict)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the call's report, and of the set-up and the tear-down those that did not pass."""
        if report.when != "call" and report.passed:
            return
        lines = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr or "").splitlines()
        self.tests[report.nodeid] = {
            "outcome": report.outcome,
            "seconds": round(report.duration, 3),
            "reason": lines[-1] if lines else None,
        }
        write_json(self.result, {"counts": self.counts(), "tests": self.tests})

    def counts(self) -> dict[str, int]:
        """Return the number of tests by outcome."""
        return dict(Counter(str(test["outcome"]) for test in self.tests.values()))


def main(result: Path, folders: list[Path]) -> int:
    """Run the tests, and return 0, 1 where one failed or none was found, or the code for "skipped"."""
    recorder = Recorder(result)
    files = [str(path) for folder in folders for path in sorted(folder.rglob(PATTERN))]
    # The project's own options collect doctests, which import what these tests do not need.
    options = ["-m", "gpu", "-o", "addopts=", "-p", "no:cacheprovider", "-rs", "--tb=short"]
    code = pytest.main([*options, *files], plugins=[recorder]) if files else pytest.ExitCode.NO_TESTS_COLLECTED
    print(", ".join(f"{count} {outcome}" for outcome, count in recorder.counts().items()) or "no test was found")
    if code == pytest.ExitCode.OK and "passed" not in recorder.counts():
        print(f"every test was skipped: {next(iter(recorder.tests.values()))['reason']}")
        return SKIPPED
    return int(code != pytest.ExitCode.OK)


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]), [Path(folder) for folder in sys.argv[2:]]))
