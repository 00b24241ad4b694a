"""SIGTERM: clouds and schedulers send it before they take a machine away, half a minute before or so."""

from __future__ import annotations

import signal
import threading

import jax
from jax.experimental import multihost_utils


class Preemption:
    """Says after which step a run has to save and stop, the same on all of its hosts, whichever got the signal.

    Within its context a single process takes the first SIGTERM as a request; the second one ends it, as it always
    does. Several processes agree through JAX, which takes the signal from the moment they have joined.
    """

    def __init__(self) -> None:
        self._asked = False
        self._before = None

    def __enter__(self) -> Preemption:
        # Python has signals in its main thread alone; a run in another one is somebody's program, which has its own.
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, *_) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def reached(self, step: int) -> bool:
        """Whether `step` is the one to save and stop at; to be asked after every step, on all hosts."""
        if jax.process_count() == 1:
            return self._asked
        return multihost_utils.reached_preemption_sync_point(step)

    def _ask(self, *_) -> None:
        self._asked = True
        signal.signal(signal.SIGTERM, self._before)
