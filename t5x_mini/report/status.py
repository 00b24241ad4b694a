"""`t5x-mini status`: whether a run is alive, how far it is, and where its time went.

It is asked often, by scripts too: neither JAX nor Orbax is imported for it.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from t5x_mini.checkpoint.steps import FOLDER, steps_of
from t5x_mini.report.goodput import Goodput, goodput, number
from t5x_mini.storage import is_remote, to_path
from t5x_mini.train import completion, run_lock, run_log
from t5x_mini.train.run_lock import Holder

State = Literal["starting", "running", "complete", "stopped", "failed", "died", "not running"]
_LABEL = 14
_LONGEST = 200  # characters of an error


@dataclasses.dataclass(frozen=True)
class Status:
    """What can be said of a run from its folder.

    Attributes:
        folder: of the run.
        state: `died` is one that was killed, or whose machine is gone: its lock is still there, and doesn't beat.
        run: its id; None of an earlier version's.
        restarts: how often it was started again.
        host: where it is or was, with
        pid: the process's number there; None where nobody holds the folder.
        heartbeat_age_s: since it was last heard of, by this machine's clock.
        step: the newest one that is known of.
        total_steps: where it is to stop.
        seconds_per_step: of the process that is running or was killed, waiting for data included.
        eta_s: seconds left, with evaluations and saves at the rate that they had so far; None unless it is running.
        checkpoint: step of the newest complete checkpoint, and
        checkpoint_age_s: since it was saved, where that is known.
        last_error: the last one of the log: `time`, `step` and `text`.
        goodput: None where nothing was timed.
    """

    folder: str
    state: State
    run: str | None = None
    restarts: int | None = None
    host: str | None = None
    pid: int | None = None
    heartbeat_age_s: float | None = None
    step: int | None = None
    total_steps: int | None = None
    seconds_per_step: float | None = None
    eta_s: float | None = None
    checkpoint: int | None = None
    checkpoint_age_s: float | None = None
    last_error: Mapping[str, Any] | None = None
    goodput: Goodput | None = None

    def to_json(self) -> dict[str, Any]:
        found = dataclasses.asdict(self)
        if self.goodput:
            found["goodput"]["fraction"] = self.goodput.fraction
        return found


def status(path: str, as_json: bool = False) -> None:
    """Prints it, for people, or as one JSON object.

    Raises:
        UserError: there is no run.
    """
    found = read_status(path)
    print(json.dumps(found.to_json()) if as_json else "\n".join(lines(found)))


def read_status(path: str) -> Status:
    """How a run stands.

    Args:
        path: its MODEL_DIR, here or in a bucket.

    Raises:
        UserError: there is no run.
    """
    folder = to_path(path)
    holder = run_lock.holder(folder)
    events = run_log.read_log(folder)
    if not events and holder is None:
        from t5x_mini.report import run_data  # what draws curves takes a second to import

        run_data.check_folder(folder)
    note = holder.note if holder else {}
    starts = [event for event in events if event.get("event") == "start"]
    state = _state(folder, holder, events)
    said = [*events, {"step": note.get("step"), "time": holder.time if holder else None}]
    steps = [(run_log.from_time(one.get("time")), one["step"]) for one in said if _whole(one.get("step")) is not None]
    step = max((at or 0.0, step) for at, step in steps)[1] if steps else None  # the latest word: a run may go back
    total = _whole(note.get("total_steps"), *(event.get("total_steps") for event in reversed(starts)))
    newest = max(steps_of(folder), default=None)
    per_step, between = number(note.get("seconds_per_step")), number(note.get("seconds_between_steps"))
    until = None if holder is None else time.time() if holder.alive else run_log.from_time(holder.time)
    last = starts[-1] if starts else {}
    return Status(
        folder=str(folder),
        state=state,
        run=note.get("run", last.get("run")),
        restarts=_whole(note.get("restart"), last.get("restart")),
        host=holder.host if holder else None,
        pid=holder.pid if holder else None,
        heartbeat_age_s=number(holder.age_s) if holder else None,
        step=step,
        total_steps=total,
        seconds_per_step=per_step,
        eta_s=(total - step) * between if state == "running" and None not in (total, step, between) else None,
        checkpoint=newest,
        checkpoint_age_s=None if newest is None else _age_s(folder, newest, events),
        last_error=_last_error(events),
        goodput=goodput(events, note or None, until),
    )


def lines(found: Status) -> list[str]:
    """What `status` prints."""
    rows = {"state": _state_in_words(found)}
    if found.run is not None:
        again = f", started again {found.restarts} time{'s' * (found.restarts != 1)}" if found.restarts else ""
        rows["run"] = f"{found.run}{again}"
    if found.step is not None:
        of = f" of {found.total_steps:,} ({found.step / found.total_steps:.1%})" if found.total_steps else ""
        rows["step"] = f"{found.step:,}{of}"
    if found.seconds_per_step is not None:
        left = "" if found.eta_s is None else f"; {duration(found.eta_s)} left"
        rows["speed"] = f"{found.seconds_per_step:.3g} s a step{left}"
    rows["checkpoint"] = _checkpoint_in_words(found)
    if found.last_error:
        rows["last error"] = _error_in_words(found.last_error)
    result = [found.folder, *(f"  {name:<{_LABEL}}{text}" for name, text in rows.items())]
    return result + (_goodput_lines(found.goodput) if found.goodput and found.goodput.wall_s else [])


def duration(seconds: float) -> str:
    """`1.2 s`, `45 s`, `2 min 5 s`, `12 min`, `3 h 20 min`, `2 d 4 h`."""
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 9.95 else f"{seconds:.1f} s"
    if seconds < 599.5:
        return f"{round(seconds) // 60} min {round(seconds) % 60} s"
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def _state(folder: Path, holder: Holder | None, events: Sequence[Mapping[str, Any]]) -> State:
    if holder:
        steps = holder.note.get("seconds_per_step")
        return "died" if not holder.alive else "starting" if steps is None else "running"
    if (folder / completion.NAME).is_file():
        return "complete"
    last = next((event.get("event") for event in reversed(events) if event.get("event") != "warning"), None)
    return {"error": "failed", "stopped": "stopped"}.get(last, "not running")


def _state_in_words(found: Status) -> str:
    where = f"process {found.pid} on {found.host}, last heard of {_ago(found.heartbeat_age_s)}"
    again = "the same command goes on from its newest checkpoint"
    return {
        "starting": f"starting: {where}",
        "running": f"running: {where}",
        "complete": "complete",
        "stopped": f"stopped by a signal; {again}",
        "failed": f"stopped by an error, below; {again}",
        "died": f"dead: {where}; {again}",
        "not running": "not running",
    }[found.state]


def _checkpoint_in_words(found: Status) -> str:
    if found.checkpoint is None:
        return "none yet"
    age = "" if found.checkpoint_age_s is None else f", saved {_ago(found.checkpoint_age_s)}"
    return f"step {found.checkpoint:,}{age}"


def _error_in_words(error: Mapping[str, Any]) -> str:
    said = [line.strip() for line in str(error.get("text", "")).splitlines() if line.strip()] or [""]
    line = said[-1] if said[0].startswith("Traceback") else said[0]
    step = error.get("step")
    at = f", step {step:,}" if isinstance(step, int) else ""
    return f"{error.get('time')}{at}: {line[:_LONGEST]}{' ...' * (len(line) > _LONGEST)}"


def _goodput_lines(found: Goodput) -> list[str]:
    shares = sorted(found.spent.items(), key=lambda item: -item[1])
    return [
        f"  {'goodput':<{_LABEL}}{found.fraction:.1%} of {duration(found.wall_s)} went into steps that count",
        *(
            f"    {name.replace('_', '-'):<{_LABEL - 2}}{seconds / found.wall_s:6.1%}  {duration(seconds)}"
            for name, seconds in shares
            if seconds >= 0.0005 * found.wall_s
        ),
    ]


def _age_s(folder: Path, step: int, events: Sequence[Mapping[str, Any]]) -> float | None:
    """The log knows; of an earlier version's, the disk."""
    saved = [event for event in events if event.get("event") == "checkpoint" and event.get("step") == step]
    at = run_log.from_time(saved[-1].get("time")) if saved else None
    if at is None and not is_remote(folder):
        at = (folder / FOLDER / str(step)).stat().st_mtime
    return None if at is None else max(time.time() - at, 0.0)


def _last_error(events: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    error = next((event for event in reversed(events) if event.get("level") == "error"), None)
    return error and {name: error.get(name) for name in ("time", "step", "text")}


def _ago(seconds: float | None) -> str:
    return "at a time that isn't known" if seconds is None else f"{duration(seconds)} ago"


def _whole(*values: object) -> int | None:
    return next((value for value in values if isinstance(value, int) and not isinstance(value, bool)), None)
