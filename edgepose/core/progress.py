"""Show a progress bar on a terminal if tqdm is installed, else nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: Called with the number of steps done, the number of all steps, and optionally a text to show.
Progress = Callable[..., None]


@contextmanager
def bar(title: str) -> Iterator[Progress]:
    """Show a progress bar while the context is open; yield the function that updates it."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield lambda *_: None
        return
    with tqdm(desc=title, leave=False, disable=None) as shown:  # None: only on a terminal

        def show(done: int, total: int, sentence: str = "") -> None:
            shown.total, shown.n = total, done
            shown.set_postfix_str(sentence, refresh=False)
            shown.refresh()

        yield show
