"""A file that grows while a run goes on, on this machine or in a bucket."""

from __future__ import annotations

import logging
import os
import pathlib
import threading
import time
from collections.abc import Callable

from t5x_mini.errors import UserError
from t5x_mini.storage import is_remote
from t5x_mini.whole_file import write_whole

# Seconds between two copies in a bucket, and how many times as long as a copy takes there is none.
_PERIOD, _REST = 30.0, 20


class GrowingFile:
    """Takes bytes, one after another.

    On this machine they are on the disk when `write` returns. A bucket can't append: all is written again, at most
    twice a minute and in a thread of its own, and at each `sync`; a process that is killed loses what came after that.
    A copy that fails while training goes on is only a warning, since the next one holds all that it did.

    Args:
        path: of the file; its folder is made.
        start: what it holds to begin with, instead of what is there; None: it goes on behind that.
        now: seconds, from any start.
    """

    def __init__(self, path: pathlib.Path, start: bytes | None, *, now: Callable[[], float] = time.monotonic):
        self._path, self._now = path, now
        if start is not None:
            write_whole(path, start)
        self._file = None if is_remote(path) else path.open("ab")
        if not self._file and start is None:
            start = path.read_bytes() if path.exists() else b""
        self._parts, self._copied = [start], 1
        self._next, self._copying = now() + _PERIOD, None

    def write(self, data: bytes) -> None:
        if self._file:
            self._file.write(data)
            self._file.flush()
            return
        self._parts.append(data)
        if self._now() >= self._next and not (self._copying and self._copying.is_alive()):
            self._copying = threading.Thread(target=self._copy_or_warn, daemon=True)
            self._copying.start()

    def sync(self) -> None:
        """Returns once all is where it belongs. Raises UserError where the bucket cannot be reached."""
        if self._file:
            os.fsync(self._file.fileno())
            return
        if self._copying:
            self._copying.join()
        if self._copied < len(self._parts):
            self._copy()

    def close(self) -> None:
        self.sync()
        if self._file:
            self._file.close()

    def _copy(self) -> None:
        start, count = self._now(), len(self._parts)
        self._path.write_bytes(b"".join(self._parts[:count]))
        self._copied = count
        self._next = self._now() + max(_PERIOD, _REST * (self._now() - start))

    def _copy_or_warn(self) -> None:
        try:
            self._copy()
        except UserError as error:
            self._next = self._now() + _PERIOD
            logging.getLogger(__name__).warning("%s It is tried again; the run goes on.", error)
