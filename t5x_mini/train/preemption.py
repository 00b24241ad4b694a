"""SIGTERM and SIGINT: what clouds and schedulers send before they take a machine away, and Ctrl-C.

The first one asks the run to stop where nothing is lost; the second one ends the process at once. A thread of its own
takes note of both, because Python's main thread may be inside XLA's compiler or a write that hangs.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator

import jax
from jax._src import distributed  # JAX's own services have no public key-value store

from t5x_mini.errors import Terminated
from t5x_mini.parallel import start_up

SIGNALS = (signal.SIGTERM, signal.SIGINT)
_POLL_S = 0.5
# For the main thread to leave by itself where there is nothing to save: a cloud waits for half a minute.
_GRACE_S = 5.0
_AGREE_S = 60
_AT_ONCE = "at once"
_uses = itertools.count()  # keys are written once in a process's life


class Preemption:
    """Says when a run has to save and stop, the same on all of its hosts, whichever got the signal.

    Where there is nothing to save, the first signal raises Terminated in the main thread. Within `as_request` it is a
    request, of which `reached` tells. Python has signals in its main thread alone; a run in another one is somebody's
    program, which has its own.

    Attributes:
        signal: the first signal that a host of the run got; None: there was none.
        stage: where the run is, for the message of a signal that finds nothing to save.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.stage = "before it made a step"
        self._alone = jax.process_count() == 1
        self._client = None if self._alone else distributed.global_state.client
        self._prefix = f"preemption {next(_uses)}"
        self._asks, self._stop_at = 0, None
        self._asking = threading.Lock()  # held while the hosts agree, so that none of them asks meanwhile
        self._as_request = False
        self._got = 0
        self._leave_by = float("inf")
        self._closed = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> Preemption:
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        if threading.current_thread() is threading.main_thread():
            # What a shell has a process ignore (SIGINT behind `&`, say) stays ignored, as Python does it too.
            taken = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._handle) for number in taken}
            self._wakeup_before = signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        self._watcher = threading.Thread(target=self._watch, name="signals", daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if threading.current_thread() is threading.main_thread():
            signal.set_wakeup_fd(self._wakeup_before)
        self._closed = True
        os.write(self._wake, b"\0")
        self._watcher.join(timeout=1)  # it may be waiting for a host that is gone
        if not self._watcher.is_alive():
            os.close(self._woken)
            os.close(self._wake)

    @contextlib.contextmanager
    def as_request(self, afterwards: str) -> Iterator[None]:
        """Within it there is something to save. On several hosts: enter it before a barrier, leave it behind one.

        Args:
            afterwards: the `stage` from its end on.
        """
        self._as_request = True
        try:
            yield
        finally:
            self.stage = afterwards
            self._as_request = False

    def reached(self) -> bool:
        """Whether it is time to save and stop. All hosts have to ask equally often, at the same places."""
        with self._asking:
            self._asks += 1
            if self._alone:
                return self.signal is not None
            return self._stop_at is not None and self._asks >= self._stop_at

    def _handle(self, number: int, _) -> None:
        """In the main thread, as soon as it runs Python."""
        self.signal = self.signal or signal.Signals(number)
        if not self._as_request and self._alone:
            raise Terminated(self._nothing_to_save(), self.signal)

    def _watch(self) -> None:
        while not self._closed:
            if select.select([self._woken], [], [], _POLL_S)[0]:
                for number in os.read(self._woken, 64):
                    self._note(number)
            if self._client and self._stop_at is None and (self.signal or self._asked_elsewhere()):
                self._agree()
            if time.monotonic() > self._leave_by:
                self._leave(self._nothing_to_save())

    def _note(self, number: int) -> None:
        if number not in SIGNALS:
            return
        self._got += 1
        self.signal = self.signal or signal.Signals(number)
        name = signal.Signals(number).name
        if self._got > 1:
            self._leave(f"{name}, the second signal: left at once. What is saved stays; the rest is lost.")
        elif self._as_request:
            _say(f"{name}: stops when this step is done and saved; a second signal ends this process at once.")
        elif self._alone:
            self._leave_by = time.monotonic() + _GRACE_S

    def _asked_elsewhere(self) -> bool:
        try:
            number = self._client.key_value_try_get(f"{self._prefix}/signal")
        except jax.errors.JaxRuntimeError:  # there is none, or the first host is gone, which JAX takes care of
            return False
        self.signal = signal.Signals(int(number))
        return True

    def _agree(self) -> None:
        """Settles on the next time that no host has asked yet."""
        own, count = jax.process_index(), jax.process_count()
        with self._asking:
            self._client.key_value_set(f"{self._prefix}/signal", str(int(self.signal)), allow_overwrite=True)
            stage = str(self._asks) if self._as_request else _AT_ONCE
            self._client.key_value_set(f"{self._prefix}/asks/{own}", stage)
            try:
                stages = [
                    self._client.blocking_key_value_get(f"{self._prefix}/asks/{host}", _AGREE_S * 1000)
                    for host in range(count)
                ]
            except jax.errors.JaxRuntimeError:  # a host is gone, or has nothing left to do
                self._stop_at = sys.maxsize
                return
            if _AT_ONCE not in stages:
                self._stop_at = max(map(int, stages)) + 1
                return
        # A host that has not come to the first step's barrier lets no other one through it: nobody has done a step.
        time.sleep(_POLL_S * (own == 0))  # its end would end the others, without a word
        self._leave(self._nothing_to_save())

    def _nothing_to_save(self) -> str:
        return f"{self.signal.name}: stopped {self.stage}. Nothing is lost."

    def _leave(self, text: str) -> None:
        _say(text)
        status = 128 + self.signal
        start_up.leave(status)  # returns if this process is alone
        sys.stdout.flush()
        os._exit(status)


def _say(text: str) -> None:
    print(f"t5x-mini: {text}", file=sys.stderr, flush=True)
