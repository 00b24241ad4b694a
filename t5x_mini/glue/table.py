"""The benchmark's table: metrics of each task over all seeds, beside chance, and GLUE's average."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from t5x_mini import text_table
from t5x_mini.evaluate.results import Results
from t5x_mini.evaluate.spread import Spread
from t5x_mini.glue import benchmark
from t5x_mini.glue.plan import Finetuning

Scores = Mapping[str, Mapping[str, float]]
"""`{task: {metric: per cent}}`."""

_COLUMNS = {"pretrained": "pretrained", "scratch": "from scratch"}
_AVERAGES = {"glue_average": "GLUE average", "average": "average of these tasks"}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a finetuning reached.

    Attributes:
        run: which it was.
        step: of its best checkpoint by the validation metric.
        scores: at that step.
        seconds: that it took.
    """

    run: Finetuning
    step: int
    scores: Scores
    seconds: float


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table: a task's metric, or an average (then `metric` is '')."""

    task: str
    metric: str
    cells: Mapping[str, Spread]


def rows(outcomes: Sequence[Outcome], chance: Scores) -> list[Row]:
    """A row for each metric of each task, then the average: GLUE's, or where tasks are missing, that of those there.

    An average is taken seed by seed, of the seeds that have all tasks. NaN, a correlation's value where all answers
    are the same, counts 0.
    """
    by_seed = {
        start: list(_by_seed([outcome for outcome in outcomes if outcome.run.start == start], chance).values())
        for start in _COLUMNS
    }
    columns = {_COLUMNS[start]: seeds for start, seeds in by_seed.items() if seeds} | {"chance": [chance]}
    made = [
        Row(benchmark.title(task), metric, _cells(columns, task, metric))
        for task, metrics in chance.items()
        for metric in metrics
    ]
    return [*made, _average(columns)]


def as_text(rows: Sequence[Row]) -> str:
    """Aligned for a terminal."""
    lines = text_table.aligned(_lines(rows, ("", "")), left=2)
    return "\n".join([*lines[:-1], "-" * len(lines[0]), lines[-1]])


def as_markdown(rows: Sequence[Row]) -> str:
    """The same, for a page."""
    return text_table.markdown(_lines(rows, ("task", "metric")), left=2)


def _lines(rows: Sequence[Row], head: tuple[str, str]) -> list[list[str]]:
    return [
        [*head, *rows[-1].cells],
        *([row.task, row.metric, *(cell.text() for cell in row.cells.values())] for row in rows),
    ]


def comparison(rows: Sequence[Row]) -> str:
    """How far the pretrained model's average is above the others', and above the spread over seeds.

    Two differences in a sentence; the spread is the larger one of both columns' standard deviations.
    """
    average = rows[-1]
    pretrained, lines = average.cells[_COLUMNS["pretrained"]], []
    for name, cell in average.cells.items():
        if cell is pretrained:
            continue
        line = f"pretrained - {name}: {pretrained.mean - cell.mean:+.1f}"
        spreads = [other.deviation for other in (pretrained, cell) if not math.isnan(other.deviation)]
        if spreads and max(spreads) > 0:
            times = (pretrained.mean - cell.mean) / max(spreads)
            line += f", {times:.1f} times the spread over seeds ({max(spreads):.1f})"
        lines.append(line)
    return "\n".join(lines)


def _by_seed(outcomes: Sequence[Outcome], tasks: Scores) -> dict[int, dict[str, Mapping[str, float]]]:
    """All tasks' scores of each seed that has them all."""
    found: dict[int, dict[str, Mapping[str, float]]] = {}
    for outcome in outcomes:
        found.setdefault(outcome.run.seed, {}).update(outcome.scores)
    return {seed: scores for seed, scores in found.items() if scores.keys() >= tasks.keys()}


def _cells(columns: Mapping[str, Sequence[Scores]], task: str, metric: str) -> dict[str, Spread]:
    return {name: Spread(tuple(_or_zero(scores[task][metric]) for scores in seeds)) for name, seeds in columns.items()}


def _average(columns: Mapping[str, Sequence[Scores]]) -> Row:
    averages = {name: [Results(0, "", {}, scores).averages for scores in seeds] for name, seeds in columns.items()}
    kind = next(kind for kind in _AVERAGES if kind in averages["chance"][0])
    cells = {name: Spread(tuple(found[kind] for found in seeds)) for name, seeds in averages.items()}
    return Row(_AVERAGES[kind], "", cells)


def _or_zero(value: float) -> float:
    return 0.0 if math.isnan(value) else value
