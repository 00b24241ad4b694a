"""What is said about a process that could not say it itself.

JAX ends a process as soon as it knows that another one is gone: from a thread of its own, in the middle of whatever
Python does, with a text for JAX's own developers.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable

# A shell that waits for a line. Where none comes before this process has closed its end, which the system does for the
# dead, it prints the text.
_WATCH = 'read -r line || printf "%s\\n" "$0" >&2'


def leave_behind(text: str) -> Callable[[], None]:
    """Prints `text` on stderr when this process ends, however it does, unless what is returned was called before."""
    watcher = subprocess.Popen(
        ["/bin/sh", "-c", _WATCH, text],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C and a scheduler's signals go to all of a group
    )

    def take_back() -> None:
        with contextlib.suppress(BrokenPipeError):  # it was killed
            watcher.communicate(b"\n")

    return take_back
