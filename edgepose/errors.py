"""The two ways in which edgepose says no. The command line turns each into its exit code."""


class UsageError(Exception):
    """Wrong usage or input (exit code 2), in one sentence: what was got, what was expected, how to fix it."""


class CheckError(Exception):
    """A check that ran to its end and failed (exit code 1), such as ``verify`` above its limits."""


def missing_extra(module: str, extra: str) -> UsageError:
    """The error for an optional dependency that is not installed, with the line that installs it."""
    return UsageError(f"the Python module {module!r} is needed here and not installed: pip install 'edgepose[{extra}]'")
