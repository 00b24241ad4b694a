"""`python -m t5x_mini.study.settled CORES ARGUMENTS`: `t5x-mini ARGUMENTS` on some cores, as long as its parent lives.

Done by the process itself: its parent holds JAX's threads, and may run nothing between fork and exec.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


def main() -> None:
    cores = sys.argv.pop(1)
    if cores and hasattr(os, "sched_setaffinity"):  # before JAX counts them
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    if sys.platform == "linux":  # a study that is killed leaves no run behind that would hold its folder
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGTERM)

    from t5x_mini.__main__ import run

    run()


if __name__ == "__main__":
    main()
