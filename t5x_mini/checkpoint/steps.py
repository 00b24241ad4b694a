"""Which checkpoints a run's folder holds, and what becomes of them; without Orbax, which takes a second to import.

A checkpoint is complete once it has its manifest (`manifest.py`), which is written last. Those of earlier versions have
none; they are complete where Orbax says so. All else is what an interrupted save or copy left: nobody reads it, and the
next process that trains in the folder removes it.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
from typing import Any

from t5x_mini.checkpoint import manifest, retention
from t5x_mini.checkpoint.manifest import Manifest, ManifestError
from t5x_mini.storage import is_remote, to_path

FOLDER = "checkpoints"
# Where checkpoints go that are in the way and not to be lost, beside those that count.
DAMAGED, ABANDONED = "damaged_checkpoints", "abandoned_checkpoints"
# In Orbax's metadata, of checkpoints that are to have a manifest.
MARK = {"has_manifest": True}
_DECLARATION, METADATA = "commit_success.txt", "_CHECKPOINT_METADATA"
_TEMPORARY = ".orbax-checkpoint-tmp"  # Orbax takes a folder with this in its name for an interrupted save


def numbered(run_dir: str | os.PathLike[str]) -> list[int]:
    """The steps of all that has a checkpoint's name in a run's folder, complete or not, ascending."""
    folder = to_path(run_dir) / FOLDER
    return sorted(int(child.name) for child in folder.iterdir() if _is_name(child.name)) if folder.exists() else []


def steps_of(run_dir: str | os.PathLike[str]) -> list[int]:
    """The steps of a run's complete checkpoints, ascending."""
    folder = to_path(run_dir) / FOLDER
    return [step for step in numbered(run_dir) if is_complete(folder / str(step))]


def is_complete(checkpoint: pathlib.Path) -> bool:
    """Whether all of the checkpoint was written, as far as its last file says; none of its bytes are compared."""
    if (checkpoint / manifest.NAME).exists():
        return True
    metadata = _metadata(checkpoint)
    # Orbax writes the time when all else was written.
    return metadata.get("commit_timestamp_nsecs") is not None and not is_marked(metadata)


def is_marked(metadata: dict[str, Any]) -> bool:
    """Whether Orbax's metadata are of a checkpoint that is to have a manifest."""
    custom = metadata.get("custom_metadata")
    return isinstance(custom, dict) and "has_manifest" in custom


def manifests(run_dir: str | os.PathLike[str]) -> dict[int, Manifest]:
    """What the complete checkpoints say of themselves, by step, ascending.

    Of those without a manifest that can be read, what an earlier version wrote of their metrics; no files are listed.
    """
    folder = to_path(run_dir) / FOLDER
    return {step: _manifest(folder / str(step)) for step in steps_of(run_dir)}


def best_step(folder: str | os.PathLike[str]) -> int | None:
    """The step of the best checkpoint in a run's folder of checkpoints, by what its newest one says that it chooses by;
    None where it chooses by nothing."""
    return retention.best(manifests(to_path(folder).parent))


def declare_complete(folder: pathlib.Path) -> None:
    """Gives complete checkpoints in a bucket the file by which Orbax knows them; it deletes those that lack it.

    They lack it where they were copied there from a disk, on which older versions of Orbax wrote none.
    """
    for step in steps_of(folder.parent):
        checkpoint = folder / str(step)
        if not (checkpoint / _DECLARATION).exists():
            (checkpoint / _DECLARATION).write_text("complete, as its manifest or _CHECKPOINT_METADATA says\n")


def remove_interrupted(run_dir: str | os.PathLike[str]) -> list[int]:
    """Deletes what interrupted saves left under the name of a checkpoint; gives their steps."""
    complete = steps_of(run_dir)
    left = [step for step in numbered(run_dir) if step not in complete]
    for step in left:
        remove(to_path(run_dir), step)
    return left


def remove(run_dir: pathlib.Path, step: int) -> None:
    """Deletes a checkpoint so that, however far it comes, what is left doesn't count as one."""
    checkpoint = run_dir / FOLDER / str(step)
    if is_remote(checkpoint):
        for name in (manifest.NAME, _DECLARATION, METADATA):
            (checkpoint / name).unlink(missing_ok=True)
        checkpoint.rmtree(missing_ok=True)
        return
    doomed = _free_name(checkpoint.with_name(f"{step}{_TEMPORARY}-deleted"))
    checkpoint.replace(doomed)
    shutil.rmtree(doomed)


def set_aside(run_dir: pathlib.Path, step: int, where: str) -> pathlib.Path:
    """Moves a checkpoint to the run's folder `where` (`DAMAGED`, `ABANDONED`), and gives its new path.

    In a bucket, which renames nothing, its files are copied one after another.
    """
    checkpoint = run_dir / FOLDER / str(step)
    target = _free_name(run_dir / where / str(step))
    if not is_remote(checkpoint):
        target.parent.mkdir(parents=True, exist_ok=True)
        return checkpoint.replace(target)
    names = manifest.paths(checkpoint)
    for name in names:
        (target / name).write_bytes((checkpoint / name).read_bytes())
    if (checkpoint / manifest.NAME).exists():
        (target / manifest.NAME).write_bytes((checkpoint / manifest.NAME).read_bytes())
    remove(run_dir, step)
    return target


def _is_name(name: str) -> bool:
    return name.isascii() and name.isdigit()


def _metadata(checkpoint: pathlib.Path) -> dict[str, Any]:
    try:
        metadata = json.loads((checkpoint / METADATA).read_bytes())
    except (OSError, ValueError):
        return {}
    return metadata if isinstance(metadata, dict) else {}


def _manifest(checkpoint: pathlib.Path) -> Manifest:
    try:
        return manifest.read(checkpoint) or of_earlier_version(checkpoint)
    except ManifestError:
        return Manifest({})  # who reads the checkpoint is told


def of_earlier_version(checkpoint: pathlib.Path) -> Manifest:
    """What a checkpoint without a manifest says: when it was saved, and why it was the best then, if it was."""
    finished = _metadata(checkpoint).get("commit_timestamp_nsecs")
    saved_at = finished / 1e9 if isinstance(finished, int) else 0.0
    try:
        item = json.loads((checkpoint / "metrics" / "metrics").read_bytes())
        return Manifest({}, {item["metric"]: float(item["value"])}, item["metric"], saved_at)
    except (OSError, ValueError, KeyError, TypeError):
        return Manifest({}, saved_at=saved_at)


def _free_name(path: pathlib.Path) -> pathlib.Path:
    """The path, or with the first number behind it that is not taken."""
    candidate, number = path, 1
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate
