"""Which checkpoints a run's folder holds, found without Orbax, which takes a second to import."""

from __future__ import annotations

import os
import pathlib

from t5x_mini.storage import is_remote, to_path

FOLDER = "checkpoints"


def steps_of(run_dir: str | os.PathLike[str]) -> list[int]:
    """The steps of a run's complete checkpoints, ascending."""
    folder = to_path(run_dir) / FOLDER
    numbered = [child for child in folder.iterdir() if child.name.isdigit()] if folder.exists() else []
    return sorted(int(child.name) for child in numbered if _is_complete(child))


def best_step(folder: str | os.PathLike[str]) -> int | None:
    """The step of the best checkpoint in a run's folder of checkpoints; None where none was chosen."""
    folder = to_path(folder)
    marked = [step for step in steps_of(folder.parent) if (folder / str(step) / "metrics").exists()]
    return max(marked, default=None)  # a run marks those alone that were better than all before


def _is_complete(checkpoint: pathlib.Path) -> bool:
    # Here it gets its name when it is complete. In a bucket nothing is renamed, and Orbax writes this file last.
    return not is_remote(checkpoint) or (checkpoint / "commit_success.txt").exists()
