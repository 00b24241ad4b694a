"""The files that an evaluation leaves, as SeqIO's and T5X's do: each task's metrics, and its answers row by row.

    <folder>/inference_eval/<task>-metrics.jsonl    an evaluation a line: {"step": 1000, "accuracy": 87.5}
    <folder>/inference_eval/<task>-<step>.jsonl     an answer a line: inputs, prediction, targets, ...

Each is there whole or not at all. NaN, a correlation's value where all answers are the same, is null: JSON has no NaN.
"""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from t5x_mini.whole_file import write_whole

FOLDER = "inference_eval"


def write_metrics(folder: pathlib.Path, task: str, step: int, scores: Mapping[str, float]) -> None:
    """Adds a line; those of this step and later ones, which a run that was resumed repeats, are dropped."""
    path = folder / FOLDER / f"{task}-metrics.jsonl"
    earlier = [row for row in _rows(path) if row["step"] < step]
    write_whole(path, _lines([*earlier, {"step": step, **scores}]))


def write_answers(folder: pathlib.Path, task: str, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes the answers at this step, over those that are there."""
    write_whole(folder / FOLDER / f"{task}-{step}.jsonl", _lines(rows))


def without_nan(value: Any) -> Any:
    """The value with None for NaN, wherever that stands in it."""
    if isinstance(value, Mapping):
        return {name: without_nan(part) for name, part in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def _lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(f"{json.dumps(without_nan(row), ensure_ascii=False)}\n" for row in rows)


def _rows(path: pathlib.Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().split("\n") if line] if path.exists() else []
