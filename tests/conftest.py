"""What several test files share."""

from __future__ import annotations

from tests.doubles.one_thread import use_one_thread

use_one_thread()  # before NumPy, PyTorch and the engines are loaded, which ask for the number of threads once

import json
import os
import re
import shutil
import signal
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import ArrayLike

from edgepose.core.files import cache_folder
from tests.doubles.made_once import made_once

if TYPE_CHECKING:
    from torch import nn

# A shell starts its background jobs with Ctrl-C ignored; some tests send it to their own process.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference numbers and real images beside the project; a test that needs it skips without it."""
    if not _SHARED.is_dir():
        pytest.skip("needs the reference data beside the project (../shared)")
    return _SHARED


class Reference:
    """The reference numbers of public implementations, and what was compared with them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        #: By file: the share of its limit that each comparison reached; above 1 is a mismatch.
        self.compared: dict[str, list[float]] = defaultdict(list)

    def load(self, name: str) -> Any:
        """The arrays of an ``.npz`` or the content of a ``.json``."""
        path = self.folder / name
        return np.load(path) if path.suffix == ".npz" else json.loads(path.read_text())

    def match(self, name: str, got: ArrayLike, want: ArrayLike, *, atol: float = 0.0, rtol: float = 0.0) -> None:
        """Assert ``|got - want| <= atol + rtol |want|`` (both 0: equal) and note the result for the file ``name``."""
        got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
        assert got.shape == want.shape, f"{name}: shape {got.shape}, expected {want.shape}"
        limit = np.maximum(atol + rtol * np.abs(want), np.finfo(np.float64).tiny)
        share = float(np.max(np.abs(got - want) / limit, initial=0.0))
        self.compared[name].append(share)
        assert share <= 1, f"{name}: largest difference is {share:.3g} times its limit (atol {atol:g}, rtol {rtol:g})"


@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is remembered in the user's cache; a plugin library that is there is still found."""
    plugins = os.environ.get("EDGEPOSE_PLUGINS") or str(cache_folder() / "plugins")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEPOSE_PLUGINS", plugins)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def reference(shared: Path, request: pytest.FixtureRequest) -> Iterator[Reference]:
    """See :class:`Reference`; a test that takes it is marked ``goldens``."""
    reference = Reference(shared / "goldens")
    yield reference
    request.node.user_properties.append((_COMPARED, dict(reference.compared)))


#: Under this name a report of a test carries what :class:`Reference` compared, from another process too.
_COMPARED = "compared with reference files"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "reference" in getattr(item, "fixturenames", ()):
            item.add_marker("goldens")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """One line per reason of a skip; ``pytest -m goldens`` prints one line per reference file as well."""
    _list_skips(terminalreporter)
    if config.option.markexpr == "goldens":
        _list_references(terminalreporter)


def _list_skips(reporter: pytest.TerminalReporter) -> None:
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in reporter.stats.get("skipped", ()))
    if reasons:
        reporter.section("skipped")
    for reason, count in reasons.most_common():
        reporter.write_line(f"{count:4}  {reason}")


def _list_references(reporter: pytest.TerminalReporter) -> None:
    folder = _SHARED / "goldens"
    if not folder.is_dir():
        return
    compared: dict[str, list[float]] = defaultdict(list)
    for report in reporter.stats.get("", ()):  # of a test's end, when it passed
        for name, shares in dict(report.user_properties).get(_COMPARED, {}).items():
            compared[name] += shares
    reporter.section("reference files")
    for path in sorted(folder.glob("*.[njm][psa]*")):
        shares = compared[path.name]
        result = f"{len(shares):4} comparisons, at most {max(shares):.2g} of the limit" if shares else "not compared"
        reporter.write_line(f"{path.name:<36}{'' if not shares or max(shares) <= 1 else 'MISMATCH '}{result}")


@pytest.fixture(scope="session")
def liven() -> Callable[[nn.Module, np.ndarray], nn.Module]:
    """See :func:`tests.doubles.lively.liven`."""
    from tests.doubles.lively import liven

    return liven


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Path:
    """A small ``ditn_lite`` checkpoint with lively weights: skeleton lsp14, crops of 64x64. Read only."""
    pytest.importorskip("torch")
    pytest.importorskip("skimage")

    def make(folder: Path) -> None:
        from edgepose.export.from_checkpoint import golden_crops
        from edgepose.models.checkpoint import ModelSpec, save_checkpoint
        from tests.doubles.lively import liven

        spec = ModelSpec("ditn_lite", "lsp14", (64, 64))
        save_checkpoint(folder / "lively.safetensors", liven(spec.build(), golden_crops(spec.input_size)), spec)

    return made_once("checkpoint", make, tmp_path_factory, pytestconfig) / "lively.safetensors"


@pytest.fixture(scope="session")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Path:
    """The bundle of :func:`checkpoint`. Read only: copy it to change it."""
    for module in ("onnx", "onnxscript", "onnxsim"):
        pytest.importorskip(module)

    def make(folder: Path) -> None:
        from edgepose.export.from_checkpoint import export

        export(None, folder / "lively.edgepose", weights=checkpoint)

    return made_once("exported", make, tmp_path_factory, pytestconfig) / "lively.edgepose"


@pytest.fixture(scope="session")
def shipped_variants(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Path:
    """The shipped bundle with a graph of fp16, bf16, int8 and int8+fp16 each. Read only: copy it to change it."""
    for module in ("onnx", "ml_dtypes"):
        pytest.importorskip(module)

    def make(folder: Path) -> None:
        from edgepose.bundle.bundle import open_bundle
        from edgepose.demo import SHIPPED
        from tests.doubles.variants import with_variants

        with_variants(open_bundle(shutil.copytree(SHIPPED, folder / "shipped.edgepose")))

    return made_once("variants", make, tmp_path_factory, pytestconfig) / "shipped.edgepose"


@pytest.fixture
def refuse(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must end with exit code 2 (or another) and one line on stderr; returns the line.

    File descriptors are read, not ``sys.stderr``: the libraries below print there without asking.
    """

    def run(*arguments: object, code: int = 2) -> str:
        from edgepose.cli import main

        capfd.readouterr()
        got: str | int | None
        try:
            got = main([str(argument) for argument in arguments])
        except SystemExit as error:  # argparse
            got = error.code
        said = capfd.readouterr().err
        assert got == code, said
        assert re.fullmatch(r"edgepose: [^\n]+\n", said), said
        return said

    return run


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    """A bundle of one's own."""
    return Path(shutil.copytree(exported, tmp_path / "copy.edgepose"))
