"""Which devices there are for runs side by side, and a process on some of them."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_ASK = "import jax, json; found = jax.local_devices(); print(json.dumps([found[0].platform, len(found)]))"
_LAST_LINES = 15


@dataclasses.dataclass(frozen=True)
class Place:
    """Devices for one run at a time.

    Attributes:
        cores: that its process may use; None: all.
        environment: by which it sees its devices alone.
    """

    cores: frozenset[int] | None
    environment: dict[str, str]


def places(jobs: int | None = None) -> list[Place]:
    """As many as runs can go on side by side: one a GPU, or one a CPU core; one on TPUs, which a run takes whole.

    Args:
        jobs: at most so many; cores are then shared out among them.
    """
    platform, count = _devices()
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    if platform == "cpu":
        jobs = min(jobs or len(cores), len(cores))
        return [Place(frozenset(cores[start::jobs]), {}) for start in range(jobs)]
    if platform in ("gpu", "cuda", "rocm"):
        seen = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        names = seen or [str(number) for number in range(count)]
        return [Place(None, {"CUDA_VISIBLE_DEVICES": name}) for name in names[: jobs or len(names)]]
    return [Place(None, {})]


def _devices() -> tuple[str, int]:
    """Asked in a process of its own: who asks a GPU takes its memory."""
    asked = subprocess.run([sys.executable, "-c", _ASK], capture_output=True, text=True)
    if asked.returncode:
        return "cpu", 1
    platform, count = json.loads(asked.stdout.splitlines()[-1])
    return platform, count


class Process:
    """`t5x-mini <arguments>` on a place, which writes what it says to a file."""

    def __init__(self, arguments: Sequence[str], place: Place, log: Path):
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log = log
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "t5x_mini.study.settled", _list(place.cores), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **place.environment},
                start_new_session=True,  # Ctrl-C is told to it once, by `stop`
            )

    @property
    def status(self) -> int | None:
        """The exit status; None while it goes on."""
        return self._process.poll()

    def stop(self) -> None:
        """Asks it to save and stop."""
        if self.status is None:
            self._process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        return self._process.wait()

    def last_words(self) -> str:
        """The last lines that it wrote."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return "\n".join(lines[-_LAST_LINES:])


def _list(cores: frozenset[int] | None) -> str:
    return ",".join(map(str, sorted(cores or ())))
