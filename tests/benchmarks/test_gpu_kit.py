"""The kit for a GPU's day, without a GPU: what it plans, and what becomes of parts that hang, fail or are cut."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
KIT = ROOT / "benchmarks" / "gpu"


@pytest.fixture
def kit(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(KIT))
    return importlib.import_module("kit")


@pytest.fixture
def machine(kit: ModuleType) -> ModuleType:
    assert kit
    return importlib.import_module("machine")


@pytest.fixture
def engines(kit: ModuleType) -> ModuleType:
    assert kit
    return importlib.import_module("engines")


@pytest.fixture
def parts(kit: ModuleType) -> ModuleType:
    assert kit
    return importlib.import_module("parts")


@pytest.fixture
def places(kit: ModuleType, tmp_path: Path) -> Any:
    return kit.Places(tmp_path / "out", tmp_path / "work", tmp_path / "wheels")


def python(code: str) -> tuple[str, ...]:
    """A part's command that runs a line of Python; braces would be placeholders."""
    assert "{" not in code
    return ("{python}", "-c", code)


def summary(places: Any) -> dict[str, Any]:
    return json.loads((places.out / "summary.json").read_text())


def all_sh(*options: str, out: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHON": sys.executable, "OUT": str(out)}
    environment.pop("PYTHONPATH", None)
    command = [str(KIT / "all.sh"), *options]
    return subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=False)


# --- the plan --------------------------------------------------------------------------------------------------------


def test_all_parts_at_their_limits_take_nine_minutes_at_most(parts: ModuleType) -> None:
    assert sum(part.limit + parts.GRACE for part in parts.PARTS) <= 9 * 60 == parts.LONGEST
    assert min(part.limit for part in parts.PARTS) >= 20


def test_names_are_of_parts_that_come_before_and_files_are_there(parts: ModuleType) -> None:
    names = [part.name for part in parts.PARTS]
    assert len(set(names)) == len(names)
    assert names[0] == "environment"
    assert not parts.PARTS[0].needs
    for i, part in enumerate(parts.PARTS):
        for need in part.needs:
            kind, _, name = need.partition(" ")
            assert kind in ("gpu", "module", "tool", "part"), need
            assert kind != "part" or name in names[:i], need
        for argument in part.command:
            assert not argument.startswith(("benchmarks/", "tests/")) or (ROOT / argument).exists(), argument


def test_the_readme_shows_the_parts(parts: ModuleType) -> None:
    rows = [f"| `{part.name}` | {part.limit} | {part.proves} |" for part in parts.PARTS]
    assert "\n".join(rows) in (KIT / "README.md").read_text()


def test_a_dry_run_prints_every_part_and_runs_none(tmp_path: Path, parts: ModuleType) -> None:
    done = all_sh("--dry-run", out=tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "out").exists()
    for part in parts.PARTS:
        assert f"\n{part.name}: at most {part.limit} s, needs " in f"\n{done.stdout}"
        assert part.proves in done.stdout
    assert f"{sys.executable} benchmarks/ditn_gpu.py --json {tmp_path}/out/ditn.json\n" in done.stdout
    assert done.stdout.splitlines()[-1] == "11 parts, at most 538 s of 540 s"


def test_only_brings_what_it_needs(kit: ModuleType) -> None:
    assert [part.name for part in kit.select(["engines"])] == ["environment", "wheels", "engines"]
    assert [part.name for part in kit.select(["ditn", "kernel"])] == ["environment", "kernel", "ditn"]
    assert kit.select(None) == list(kit.PARTS)


def test_a_part_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    done = all_sh("--only", "kernels", out=tmp_path)
    assert done.returncode == 2
    assert "invalid choice: 'kernels'" in done.stderr


