"""`log.jsonl`: what happened to a run, over all the processes that it had; for people, `status` and scripts.

A line is a JSON object:

    time      of the day, UTC: "2026-01-31T12:00:00.000Z"
    run       id of the run, the same after every restart
    restart   0 in its first process, 1 in the second, and so on
    step      updates done; null before the first is known
    level     "info", "warning" or "error"
    event     "start", "checkpoint", "evaluation", "warning", "stopped" (by a signal), "error", "complete", ...
    text      for people
    spent     seconds of this process so far, by what they went into (`report/goodput.py`); not on every line
    host, pid, began, previous   of a start: where and since when, and the last heartbeat of a process that was killed

Lines are never dropped, as rows of `metrics.jsonl` are on a resume. Secrets don't get here (`redaction.py`).
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import secrets
import threading
import time
from pathlib import Path
from typing import Any

from t5x_mini.growing_file import GrowingFile
from t5x_mini.redaction import redact

NAME = "log.jsonl"
_LONGEST = 20_000  # characters of a text: a traceback has about 5,000


@dataclasses.dataclass(frozen=True)
class RunId:
    """A run, and how often it was started again."""

    run: str
    restart: int


class RunLog:
    """Appends lines to `log.jsonl`. They are kept in memory until `open`, so that a run that is refused leaves none."""

    def __init__(self, folder: Path):
        self._path = folder / NAME
        before = [event for event in read_log(folder) if isinstance(event.get("restart"), int) and event.get("run")]
        self.id = RunId(str(before[-1]["run"]), before[-1]["restart"] + 1) if before else RunId(secrets.token_hex(4), 0)
        self._held: list[bytes] | None = []
        self._file: GrowingFile | None = None
        self._lock, self._writing = threading.RLock(), False  # warnings may come from other threads

    def write(self, event: str, text: str, step: int | None = None, level: str = "info", **more: Any) -> None:
        """One line. `more` are further entries of it: numbers, strings, or dicts of such."""
        line = {
            "time": to_time(time.time()),
            **dataclasses.asdict(self.id),
            "step": step,
            "level": level,
            "event": event,
            "text": redact(text)[:_LONGEST],
            **more,
        }
        data = f"{json.dumps(line)}\n".encode()
        with self._lock:
            if self._writing:  # a warning that this very line can't be written
                return
            self._writing = True
            try:
                if self._file:
                    self._file.write(data)
                elif self._held is not None:
                    self._held.append(data)
            finally:
                self._writing = False

    def open(self) -> None:
        """From now on lines are written, first those that were held back."""
        with self._lock:
            if self._file:
                return
            # The process before may have been killed in the middle of a line.
            cut_short = self._path.is_file() and self._path.read_bytes()[-1:] not in (b"", b"\n")
            self._file = GrowingFile(self._path, None)
            self._file.write(b"\n" * cut_short + b"".join(self._held or ()))
            self._held = None

    def sync(self) -> None:
        """Returns once all lines are where they belong: a bucket, where each costs a copy, gets them late by itself.

        Raises:
            UserError: that can't be done now; they are kept.
        """
        with self._lock:
            if self._file:
                self._file.sync()

    def close(self) -> None:
        """Raises UserError where the last lines can't be written."""
        with self._lock:
            file, self._file, self._held = self._file, None, None
            if file:
                file.close()

    def abandon(self) -> None:
        """Writes nothing more: the file is another's."""
        with self._lock:
            self._file, self._held = None, None


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log, oldest first; one that a kill cut short, or that is no JSON object, is left out."""
    path = folder / NAME
    if not path.is_file():
        return []
    events = []
    for line in path.read_bytes().splitlines():
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict):
            events.append(event)
    return events


def to_time(seconds: float) -> str:
    """Seconds since 1970 as `2026-01-31T12:00:00.000Z`."""
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def from_time(text: object) -> float | None:
    """The inverse of `to_time`; None for what is no time."""
    try:
        return datetime.datetime.fromisoformat(str(text)).timestamp()
    except (ValueError, OverflowError, OSError):
        return None
