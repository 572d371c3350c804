"""A progress bar on a terminal, where tqdm is installed; nothing otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: Called with the steps done, the steps in all, and, if there is something to say, a sentence.
Progress = Callable[..., None]


@contextmanager
def bar(title: str) -> Iterator[Progress]:
    """A bar that the yielded function moves."""
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
