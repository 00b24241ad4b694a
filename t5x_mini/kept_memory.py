"""Memory that a process keeps, which makes a training step on a CPU up to 1.7 times as fast (benchmarks/RESULTS.md).

XLA takes and gives back hundreds of megabytes in every step. glibc asks Linux for so large blocks one by one and gives
each back at once, and Linux clears every page again that it hands out. Told to when a process starts, and at no later
time, glibc takes them from a heap that it keeps. (Pages of 2 MiB help too, and less; clearing the first ones takes
seconds.)
"""

from __future__ import annotations

import os
import platform
import sys

_TUNABLES = "GLIBC_TUNABLES"
SETTINGS = {
    "glibc.malloc.mmap_max": 0,  # no block gets a mapping of its own
    "glibc.malloc.arena_max": 1,  # the other arenas can't hold large blocks, and would ask for mappings
    "glibc.malloc.trim_threshold": 2**40,  # bytes free at the heap's end before any are given back
}


def restart_keeping_memory() -> None:
    """Starts this process again with a heap that is kept, where glibc is the C library; else does nothing.

    To be called first thing: what was done until then is done again. Who has one of `SETTINGS` in the environment's
    GLIBC_TUNABLES is left alone.
    """
    tunables = os.environ.get(_TUNABLES, "")
    if any(name in tunables for name in SETTINGS) or not _has_tunables():
        return
    own = [f"{name}={value}" for name, value in SETTINGS.items()]
    os.environ[_TUNABLES] = ":".join(filter(None, (tunables, *own)))
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _has_tunables() -> bool:
    libc, version = platform.libc_ver()
    return sys.platform == "linux" and libc == "glibc" and tuple(map(int, version.split(".")[:2])) >= (2, 26)
