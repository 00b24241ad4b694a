"""Large pages of memory, which make a training step on a CPU up to 1.5 times as fast (benchmarks/RESULTS.md).

XLA takes and gives back megabytes in every step. With Linux's pages of 4 KiB, much of the time goes into mapping and
clearing them; glibc asks for pages of 2 MiB if it is told to when a process starts, and at no later time.
"""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

_TUNABLES, _SETTING = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"
_KERNEL = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def restart_with_huge_pages() -> None:
    """Starts this process again with large pages, where Linux has them for those who ask; else does nothing.

    To be called first thing: what was done until then is done again. GLIBC_TUNABLES=glibc.malloc.hugetlb=0 in the
    environment declines.
    """
    tunables = os.environ.get(_TUNABLES, "")
    if _SETTING in tunables or not _are_for_those_who_ask():
        return
    os.environ[_TUNABLES] = ":".join(filter(None, (tunables, f"{_SETTING}=1")))
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _are_for_those_who_ask() -> bool:
    """Whether the kernel gives large pages to programs that say they want them, and glibc can say so."""
    libc, version = platform.libc_ver()
    if sys.platform != "linux" or libc != "glibc" or tuple(map(int, version.split(".")[:2])) < (2, 35):
        return False
    try:
        return "[madvise]" in _KERNEL.read_text()
    except OSError:
        return False
