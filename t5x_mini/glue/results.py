"""What the benchmark keeps in its folder: the outcome of each finetuning, the table, and all of it as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from t5x_mini.checkpoint.steps import FOLDER, best_step, steps_of
from t5x_mini.errors import UserError
from t5x_mini.evaluate.inference_files import without_nan
from t5x_mini.glue import table
from t5x_mini.glue.plan import Finetuning
from t5x_mini.glue.table import Outcome, Row, Scores
from t5x_mini.train.metrics import read_metrics
from t5x_mini.whole_file import write_whole

_DONE = "glue.json"


def measured(run: Finetuning, folder: Path, seconds: float) -> Outcome:
    """What a finished run reached: the metrics that its best checkpoint had; without a BEST_METRIC, its last one.

    Raises:
        UserError: there was no evaluation at that step.
    """
    step = best_step(folder / FOLDER)
    step = steps_of(folder)[-1] if step is None else step
    tasks = [task for part in run.parts for task in part.scored]
    return Outcome(run, step, {task: _numbers(_at(folder, task, step)) for task in tasks}, seconds)


def read_outcome(run: Finetuning, folder: Path) -> Outcome | None:
    """The outcome that `write_outcome` wrote; None while the run isn't finished."""
    path = folder / _DONE
    if not path.is_file():
        return None
    kept = json.loads(path.read_text())
    return Outcome(run, kept["step"], {task: _numbers(row) for task, row in kept["scores"].items()}, kept["seconds"])


def write_outcome(outcome: Outcome, folder: Path) -> None:
    """Marks the run in `folder` as finished."""
    kept = {"step": outcome.step, "seconds": round(outcome.seconds, 1), "scores": outcome.scores}
    write_whole(folder / _DONE, json.dumps(kept, indent=1) + "\n")


def write_table(rows: Sequence[Row], outcomes: Sequence[Outcome], chance: Scores, about: Mapping, folder: Path) -> None:
    """`table.md`, and `results.json` with every value in it.

    Args:
        about: what else a reader of `results.json` wants to know: the checkpoint, the strategy.
    """
    write_whole(folder / "table.md", f"{table.as_markdown(rows)}\n{table.comparison(rows)}\n")
    found = {
        **about,
        "table": [_row(row) for row in rows],
        "chance": chance,
        "runs": [
            {
                "run": outcome.run.name,
                "start": outcome.run.start,
                "seed": outcome.run.seed,
                "step": outcome.step,
                "scores": outcome.scores,
            }
            for outcome in outcomes
        ],
    }
    write_whole(folder / "results.json", json.dumps(found, indent=1) + "\n")


def _row(row: Row) -> dict:
    cells = {
        name: {"mean": cell.mean, "spread": without_nan(cell.deviation), "values": cell.values}
        for name, cell in row.cells.items()
    }
    return {"task": row.task, "metric": row.metric, **cells}


def _numbers(row: Mapping[str, float | None]) -> dict[str, float]:
    """With 0 for null: what the files say of a correlation where all answers are the same."""
    return {name: 0.0 if value is None else value for name, value in row.items()}


def _at(folder: Path, task: str, step: int) -> dict[str, float]:
    path = folder / "inference_eval" / f"{task}-metrics.jsonl"
    rows = [row for row in read_metrics(path) if row["step"] == step] if path.is_file() else []
    if not rows:
        raise UserError(
            f"{path} has no metrics of step {step}, which the table is made of. Remove the folder {folder}, and write "
            "the command again."
        )
    return {name: value for name, value in rows[-1].items() if name != "step"}
