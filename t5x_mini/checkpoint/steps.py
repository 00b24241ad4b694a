"""Which checkpoints a run's folder holds, found without Orbax, which takes a second to import."""

from __future__ import annotations

import json
import os
import pathlib

from t5x_mini.storage import is_remote, to_path

FOLDER = "checkpoints"
_DECLARATION = "commit_success.txt"


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


def declare_complete(folder: pathlib.Path) -> None:
    """Gives complete checkpoints in a bucket the file by which Orbax knows them; it deletes those that lack it.

    They lack it where they were copied there from a disk, on which older versions of Orbax wrote none, and where a save
    was ended between its last two writes.
    """
    for child in folder.iterdir():
        if child.name.isdigit() and not (child / _DECLARATION).exists() and _is_complete(child):
            (child / _DECLARATION).write_text("complete, as _CHECKPOINT_METADATA says\n")


def _is_complete(checkpoint: pathlib.Path) -> bool:
    # Here it gets its name when it is complete. In a bucket nothing is renamed: Orbax writes the time when all else was
    # written, and then a file.
    if not is_remote(checkpoint) or (checkpoint / _DECLARATION).exists():
        return True
    metadata = checkpoint / "_CHECKPOINT_METADATA"
    return metadata.exists() and json.loads(metadata.read_text()).get("commit_timestamp_nsecs") is not None
