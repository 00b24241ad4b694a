"""A file that grows while a run goes on, on this machine or in a bucket."""

from __future__ import annotations

import errno
import logging
import math
import os
import pathlib
import threading
import time
from collections.abc import Callable

from t5x_mini import storage_errors
from t5x_mini.errors import UserError
from t5x_mini.storage import is_remote
from t5x_mini.whole_file import write_whole

# Seconds between two copies in a bucket, and how many times as long as a copy takes there is none.
_PERIOD, _REST = 30.0, 20
# Seconds until what a disk refused is tried again.
_RETRY = 1.0
# Bytes that are held in memory until the disk has confirmed them.
_MOST_UNCONFIRMED = 1 << 20
_GOES_ON = "It is tried again; the run goes on."


class GrowingFile:
    """Takes bytes, one after another.

    On this machine they are with the operating system when `write` returns, which a kill of the process does not
    undo, and on the disk after `sync`. A bucket can't append: all is written again, at most twice a minute and in a
    thread of its own, and at each `sync`; a process that is killed loses what came after that.

    Where the disk is full, say, or the bucket out of reach, `write` warns, keeps what it was given, and tries again.

    Args:
        path: of the file; its folder is made.
        start: what it holds to begin with, instead of what is there; None: it goes on behind that.
        now: seconds, from any start.

    Raises:
        UserError: the bucket can't be reached.
        OSError: of the disk.
    """

    def __init__(self, path: pathlib.Path, start: bytes | None, *, now: Callable[[], float] = time.monotonic):
        if start is not None:
            write_whole(path, start)
        self._file = (_InBucket if is_remote(path) else _OnDisk)(path, start, now)

    def write(self, data: bytes) -> None:
        self._file.write(data)

    def sync(self) -> None:
        """Returns once all is where it belongs. Raises UserError where that can't be done; then all is kept."""
        self._file.sync()

    def close(self) -> None:
        """As `sync`, and the last that is done with it."""
        try:
            self._file.sync()
        finally:
            self._file.close()


class _OnDisk:
    """Holds what the disk has not confirmed: an error, of `fsync` too, leaves open which of it is there."""

    def __init__(self, path: pathlib.Path, start: bytes | None, now: Callable[[], float]):
        self._path, self._now = path, now
        self._held, self._written = bytearray(), 0
        self._try_at = -math.inf
        self._file: int | None = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._confirmed = os.fstat(self._file).st_size

    def write(self, data: bytes) -> None:
        self._held += data
        if self._now() < self._try_at:
            return
        try:
            self._push()
            if len(self._held) >= _MOST_UNCONFIRMED:
                self._confirm()
        except OSError as error:
            self._give_up(error)

    def sync(self) -> None:
        try:
            self._push()
            self._confirm()
        except OSError as error:
            self._give_up(error, warn=False)
            raise UserError(f"{self._path} can't be written: {storage_errors.in_words(error)}.") from error

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _push(self) -> None:
        if self._file is None:
            self._open_again()
        while self._written < len(self._held):
            self._written += os.write(self._file, memoryview(self._held)[self._written :])
        self._try_at = -math.inf

    def _confirm(self) -> None:
        os.fsync(self._file)
        # Bytes for a file that was removed, or whose file system is not mounted there any more, go nowhere.
        length = self._confirmed + len(self._held)
        if os.stat(self._path).st_size < length:
            raise FileNotFoundError(errno.ENOENT, "another file is in its place")
        self._confirmed = length
        self._held, self._written = bytearray(), 0

    def _give_up(self, error: OSError, *, warn: bool = True) -> None:
        """For now."""
        if warn and self._try_at == -math.inf:
            _warn(f"{self._path} can't be written: {storage_errors.in_words(error)}. {_GOES_ON}")
        self._try_at = self._now() + _RETRY
        self._written = 0
        try:
            self.close()
        except OSError:
            self._file = None

    def _open_again(self) -> None:
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        length = os.fstat(file).st_size
        if self._confirmed <= length <= self._confirmed + len(self._held):
            os.ftruncate(file, self._confirmed)
        else:  # its folder was made again by hand
            _warn(f"{self._path} had {self._confirmed:,} bytes and has {length:,}: it goes on behind those.")
            self._confirmed = length
        self._file = file


class _InBucket:
    def __init__(self, path: pathlib.Path, start: bytes | None, now: Callable[[], float]):
        self._path, self._now = path, now
        if start is None:
            start = path.read_bytes() if path.exists() else b""
        self._parts, self._copied = [start], 1
        self._next, self._copying = now() + _PERIOD, None

    def write(self, data: bytes) -> None:
        self._parts.append(data)
        if self._now() >= self._next and not (self._copying and self._copying.is_alive()):
            self._copying = threading.Thread(target=self._copy_or_warn, daemon=True)
            self._copying.start()

    def sync(self) -> None:
        if self._copying:
            self._copying.join()
        if self._copied < len(self._parts):
            self._copy()

    def close(self) -> None:
        pass

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
            _warn(f"{error} {_GOES_ON}")


def _warn(what: str) -> None:
    logging.getLogger(__name__).warning("%s", what)