# --- running ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_without_a_gpu_every_part_says_so(tmp_path: Path, parts: ModuleType) -> None:
    done = all_sh(out=tmp_path)
    assert done.returncode == 2, done.stderr
    rows = {row["part"]: row for row in json.loads((tmp_path / "summary.json").read_text())["parts"]}
    assert list(rows) == [part.name for part in parts.PARTS]
    assert rows.pop("environment")["state"] == "passed"
    assert {row["state"] for row in rows.values()} == {"skipped"}
    assert all(row["reason"].startswith("no GPU: ") for row in rows.values())
    printed = done.stdout.splitlines()
    assert printed[-len(rows) :] == printed[3 : 3 + len(rows)]  # a line when each ended, and the table at the end
    assert printed[-1].startswith("racecheck    skipped      0.0  no GPU: ")
    for name in rows:
        assert json.loads((tmp_path / f"{name}.json").read_text())["part"]["state"] == "skipped"
    assert json.loads((tmp_path / "environment.json").read_text())["no_gpu"]


@pytest.mark.slow
def test_a_part_that_hangs_is_cut_and_one_that_fails_is_shown(
    kit: ModuleType, parts: ModuleType, places: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    sleep = "print('begun', flush=True); import time; time.sleep(60)"
    # Cut by SIGTERM, it would go on.
    deaf = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {sleep}"
    planned = [
        parts.Part("hangs", 1, python(sleep), ""),
        parts.Part("fails", 9, python("print('it is broken'); raise SystemExit(3)"), ""),
        parts.Part("skips", 9, python("print('nothing to do'); raise SystemExit(77)"), ""),
        parts.Part(
            "works", 9, (*python("import sys; open(sys.argv[1], 'w').write('[[1, 2]]')"), "{out}/works.json"), ""
        ),
        parts.Part("needs", 9, python("print('never')"), "", ("part fails",)),
        parts.Part("deaf", 1, python(deaf), ""),
    ]
    begun = time.monotonic()
    assert kit.run_all([planned[0]], places) == 1
    assert kit.run_all(planned[1:-1], places) == 1
    assert kit.run_all([planned[-1]], places) == 1
    assert time.monotonic() - begun < 30  # and not the minutes that the parts would sleep
    printed = capsys.readouterr().out
    assert "--- the end of hangs.log:\nbegun\n---" in printed
    assert "hangs        timed out" in printed
    assert "deaf         timed out" in printed
    assert "fails        failed" in printed
    assert {path.stem for path in places.out.glob("*.log")} == {"hangs", "fails", "skips", "works", "deaf"}

    def result(name: str) -> Any:
        return json.loads((places.out / f"{name}.json").read_text())["part"]

    assert (result("hangs")["state"], result("hangs")["reason"]) == ("timed out", "cut after 1 s: begun")
    assert (result("fails")["state"], result("fails")["reason"]) == ("failed", "exit code 3: it is broken")
    assert (result("skips")["state"], result("skips")["reason"]) == ("skipped", "nothing to do")
    assert (result("needs")["state"], result("needs")["reason"]) == ("skipped", "the part fails failed")
    assert result("deaf")["exit_code"] == -signal.SIGKILL


def test_figures_and_the_state_are_in_one_file(kit: ModuleType, parts: ModuleType, places: Any) -> None:
    write = "import sys, json; open(sys.argv[1], 'w').write(json.dumps(dict(rows=[1, 2]))); print('done')"
    part = parts.Part("works", 9, (*python(write), "{out}/works.json"), "that it works")
    assert kit.run_all([part], places) == 0
    written = json.loads((places.out / "works.json").read_text())
    assert written["rows"] == [1, 2]
    assert written["part"]["state"] == "passed"
    assert written["part"]["output"] == ["done"]
    assert written["part"]["proves"] == "that it works"
    assert written["part"]["command"].startswith("python -c ")
    assert written["part"]["command"].endswith(" OUT/works.json")
    assert summary(places)["exit_code"] == 0

    kit.run_all([parts.Part("works", 9, python("print('wrote nothing')"), "")], places)
    assert "rows" not in json.loads((places.out / "works.json").read_text())  # figures of an earlier run are not kept


def test_results_do_not_tell_the_folders_of_the_machine(kit: ModuleType, parts: ModuleType, places: Any) -> None:
    write = "import os, sys; print(os.getcwd(), sys.argv[1:]); sys.exit(3)"
    kit.run_all([parts.Part("fails", 9, (*python(write), "{out}", "{work}/a", "{wheels}"), "")], places)
    said = "exit code 3: . ['OUT', 'WORK/a', 'WHEELS']"
    assert summary(places)["parts"][0]["reason"] == said
    text = (places.out / "fails.json").read_text()
    assert json.loads(text)["part"]["reason"] == said
    assert str(places.out.parent) not in text
    assert sys.executable not in text


def test_what_is_missing_is_named(kit: ModuleType, parts: ModuleType) -> None:
    def reason(*needs: str, no_gpu: str | None = None, **states: str) -> str | None:
        return kit.missing(parts.Part("x", 9, (), "", needs), no_gpu, states)

    assert reason() is None
    assert reason("gpu") is None
    assert reason("gpu", no_gpu="the driver is missing") == "no GPU: the driver is missing"
    assert (
        reason("module json", "module nowhere_to_be_found") == "the Python module nowhere_to_be_found is not installed"
    )
    assert (
        reason("module nowhere_to_be_found.inside") == "the Python module nowhere_to_be_found.inside is not installed"
    )
    assert reason("tool timeout", "tool nowhere-to-be-found") == "the program nowhere-to-be-found is not on the PATH"
    assert reason("part a", a="passed") is None
    assert reason("part a", a="timed out") == "the part a timed out"
    assert reason("part a") == "the part a did not run"


def test_time_that_is_left_goes_to_later_parts(
    kit: ModuleType, parts: ModuleType, places: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(kit.time, "monotonic", lambda: clock.now)
    allowed, taken = {}, {"a": 4.0, "b": 30.0, "c": 33.0, "d": 1.0}

    def run(part: Any, _: Any, seconds: int) -> Any:
        allowed[part.name] = seconds
        clock.now += taken[part.name]
        return kit.Result(part.name, "passed", exit_code=0)

    monkeypatch.setattr(kit, "run_process", run)
    limits = {"a": 20, "b": 12, "c": 20, "d": 10}
    kit.run_all([parts.Part(name, limit, (), "") for name, limit in limits.items()], places)
    # a leaves 19 s; b takes 12 of them at most; 23 + 15 - 34 are left, then 23 + 15 + 23 - 67 is less than nothing.
    assert allowed == {"a": 20, "b": 24, "c": 24, "d": 10}


SCRIPT = """
import signal, sys
from pathlib import Path
import kit
from parts import Part
wait = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
parts = [Part("first", 9, ("{python}", "-c", "print('quick')"), ""), Part("second", 20, ("{python}", "-c", wait), "")]
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
kit.run_all(parts, kit.Places(*(Path(sys.argv[1], name) for name in ("out", "work", "wheels"))))
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_is_killed_leaves_its_summary(how: signal.Signals, places: Any) -> None:
    command = [sys.executable, "-c", SCRIPT, str(places.out.parent)]
    run = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(KIT)}, stdout=subprocess.DEVNULL)
    log = places.out / "second.log"
    wait_for(lambda: log.is_file() and log.read_text().endswith("\n"))
    child = int(log.read_text())
    run.send_signal(how)
    run.wait(timeout=10)
    rows = summary(places)["parts"]
    assert [(row["part"], row["state"]) for row in rows] == [("first", "passed"), ("second", "running")]
    assert summary(places)["exit_code"] is None
    assert json.loads((places.out / "first.json").read_text())["part"]["output"] == ["quick"]
    if how == signal.SIGTERM:
        assert run.returncode == 143
        wait_for(lambda: not Path(f"/proc/{child}").exists())
    else:
        os.kill(child, signal.SIGKILL)  # its own limit would have ended it


def wait_for(condition: Any, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


# --- the parts' own scripts ------------------------------------------------------------------------------------------


def test_a_gpu_that_one_of_two_sees_is_a_gpu(machine: ModuleType) -> None:
    assert machine.why_no_gpu({"name": "A"}, {"gpu": "no driver"}) is None
    assert machine.why_no_gpu("PyTorch is not installed", {"gpu": {"name": "A"}}) is None
    assert machine.why_no_gpu("no PyTorch", {"gpu": "no driver"}) == "no driver; no PyTorch"
    assert machine.why_no_gpu("no PyTorch", {"cannot_import": "No module named 'cv2'"}) == (
        "No module named 'cv2'; no PyTorch"
    )


def test_nvidia_smis_answer_is_taken_apart(
    machine: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho '{', '.join(str(i) for i in range(len(machine.FIELDS)))}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    answer = machine.ask_nvidia_smi()
    assert (answer["name"], answer["driver_version"], answer["clocks.max.sm"]) == ("0", "1", "9")
    program.write_text("#!/bin/sh\necho 'no devices\n were found'; exit 6\n")
    assert machine.ask_nvidia_smi() == "no devices were found"


@pytest.mark.parametrize(
    ("test", "code", "counts", "last"),
    [
        ("assert 1 + 1 == 2", 0, {"passed": 1}, "1 passed"),
        ("assert 1 + 1 == 3", 1, {"failed": 1}, "1 failed"),
        ("pytest.skip('it rains')", 77, {"skipped": 1}, "every test was skipped: Skipped: it rains"),
    ],
)
def test_outcomes_of_tests_are_kept(test: str, code: int, counts: dict[str, int], last: str, tmp_path: Path) -> None:
    (tmp_path / "test_a_on_gpu.py").write_text(
        f"import pytest\n@pytest.mark.gpu\ndef test_one(): {test}\ndef test_without_the_mark(): assert False\n"
    )
    (tmp_path / "test_b.py").write_text("import nowhere_to_be_found\n")  # not read
    done = subprocess.run(
        [sys.executable, str(KIT / "gpu_tests.py"), "result.json", "."],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == last
    written = json.loads((tmp_path / "result.json").read_text())
    assert written["counts"] == counts
    assert list(written["tests"]) == ["test_a_on_gpu.py::test_one"]


def test_tests_of_the_gpu_are_in_files_that_the_kit_reads(kit: ModuleType) -> None:
    pattern = importlib.import_module("gpu_tests").PATTERN
    marked = {path for path in (ROOT / "tests").rglob("test_*.py") if "mark.gpu" in path.read_text()} - {Path(__file__)}
    folders = [ROOT / argument for part in kit.PARTS for argument in part.command if argument.startswith("tests/")]
    read = {path for folder in folders for path in folder.rglob(pattern)}
    assert marked == read
    assert len(read) >= 3


def test_engines_are_not_tried_where_nothing_ran(engines: ModuleType, tmp_path: Path) -> None:
    rtx = tmp_path / "rtx.json"
    assert engines.why_nothing_runs(rtx) is None  # nobody asked
    rtx.write_text(json.dumps({"rows": [{"stopped": "no"}, {"stopped": "not supported"}]}))
    assert engines.why_nothing_runs(rtx) == "not supported"
    assert engines.main(tmp_path, tmp_path / "work") == 77
    rtx.write_text(json.dumps({"rows": [{"stopped": "no"}, {"stopped": None}]}))
    assert engines.why_nothing_runs(rtx) is None


@pytest.mark.slow
def test_the_engines_bundle_has_every_precision(engines: ModuleType, tmp_path: Path) -> None:
    for module in ("onnx", "ml_dtypes"):
        pytest.importorskip(module)
    from edgepose.bundle.bundle import open_bundle

    for _ in range(2):  # a bundle of an earlier run is replaced
        engines.copy_shipped(tmp_path / "a.edgepose")
    manifest = open_bundle(tmp_path / "a.edgepose").manifest
    graphs = {manifest.graph_name(precision) for precision in ("fp32", "fp16", "bf16", "int8", "int8+fp16")}
    assert len(graphs) == 5
    assert graphs <= set(manifest.files)
    assert len(list(engines.SHIPPED.glob("*.onnx"))) == 1  # the original is as it was


@pytest.mark.parametrize("index", range(3))
def test_the_commands_of_the_engines_are_edgeposes(
    index: int, engines: ModuleType, tmp_path: Path, refuse: Callable[..., str]
) -> None:
    command = engines.commands(tmp_path / "nowhere.edgepose", tmp_path)[index]
    assert "nowhere.edgepose" in refuse(*command)  # its options are understood, and the bundle is not there


# --- carrying wheels -------------------------------------------------------------------------------------------------


def wheels_sh(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable}
    command = ["bash", str(KIT / "wheels.sh"), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """Two files that end as wheels do, 2.5 MiB together."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    (folder / "a-1-py3-none-any.whl").write_bytes(os.urandom(5 << 19))
    (folder / "b-1-py3-none-any.whl").write_bytes(b"small")
    (folder / "notes.txt").write_text("stays")
    return folder


def test_wheels_come_together_again(wheels: Path, tmp_path: Path) -> None:
    done = wheels_sh("split", wheels, tmp_path / "parts", 1)
    assert done.returncode == 0, done.stderr
    folders = sorted((tmp_path / "parts").iterdir())
    assert [folder.name for folder in folders] == ["part-00", "part-01", "part-02"]
    assert all(sum(file.stat().st_size for file in folder.iterdir()) < (1 << 20) + 1000 for folder in folders)
    done = wheels_sh("join", tmp_path / "parts", tmp_path / "joined")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["a-1-py3-none-any.whl", "b-1-py3-none-any.whl"]
    for name in done.stdout.split():
        assert (tmp_path / "joined" / name).read_bytes() == (wheels / name).read_bytes()


@pytest.mark.parametrize("harm", ["changed", "missing"])
def test_parts_that_are_not_whole_are_refused(harm: str, wheels: Path, tmp_path: Path) -> None:
    wheels_sh("split", wheels, tmp_path / "parts", 1)
    part = tmp_path / "parts" / "part-01"
    if harm == "missing":
        shutil.rmtree(part)
    else:
        piece = part / "wheels.tar.01"
        first, *rest = piece.read_bytes()
        piece.write_bytes(bytes([first ^ 1, *rest]))
    done = wheels_sh("join", tmp_path / "parts", tmp_path / "joined")
    assert done.returncode == 1
    assert done.stderr.endswith("are not those that split made: carry every part again\n")
    assert not (tmp_path / "joined").exists()


@pytest.mark.usefixtures("wheels")
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("split", "{}", "{}/parts"), "holds no wheel: make some with 'pip wheel"),
        (("split", "{}/wheels", "{}/parts", "61"), "a part must be of 1 to 60 MiB, got 61"),
        (("split", "{}/wheels", "{}"), "exists: name a folder that does not"),
        (("join", "{}", "{}/joined"), "holds no part-NN with SHA256SUMS"),
        (("carry", "{}"), "expected split WHEELS PARTS [MIB]"),
    ],
)
def test_wrong_usage_of_wheels_is_a_sentence(arguments: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    done = wheels_sh(*(argument.format(tmp_path) for argument in arguments))
    assert done.returncode == 2
    assert done.stderr.startswith("wheels.sh: ")
    assert sentence in done.stderr


def test_a_wheel_is_installed_without_a_network(tmp_path: Path) -> None:
    wheel = tmp_path / "wheels" / "carried_module-1.5-py3-none-any.whl"
    wheel.parent.mkdir()
    info = "carried_module-1.5.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("carried_module.py", "__version__ = '1.5'\n")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: carried-module\nVersion: 1.5\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    done = wheels_sh("install", wheel.parent, tmp_path / "site", "carried_module")
    assert (done.returncode, done.stdout) == (0, "carried_module 1.5\n"), done.stderr
    assert (tmp_path / "site" / "carried_module.py").is_file()


def test_nothing_to_install_is_skipped_unless_it_is_there(tmp_path: Path) -> None:
    done = wheels_sh("install", tmp_path, tmp_path / "site", "nowhere_to_be_found")
    assert (done.returncode, done.stderr.count("\n")) == (77, 1)
    assert f"nowhere_to_be_found is not installed, and {tmp_path} holds no wheel" in done.stderr
    done = wheels_sh("install", tmp_path, tmp_path / "site", "pytest")
    assert (done.returncode, done.stdout) == (0, f"pytest {pytest.__version__}\n")
