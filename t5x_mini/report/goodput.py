"""What share of a run's time went into steps that count, over all the processes that it had, and where the rest went.

steps         updates that are in the newest state; nothing else is good
data          waiting for batches
checkpoints   what a save costs the loop; most of it goes on behind the steps
evaluation    held-out losses and answers
compilation   of the step, with reading held-out text
start_up      from the command to the first step, without compilation: imports, restoring, opening the data
again         steps that were lost when a process was killed or a run rolled back, and that another one made again
down          nobody was training: from a process's last sign of life to the start of the next one
other         the closing report, and what is none of these
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from t5x_mini.train.run_log import from_time

CAUSES = ("steps", "data", "checkpoints", "evaluation", "compilation", "start_up", "again", "down", "other")


@dataclasses.dataclass(frozen=True)
class Goodput:
    """Where a run's time went.

    Attributes:
        wall_s: seconds from the start of its first process to the last sign of life.
        spent: seconds by cause, all of `CAUSES`, which make up `wall_s`.
    """

    wall_s: float
    spent: Mapping[str, float]

    @property
    def fraction(self) -> float | None:
        """The share of `steps`; None before any time has passed."""
        return self.spent["steps"] / self.wall_s if self.wall_s > 0 else None


@dataclasses.dataclass
class _Stretch:
    """Updates `first` + 1 to `last`, and the seconds that they took."""

    first: float
    last: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class _Point:
    """Where a process was: the step, seconds in steps so far, whether it has just gone back there."""

    step: int
    seconds: float
    went_back: bool


@dataclasses.dataclass
class _Process:
    began: float
    ended: float
    first_step: int
    points: list[_Point] = dataclasses.field(default_factory=list)
    spent: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def add(self, step: object, spent: object, time: float | None, went_back: bool = False) -> None:
        """What the process said of itself; what it can't have said is left out."""
        self.ended = max(self.ended, time or 0.0)
        if isinstance(spent, Mapping) and isinstance(step, int):
            known = {name: max(number(value) or 0.0, 0.0) for name, value in spent.items() if name in CAUSES}
            if known.get("steps", 0.0) >= self.spent.get("steps", 0.0):
                self.spent = known
                self.points.append(_Point(step, known.get("steps", 0.0), went_back))


def goodput(
    events: Sequence[Mapping[str, Any]], note: Mapping[str, Any] | None = None, until: float | None = None
) -> Goodput | None:
    """Of a run's log (`run_log.read_log`); None where nobody has trained yet.

    Args:
        events: the lines of the log.
        note: what the last heartbeat of the process that holds the folder said; None: nobody does.
        until: when that was, or now if it is alive, in seconds since 1970.
    """
    processes = _processes(events)
    if not processes:
        return None
    if note is not None and note.get("restart") == max(processes):
        processes[max(processes)].add(note.get("step"), note.get("spent"), until)
    ordered = [processes[restart] for restart in sorted(processes)]
    spent = dict.fromkeys(CAUSES, 0.0)
    for process in ordered:
        for name, seconds in process.spent.items():
            spent[name] += 0.0 if name == "steps" else seconds
        unaccounted = (process.ended - process.began) - math.fsum(process.spent.values())
        spent["other" if process.spent.get("steps") else "start_up"] += max(unaccounted, 0.0)
    spent["down"] = math.fsum(
        max(after.began - before.ended, 0.0) for before, after in zip(ordered, ordered[1:], strict=False)
    )
    spent["steps"], spent["again"] = _steps(ordered)
    return Goodput(math.fsum(spent.values()), spent)


def _processes(events: Sequence[Mapping[str, Any]]) -> dict[int, _Process]:
    found: dict[int, _Process] = {}
    for event in events:
        restart, time = event.get("restart"), from_time(event.get("time"))
        if not isinstance(restart, int) or time is None:
            continue
        step = event.get("step")
        if event.get("event") == "start" and isinstance(step, int):
            previous = event.get("previous")
            earlier = previous.get("restart") if isinstance(previous, Mapping) else None
            if isinstance(earlier, int) and earlier in found:  # it was killed, and said nothing
                dead = found[earlier]
                dead.add(previous.get("step"), previous.get("spent"), from_time(previous.get("time")))
            found[restart] = _Process(from_time(event.get("began")) or time, time, step)
        elif restart in found:
            found[restart].add(step, event.get("spent"), time, event.get("event") == "rollback")
    return found


def _steps(processes: Sequence[_Process]) -> tuple[float, float]:
    """Seconds of the updates that are in the newest state, and of those that had to be made again."""
    kept: list[_Stretch] = []
    again = 0.0
    for process in processes:
        step, seconds = process.first_step, 0.0
        again += _cut(kept, step)
        for point in process.points:
            if point.went_back:  # from steps that nobody has counted
                again += point.seconds - seconds + _cut(kept, point.step)
            elif point.step >= step:
                kept.append(_Stretch(step, point.step, point.seconds - seconds))
            step, seconds = point.step, point.seconds
    return math.fsum(stretch.seconds for stretch in kept), again


def _cut(kept: list[_Stretch], step: int) -> float:
    """Drops what was done beyond a step; the seconds that it took."""
    lost = 0.0
    while kept and kept[-1].last > step:
        stretch = kept.pop()
        span = stretch.last - stretch.first  # 0 where only time passed, after a save, say
        share = max(step - stretch.first, 0.0) / span if span else 0.0
        if share:
            kept.append(_Stretch(stretch.first, step, stretch.seconds * share))
        lost += stretch.seconds * (1.0 - share)
    return lost


def number(value: object) -> float | None:
    """The value, if it is a finite number: a log may hold anything."""
    fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if fits else None
