"""One run a folder: the file `run.lock`, which says who trains there, and that it is alive.

Whoever holds it writes it anew every ten seconds (the heartbeat), with what it is at. A second run is refused. What a
killed one left behind is taken over: at once where the process is seen to be gone, on the same machine; from anywhere
else when the heartbeat has stood still for a minute. Clocks of two machines are never compared to decide that one is
dead: the newcomer looks on for a while in any case.

The file changes by compare-and-swap alone: in a bucket by a write that is conditional on its generation, on a disk
under a lock of the folder. A holder that finds another one's word in it has lost it (it was suspended, or cut off from
the disk, for more than a minute), and has to stop.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from t5x_mini import storage_errors
from t5x_mini.errors import FolderLostError, UserError
from t5x_mini.storage import is_remote
from t5x_mini.train.run_log import from_time, read_log, to_time
from t5x_mini.whole_file import write_whole

NAME = "run.lock"
BEAT_S = 10.0
STALE_S = 60.0  # six beats: a machine that is moved, or a file system that hangs, may miss some
_WATCH_S = 1.5 * BEAT_S  # for so long a newcomer looks on even if the last heartbeat is old by its own clock
_POLL_S = 1.0

_LOGGER = logging.getLogger(__name__)
_held: set[str] = set()  # tokens of this process, which may train more than once


@dataclasses.dataclass(frozen=True)
class Holder:
    """Who holds a folder, as its lock says.

    Attributes:
        token: another one each time that a lock is taken.
        host: name of the machine.
        pid: of the process.
        machine: what tells its processes' numbers from those of other machines, boots and containers.
        process: when the process was started, as the system counts.
        time: of the last heartbeat, by the holder's clock: `2026-01-31T12:00:00.000Z`.
        note: what it is at (`Lock.note`).
    """

    token: str
    host: str
    pid: int
    machine: str
    process: str
    time: str
    note: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def to_bytes(self) -> bytes:
        return f"{json.dumps(dataclasses.asdict(self))}\n".encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Holder | None:
        """None for what is no lock's content."""
        try:
            found = json.loads(data)
            holder = cls(**{field.name: found[field.name] for field in dataclasses.fields(cls)})
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        kinds = {"pid": int, "note": dict}
        fits = all(type(value) is kinds.get(name, str) for name, value in vars(holder).items())
        return holder if fits else None

    @property
    def age_s(self) -> float:
        """Seconds since the last heartbeat, by this machine's clock; infinite where that isn't known."""
        at = from_time(self.time)
        return float("inf") if at is None else max(0.0, time.time() - at)

    @property
    def is_here(self) -> bool:
        """Whether this machine can see the process."""
        return self.machine == this_machine()

    @property
    def is_gone(self) -> bool:
        """Whether the process is known to have ended. False where it can't be seen from here."""
        if not self.is_here:
            return False
        return self.token not in _held if self.pid == os.getpid() else process_start(self.pid) != self.process

    @property
    def alive(self) -> bool:
        """Whether it seems alive, as far as can be told without waiting."""
        return not self.is_gone if self.is_here else self.age_s < STALE_S

    def describe(self) -> str:
        """`process 1234 on host-7, at step 1,200, last heard of 4 s ago`."""
        step = self.note.get("step")
        at = f", at step {step:,}" if isinstance(step, int) else ""
        return f"process {self.pid} on {self.host}{at}, last heard of {self.age_s:,.0f} s ago"


def holder(folder: Path) -> Holder | None:
    """Who holds the folder, dead or alive; None where nobody does."""
    content = _slot(folder / NAME).read()
    return None if content is None else Holder.from_bytes(content)


