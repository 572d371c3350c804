"""The two ways in which edgepose says no. The command line turns each into its exit code."""

#: No extra can install TensorRT for every machine.
JETPACK_OR_PIP = (
    "pip install tensorrt; on Jetson it is part of JetPack (sudo apt-get install tensorrt python3-libnvinfer), for "
    "venvs made with --system-site-packages"
)


class UsageError(Exception):
    """Wrong usage or input (exit code 2), in one sentence: what was got, what was expected, how to fix it."""


class CheckError(Exception):
    """A check that ran to its end and failed (exit code 1), such as ``verify`` above its limits."""


def missing_extra(module: str, extra: str = "") -> UsageError:
    """The error for an optional dependency that is not installed, with the line that installs it."""
    install = JETPACK_OR_PIP if module == "tensorrt" else f"pip install 'edgepose[{extra}]'"
    return UsageError(f"the Python module {module!r} is needed here and not installed: {install}")


def first_line(error: Exception) -> str:
    """Return the first line of an engine's error that says something, or the kind of the error if none does."""
    lines = (line.strip() for line in str(error).splitlines())
    return next(filter(None, lines), type(error).__name__)


def last_line(error: Exception) -> str:
    """Return the last line of an engine's error that says something: the cause, where messages are like stacks."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
