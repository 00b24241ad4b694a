"""What a study found, as plain data: for its tables, its page and its pictures, and for who reads `results.json`."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from t5x_mini import text_table
from t5x_mini.evaluate.spread import Spread
from t5x_mini.glue.benchmark import title
from t5x_mini.study import outcomes as outcomes_module
from t5x_mini.study.cells import Cell
from t5x_mini.study.config import Study
from t5x_mini.study.orderings import Ordering, in_words, orderings
from t5x_mini.study.outcomes import AVERAGE, LOSSES, Outcome

_NONE = "–"


@dataclasses.dataclass(frozen=True)
class Report:
    """A study and all its finished trials.

    Attributes:
        study: what it is.
        cells: of the grid.
        outcomes: of the finished trials.
        chance: of each task, what the best constant answer gets; tasks without a known one are missing.
        facts: further lines about the study's size, `{'finetuning': '200 steps of 32 rows'}`.
    """

    study: Study
    cells: Sequence[Cell]
    outcomes: Sequence[Outcome]
    chance: Mapping[str, float]
    facts: Mapping[str, str]

    @functools.cached_property
    def found(self) -> dict[str, dict[str, Spread]]:
        """`outcomes.over_seeds` of each cell."""
        return {cell.name: outcomes_module.over_seeds(self.outcomes, cell.name) for cell in self.cells}

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(task for outcome in self.outcomes for task in outcome.scores))

    @property
    def average_chance(self) -> float | None:
        """Of the tasks' average; None where that of a task is not known."""
        known = [self.chance[task] for task in self.tasks if task in self.chance]
        return sum(known) / len(known) if known and len(known) == len(self.tasks) else None

    @property
    def orderings(self) -> list[Ordering]:
        choices = {cell.name: cell.choices for cell in self.cells}
        return orderings(self.study, choices, self.found, self.average_chance)

    @property
    def reference_columns(self) -> list[str]:
        return list(dict.fromkeys(name for scores in self.study.reference.values() for name in scores))

    def is_doubtful(self, cell: Cell) -> bool:
        """Whether nothing can be concluded from a cell's scores: they are not above chance by twice their spread."""
        average = self.found[cell.name].get(AVERAGE)
        known = average is not None and self.average_chance is not None
        return known and not average.is_above(self.average_chance)


def lines(report: Report, reference: Sequence[str]) -> list[list[str]]:
    """The table: a line a cell, means and standard deviations over seeds, then these columns of the reference."""
    values = [name for name in LOSSES if any(name in found for found in report.found.values())]
    scores = [AVERAGE, *report.tasks] if report.tasks else []
    head = [*report.study.axes, "parameters", "steps", "FLOPs", *values, *map(title, scores), *reference]
    made = [head, *(_line(report, cell, [*values, *scores], reference) for cell in report.cells)]
    if scores:
        chance = [_one(report.average_chance), *(_one(report.chance.get(task)) for task in scores[1:])]
        blank = [""] * (len(report.study.axes) + 2 + len(values))
        made.append(["chance", *blank, *chance, *([""] * len(reference))])
    return made


def _line(report: Report, cell: Cell, values: Sequence[str], reference: Sequence[str]) -> list[str]:
    found = report.found[cell.name]
    shown = [found[name].text(3 if name in LOSSES else 1) if name in found else _NONE for name in values]
    theirs = report.study.reference.get(cell.name, {})
    columns = [f"{theirs[name]:.2f}" if name in theirs else _NONE for name in reference]
    mark = " *" if report.is_doubtful(cell) else ""
    return [
        *cell.choices.values(),
        f"{cell.parameters:,}{mark}",
        f"{cell.steps:,}",
        f"{cell.flops:.3g}",
        *shown,
        *columns,
    ]


def as_text(report: Report) -> str:
    """For a terminal: the reference's first column alone."""
    axes = len(report.study.axes)
    table = text_table.aligned(lines(report, report.reference_columns[:1]), left=axes)
    return "\n".join([*table, "", *notes(report)])


