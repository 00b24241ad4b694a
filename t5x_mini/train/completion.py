"""The file by which a script knows that a run has nothing left to do.

An exit status does not say it: a preempted process can end with 0, and the last words of a finished one can fail.
"""

from __future__ import annotations

import json
from pathlib import Path

from t5x_mini.whole_file import write_whole

NAME = "complete.json"


def mark(folder: Path, step: int, total_steps: int) -> None:
    """Says in the run's folder that it ended at `step`, early if that is not the last of `total_steps`."""
    write_whole(folder / NAME, json.dumps({"step": step, "total_steps": total_steps}) + "\n")


def is_marked(folder: Path) -> bool:
    """Whether the run has nothing left to do."""
    return (folder / NAME).exists()


def unmark(folder: Path) -> None:
    """Takes the word back: the run goes on, with more steps than it had."""
    (folder / NAME).unlink(missing_ok=True)
