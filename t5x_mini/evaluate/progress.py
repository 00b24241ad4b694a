"""How far a long command has come."""

from __future__ import annotations

import sys

import jax
import tqdm


def progress_bar(name: str, rows: int, *, done: int = 0, after_s: float = 0.0, shown: bool = True) -> tqdm.tqdm:
    """A bar on stderr with the time that is left; in a log file a line every 10 seconds. On the first host alone.

    Args:
        name: of what is done.
        rows: to do in all.
        done: of them before.
        after_s: seconds before anything is shown, so that what is over by then shows nothing.
        shown: whether there is a bar at all.
    """
    return tqdm.tqdm(
        desc=name,
        total=rows,
        initial=done,
        unit=" rows",
        dynamic_ncols=True,
        mininterval=0.1 if sys.stderr.isatty() else 10,
        delay=after_s,
        leave=not after_s,
        disable=not shown or jax.process_index() > 0,
    )