def as_markdown(report: Report) -> str:
    """For a page: all of the reference's columns."""
    axes = len(report.study.axes)
    table = text_table.markdown(lines(report, report.reference_columns), left=axes)
    return table + "\n" + "\n".join(f"- {note}" for note in notes(report)) + "\n"


def notes(report: Report) -> list[str]:
    """What has to be known to read the table, in sentences."""
    made = [size_in_words(report)]
    if report.study.match == "flops":
        made.append("All cells were pretrained with the same number of counted FLOPs, by their numbers of steps.")
    made += [f"{name}: {note}" for name, note in report.study.notes.items()]
    doubtful = [cell.name for cell in report.cells if report.is_doubtful(cell)]
    if doubtful:
        names = "; ".join(doubtful)
        made.append(f"Marked with *: not above chance by twice the spread, so that nothing can be concluded: {names}.")
    if report.study.reference_name and report.reference_columns:
        made.append(f"{', '.join(report.reference_columns)} are those of {report.study.reference_name}.")
    for by in dict.fromkeys(one.by for one in report.orderings):
        judged = in_words([one for one in report.orderings if one.by == by])
        made.append(f"By the {by}, beside {report.reference_columns[0]} there: {judged}.")
    return made


def size_in_words(report: Report) -> str:
    """How large the study is."""
    done = len(report.outcomes)
    trials = len(report.cells) * report.study.seeds
    of = "" if done == trials else f" ({done} of {trials} trained so far)"
    seeds = f"{report.study.seeds} seed{'s' * (report.study.seeds != 1)}"
    parameters, steps = [cell.parameters for cell in report.cells], [cell.steps for cell in report.cells]
    facts = "".join(f"; {name}: {fact}" for name, fact in report.facts.items())
    return (
        f"{len(report.cells)} cells, {seeds} each{of}; models of {_range(parameters)} parameters, "
        f"pretrained for {_range(steps)} steps{facts}. Values are means ± standard deviations over seeds."
    )


def orderings_as_markdown(report: Report) -> str:
    """The table of orderings, for a page."""
    return text_table.markdown(ordering_lines(report), left=3)


def ordering_lines(report: Report) -> list[list[str]]:
    """The table of orderings."""
    head = ["differ in", "above there", "below there", "apart there", "compared by", "apart here", "verdict"]
    return [
        head,
        *(
            [one.axis, one.better, one.worse, f"{one.reference:+.2f}", one.by, _apart(one), one.verdict]
            for one in report.orderings
        ),
    ]


def to_json(report: Report) -> str:
    """All of it, from which `from_json` makes the report again."""
    found = dataclasses.asdict(report)
    outcomes = ",\n  ".join(json.dumps(outcome) for outcome in found.pop("outcomes"))  # a line each
    return json.dumps(found, indent=1).removesuffix("\n}") + f',\n "outcomes": [\n  {outcomes}\n ]\n}}\n'


def from_json(text: str) -> Report:
    """What `to_json` wrote."""
    kept: dict[str, Any] = json.loads(text)
    found = [outcome | {"curve": [tuple(point) for point in outcome["curve"]]} for outcome in kept["outcomes"]]
    cells = [Cell(**cell | {"settings": tuple(cell["settings"])}) for cell in kept["cells"]]
    return Report(
        Study(**_with_tuples(kept["study"])),
        cells,
        [Outcome(**outcome) for outcome in found],
        kept["chance"],
        kept["facts"],
    )


def _with_tuples(value: Any) -> Any:
    """Tuples for JSON's lists, at any depth."""
    if isinstance(value, dict):
        return {name: _with_tuples(part) for name, part in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def _apart(one: Ordering) -> str:
    digits = 3 if one.by in LOSSES else 1
    return f"{one.here:+.{digits}f}" + ("" if math.isnan(one.error) else f" ± {one.error:.{digits}f}")


def _one(value: float | None) -> str:
    return _NONE if value is None else f"{value:.1f}"


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
