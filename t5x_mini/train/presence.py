"""A training process as others see it: it holds its folder, beats, and keeps a log of what happens to the run."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import time
import traceback
from pathlib import Path
from typing import Any

from t5x_mini import __version__
from t5x_mini.errors import UserError
from t5x_mini.parallel import hosts
from t5x_mini.train.metrics import Clock
from t5x_mini.train.run_lock import Lock
from t5x_mini.train.run_log import RunLog, to_time


class Presence:
    """Holds a run's folder (`run_lock.Lock`), and writes its log (`run_log.RunLog`), within its context.

    The first process of a run does it; the methods do nothing in the others.
    """

    def __init__(self, folder: Path, total_steps: int, began: float | None = None):
        """
        Args:
            folder: of the run.
            total_steps: the step to stop at.
            began: when the command was started, as `time.time()` counts; None: now.
        """
        self._folder, self._total = folder, total_steps
        self._began = time.perf_counter() - (0.0 if began is None else time.time() - began)
        self._lock: Lock | None = None
        self._log: RunLog | None = None
        self._handler: _Warnings | None = None
        self._clock = Clock()
        self._step: int | None = None
        # When the first step began, and what was lost until then; None before that.
        self._first: tuple[float, float] | None = None
        # Updates that this process made, seconds that they took, and seconds since the first of them began.
        self._updates, self._in_steps, self._stepping = 0, 0.0, 0.0

    def __enter__(self) -> Presence:
        """Raises UserError where another run has the folder, on all hosts."""
        hosts.on_first(self._take)
        return self

    def _take(self) -> None:
        lock = Lock(self._folder, say=hosts.say)
        lock.acquire()
        try:
            self._log = RunLog(self._folder)
        except BaseException:
            lock.release()
            raise
        self._lock = lock
        lock.on_beat = self._log.sync
        self._handler = _Warnings(self)
        logging.getLogger("t5x_mini").addHandler(self._handler)

    def begin(self, step: int, clock: Clock) -> None:
        """The run is accepted, and goes on from `step`: from now on there is a log.

        Args:
            clock: of this process, which says what time is lost to.
        """
        self._clock, self._step = clock, step
        if not self._log:
            return
        previous = self._lock.previous
        killed = {} if previous is None else {"previous": {**previous.note, "time": previous.time}}
        self._log.write(
            "start",
            f"t5x_mini {__version__}, from step {step:,} of {self._total:,}",
            step,
            total_steps=self._total,
            host=socket.gethostname(),
            pid=os.getpid(),
            began=to_time(time.time() - (time.perf_counter() - self._began)),
            **killed,
        )
        self._log.open()
        self._log.sync()
        self._tell()

    def note(self, step: int) -> None:
        """So many updates are done; to be called before the first step and after each.

        Raises:
            FolderLostError: another run has taken the folder over.
        """
        if not self._log:
            return
        self._lock.check()
        now, lost = time.perf_counter(), math.fsum(self._clock.report().values())
        if self._first is None:
            self._first = now, lost
        self._stepping = now - self._first[0]
        self._in_steps = self._stepping - (lost - self._first[1])
        self._updates += max(step - self._step, 0)
        self._step = step
        self._tell()

    def event(self, event: str, step: int, text: str = "", level: str = "info") -> None:
        """A line in the log, with the time spent so far, at a moment when `step` updates are done."""
        self.note(step)
        self._write(event, text, level)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if not self._log:
            return
        logging.getLogger("t5x_mini").removeHandler(self._handler)
        try:
            if self._lock.is_stolen:
                self._log.abandon()
            self._write(*_ending(error))
            self._log.close()
        except (UserError, OSError) as trouble:  # whatever ends the run is more important
            logging.getLogger(__name__).warning("The last lines of %s/log.jsonl are lost: %s", self._folder, trouble)
        finally:
            self._lock.release()

    def _write(self, event: str, text: str, level: str) -> None:
        if self._log:
            self._log.write(event, text, self._step, level, spent=self._spent())

    def _spent(self) -> dict[str, float]:
        """Seconds of this process so far, by what they went into."""
        now, lost = time.perf_counter(), self._clock.report()
        causes = {name.removeprefix("time_lost/"): seconds for name, seconds in lost.items()}
        steps_began, lost_before = self._first or (now, math.fsum(causes.values()))
        start_up = steps_began - self._began - lost_before
        other = (now - self._began) - start_up - self._in_steps - math.fsum(causes.values())
        spent = {"steps": self._in_steps, **causes, "start_up": start_up, "other": other}
        return {name: round(max(seconds, 0.0), 3) for name, seconds in spent.items()}

    def _tell(self) -> None:
        """What the heartbeat says from now on."""
        note: dict[str, Any] = {"run": self._log.id.run, "restart": self._log.id.restart, "step": self._step}
        note |= {"total_steps": self._total, "spent": self._spent()}
        if self._updates:
            waited = self._clock.report().get("time_lost/data", 0.0)  # as in `timing/seconds`, it is part of a step
            note["seconds_per_step"] = round((self._in_steps + waited) / self._updates, 6)
            note["seconds_between_steps"] = round(self._stepping / self._updates, 6)
        self._lock.note(note)


class _Warnings(logging.Handler):
    """Puts this package's own warnings into the log too."""

    def __init__(self, presence: Presence):
        super().__init__(logging.WARNING)
        self._presence = presence

    def emit(self, record: logging.LogRecord) -> None:
        presence = self._presence
        with contextlib.suppress(Exception):  # a warning is no reason to stop
            level = "error" if record.levelno >= logging.ERROR else "warning"
            presence._log.write("warning", record.getMessage(), presence._step, level)


def _ending(error: BaseException | None) -> tuple[str, str, str]:
    """Event, text and level of a run's last line."""
    if error is None:
        return "complete", "", "info"
    if isinstance(error, UserError):
        return "error", str(error), "error"
    if isinstance(error, Exception):
        return "error", "".join(traceback.format_exception(error)), "error"
    return "stopped", str(error) or type(error).__name__, "warning"
