"""Going back to a checkpoint when a step has diverged, and leaving out the batches that led there.

A run that is rolled back at step 130 to the checkpoint of step 100 goes on there with the 31st batch behind it: PaLM's
authors skipped 200 to 500 batches that way, and found that neither these batches nor the state alone brought the spike
back (arxiv.org/abs/2204.02311, section 5.1).

What was decided is a line of `rollbacks.jsonl` in the run's folder before anything else happens, so that a run that is
killed right behind it leaves out the same batches.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from t5x_mini.errors import UserError
from t5x_mini.parallel.hosts import on_first, say
from t5x_mini.train.divergence import Diverged
from t5x_mini.whole_file import write_whole

FILE = "rollbacks.jsonl"
_TRIES = 2  # of one checkpoint


@dataclasses.dataclass(frozen=True)
class RollBack:
    """One line of the file.

    Attributes:
        to: step of the checkpoint that the run went back to; its first step where there was none.
        step: that diverged.
        batches: that are left out behind the checkpoint.
        why: in words.
    """

    to: int
    step: int
    batches: int
    why: str

    def __str__(self) -> str:
        return f"{self.why}: back to step {self.to:,}, and on without the {self.batches:,} batches behind it"


def decide(folder: Path, diverged: Diverged, steps: Sequence[int], most: int) -> RollBack:
    """What to do about a step that diverged, the same on all hosts, and written down.

    Args:
        folder: of the run.
        diverged: the step.
        steps: where the run can go on: those of its checkpoints, ascending, or the one it began at.
        most: roll-backs that get the run no further, after which it stops.

    Raises:
        UserError: there were as many.
    """

    def write() -> dict[str, Any]:
        records = read(folder)
        record = next_one(records, diverged, steps, most)
        lines = (json.dumps(dataclasses.asdict(one)) + "\n" for one in (*records, record))
        write_whole(folder / FILE, "".join(lines))
        return dataclasses.asdict(record)

    return RollBack(**on_first(write))


def leave_out(feed: Iterator, folder: Path, step: int) -> None:
    """Reads on to the batch that the run goes on with at this step; does nothing where it was not rolled back there."""
    batches = on_first(lambda: left_out(read(folder)).get(step, 0))
    if batches:
        say(f"leaving out {batches:,} batches behind step {step:,}, as {FILE} says")
    for _ in range(batches):
        next(feed)


def read(folder: Path) -> list[RollBack]:
    """A run's roll-backs, oldest first.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return []
    try:
        return [_record(json.loads(line)) for line in path.read_text().splitlines()]
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{path} is damaged ({error}). It says which batches the run left out when it was rolled back: restore it, "
            "or choose a new folder: --gin.MODEL_DIR=runs/another_name"
        ) from None


def left_out(records: Sequence[RollBack]) -> dict[int, int]:
    """How many batches a run leaves out behind which steps.

    What was decided on a way that was itself given up, by a later roll-back to before it, doesn't count.
    """
    found: dict[int, int] = {}
    for record in records:
        found = {step: batches for step, batches in found.items() if step < record.to} | {record.to: record.batches}
    return found


def batches_before(folder: Path, step: int, since: int = 0) -> int:
    """How many batches the run left out between two of its steps, those behind `since` included."""
    return sum(batches for behind, batches in left_out(read(folder)).items() if since <= behind < step)


def next_one(records: Sequence[RollBack], diverged: Diverged, steps: Sequence[int], most: int) -> RollBack:
    """`decide`, of what the file holds. A checkpoint that has led to the same end twice is passed over."""
    tried = []
    for record in reversed(records):
        if record.step <= steps[-1]:  # there is a checkpoint behind it
            break
        tried.append(record.to)
    if len(tried) >= most:
        raise UserError(
            f"{diverged.why}, after {len(tried)} roll-backs (MAX_SKIPS) that got the run no further; it stops. A lower "
            "learning rate, a longer warm-up or --gin.CLIP_GLOBAL_NORM=1.0 usually helps."
        )
    to = max((step for step in steps if tried.count(step) < _TRIES), default=steps[0])
    return RollBack(to, diverged.step, left_out(records).get(to, 0) + diverged.step - to, diverged.why)


def _record(line: Any) -> RollBack:
    record = RollBack(**line)
    if not all(type(value) is int and value >= 0 for value in (record.to, record.step, record.batches)):
        raise ValueError(f"no numbers of steps: {line}")
    return record