class Lock:
    """Holds a folder from `acquire` to `release`.

    Attributes:
        previous: who held it before and did not give it back: it was killed. None: there was nobody.
        on_beat: called with each heartbeat, in its thread.
    """

    def __init__(
        self,
        folder: Path,
        *,
        beat_s: float = BEAT_S,
        stale_s: float = STALE_S,
        watch_s: float = _WATCH_S,
        say: Callable[[str], None] = print,
    ):
        """
        Args:
            folder: to hold; it is made.
            beat_s: seconds between heartbeats.
            stale_s: how old a heartbeat has to be to be somebody's last.
            watch_s: for how long to look on before taking that for true.
            say: told that this waits, and why.
        """
        self._folder, self._slot = folder, _slot(folder / NAME)
        self._beat_s, self._stale_s, self._watch_s, self._say = beat_s, stale_s, watch_s, say
        self.previous: Holder | None = None
        self.on_beat: Callable[[], object] = lambda: None
        self._mine: Holder | None = None
        self._note: Mapping[str, Any] = {}
        self._written = b""
        self._thief: str | None = None
        self._failing = False
        self._made: Path | None = None
        self._ended = threading.Event()
        self._turn = threading.Lock()  # the thread and `check` may both write
        self._thread = threading.Thread(target=self._beat_on, name="heartbeat", daemon=True)

    def acquire(self) -> None:
        """Takes the folder. Waits, at most about a minute, while it isn't known whether who holds it is alive.

        Raises:
            UserError: it is alive; the folder can't be written to.
        """
        self._mine = Holder(
            token=secrets.token_hex(8),
            host=socket.gethostname(),
            pid=os.getpid(),
            machine=this_machine(),
            process=process_start(os.getpid()) or "",
            time=to_time(time.time()),
        )
        _held.add(self._mine.token)
        self._written = self._mine.to_bytes()
        try:
            self._made = None if self._folder.exists() else self._folder
            self._folder.mkdir(parents=True, exist_ok=True)
            self._take()
        except BaseException as error:
            _held.discard(self._mine.token)
            self._unmake()
            if isinstance(error, OSError):
                raise UserError(f"{self._folder} can't be written to: {storage_errors.of_a_command(error)}.") from error
            raise
        self._last_beat = time.monotonic()
        self._thread.start()

    def note(self, note: Mapping[str, Any]) -> None:
        """What the next heartbeats say: numbers and strings by name."""
        self._note = note

    def check(self) -> None:
        """Raises FolderLostError if another run has taken the folder. Costs nothing as long as the heart beats."""
        if time.monotonic() - self._last_beat > self._stale_s:  # the thread hasn't come to it: find out now
            self._beat()
        if self._thief:
            raise FolderLostError(
                f"{self._folder} was taken over by another run: {self._thief}. This one was not heard of for "
                f"{self._stale_s:.0f} s, so that it was taken for dead; it stops here, and writes nothing more."
            )

    @property
    def is_stolen(self) -> bool:
        """Whether another run has the folder, so that nothing may be written there any more."""
        return self._thief is not None

    def release(self) -> None:
        """Gives the folder back; one that `acquire` made and that is still empty is removed."""
        if self._mine is None:
            return
        self._ended.set()
        if self._thread.ident:
            self._thread.join()
        if not self._thief:
            with contextlib.suppress(OSError, UserError):  # then it is found to be stale
                self._slot.swap(self._written, None)
            self._unmake()
        _held.discard(self._mine.token)

    def _take(self) -> None:
        seen, until, told = None, 0.0, False
        while True:
            content = self._slot.read()
            other = None if content is None else Holder.from_bytes(content)
            if content != seen:
                if seen is not None and content is not None and other:
                    raise self._refusal(other)  # it beats
                seen, until = content, time.monotonic() + self._patience(other)
            if content is None or (other and other.is_gone) or time.monotonic() >= until:
                if self._slot.swap(content, self._written):
                    self.previous = other
                    return
                continue
            if other and other.is_here:
                raise self._refusal(other)
            if not told:
                who = other.describe() if other else "a file that can't be read"
                self._say(
                    f"{self._folder / NAME} is there: {who}. Waiting {until - time.monotonic():.0f} s for a sign of "
                    "life; without one this run takes over."
                )
                told = True
            time.sleep(min(_POLL_S, self._beat_s / 2))

    def _patience(self, other: Holder | None) -> float:
        age = other.age_s if other else 0.0
        return max(self._watch_s, self._stale_s - age)

    def _refusal(self, other: Holder) -> UserError:
        return UserError(
            f"{self._folder} is being trained in already: {other.describe()}. Two runs would overwrite each other's "
            f"checkpoints. Stop that one first (`t5x-mini status {self._folder}` shows it), or write another folder: "
            "--gin.MODEL_DIR=runs/another_name"
        )

    def _beat_on(self) -> None:
        while not self._ended.wait(self._beat_s) and not self._thief:
            try:
                self._beat()
                if not self._thief:
                    self.on_beat()
                self._failing = False
            except (OSError, UserError) as error:
                if not self._failing:
                    _LOGGER.warning("The heartbeat in %s failed, and is tried again: %s", self._folder / NAME, error)
                self._failing = True

    def _beat(self) -> None:
        with self._turn:
            mine = dataclasses.replace(self._mine, time=to_time(time.time()), note=self._note).to_bytes()
            if self._slot.swap(self._written, mine):
                self._written, self._last_beat = mine, time.monotonic()
                return
            # A write that was answered too late may have been done all the same.
            content = self._slot.read()
            other = None if content is None else Holder.from_bytes(content)
            if other and other.token == self._mine.token:
                self._written = content
            elif content is not None or self._was_followed():
                self._thief = other.describe() if other else "it has ended since"
            elif self._slot.swap(None, mine):  # a disk that was away, or somebody's rm
                _LOGGER.warning("%s was gone, and is written again.", self._folder / NAME)
                self._written, self._last_beat = mine, time.monotonic()

    def _was_followed(self) -> bool:
        """Whether another process has trained here since."""
        restart = self._note.get("restart")
        started = (event.get("restart") for event in read_log(self._folder) if event.get("event") == "start")
        return restart is not None and any(isinstance(other, int) and other > restart for other in started)

    def _unmake(self) -> None:
        if self._made and not is_remote(self._made):
            with contextlib.suppress(OSError):  # something is in it
                self._made.rmdir()


class _File:
    """A file on a disk that is changed by one at a time."""

    def __init__(self, path: Path):
        self._path = path

    def read(self) -> bytes | None:
        try:
            return self._path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def swap(self, expected: bytes | None, content: bytes | None) -> bool:
        """Writes (None: removes) the file if it holds what is expected (None: isn't there), and says whether it did."""
        with _alone(self._path.parent):
            if self.read() != expected:
                return False
            if content is None:
                self._path.unlink(missing_ok=True)
            else:
                write_whole(self._path, content)
            return True


class _Object(_File):
    """An object in a bucket, whose writes can be conditional."""

    def swap(self, expected: bytes | None, content: bytes | None) -> bool:
        from t5x_mini import remote

        return remote.swap(str(self._path), expected, content)


def _slot(path: Path) -> _File:
    return _Object(path) if is_remote(path) else _File(path)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Between two processes of machines that share a disk, as far as its file system knows such locks."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@functools.cache
def this_machine() -> str:
    """The boot, and the container's own numbering of processes: numbers mean the same where both are the same."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return socket.gethostname()


def process_start(pid: int) -> str | None:
    """When a process was started, in the system's own count; None where there is no such process."""
    try:
        status = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None if Path("/proc/self/stat").exists() else _lives(pid)
    state, *fields = status.rpartition(b")")[2].split()
    return None if state in (b"Z", b"X") else fields[18].decode()


def _lives(pid: int) -> str | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return ""
