"""What a path that a person writes down stands for: a run's newest checkpoint, its best one, or one of them."""

from __future__ import annotations

import pathlib

from t5x_mini.checkpoint import steps
from t5x_mini.checkpoint.steps import FOLDER
from t5x_mini.errors import UserError
from t5x_mini.storage import to_path

BEST = "best"


def locate(path: str) -> tuple[str, int]:
    """The run folder and step that a path stands for: `runs/x` (its newest checkpoint), `runs/x/checkpoints/1000`, or
    `runs/x/checkpoints/best`.

    Raises:
        UserError: where there is no complete checkpoint.
    """
    run_dir, step = _run_and_step(to_path(path).expanduser())
    there = steps.steps_of(run_dir)
    those = f"{run_dir} has those of the steps {', '.join(map(str, there))}." if there else ""
    if step not in (None, BEST, *there) and step in steps.numbered(run_dir):
        raise UserError(
            f"The checkpoint {path} is incomplete: saving or copying it was interrupted before its manifest.json was "
            f"written. {those or 'Copy it once more, all of it.'}"
        )
    if not there:
        raise UserError(
            f"There is no checkpoint in {path}. Write a run's folder (runs/quickstart) or one of its checkpoints "
            f"(runs/quickstart/{FOLDER}/1000)."
        )
    if step == BEST:
        step = steps.best_step(run_dir / FOLDER)
        if step is None:
            raise UserError(
                f"{run_dir} has no best checkpoint: it was trained without a BEST_METRIC to choose by. It has those of "
                f"the steps {', '.join(map(str, there))}."
            )
    if step is not None and step not in there:
        raise UserError(f"There is no checkpoint {path}. {those}")
    return str(run_dir), step if step is not None else there[-1]


def is_own(path: pathlib.Path) -> bool:
    """Whether the path stands for a run that has checkpoints, or for one of them."""
    run_dir, step = _run_and_step(path)
    return step is not None or bool(steps.steps_of(run_dir))


def _run_and_step(path: pathlib.Path) -> tuple[pathlib.Path, int | str | None]:
    if path.parent.name == FOLDER and (path.name.isdigit() or path.name == BEST):
        return path.parent.parent, int(path.name) if path.name.isdigit() else BEST
    return (path.parent if path.name == FOLDER else path), None
