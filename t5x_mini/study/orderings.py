"""Which of two cells is better, here and in the reference, and whether the seeds decide it."""

from __future__ import annotations

import dataclasses
import itertools
import math
import typing
from collections.abc import Mapping, Sequence
from typing import Literal

from t5x_mini.study.outcomes import AVERAGE, Spread

Verdict = Literal["reproduced", "reversed", "undecided", "not judged"]


@dataclasses.dataclass(frozen=True)
class Ordering:
    """Two cells that differ in one choice, and the reference puts the first above the second.

    Attributes:
        axis: in which they differ.
        better: the cell's name that the reference puts first.
        worse: the other one's.
        reference: how far apart they are there.
        here: how far apart they are here; negative where the other one is better.
        error: standard error of that difference.
        verdict: `reproduced` or `reversed` where the difference is more than twice its standard error, else
            `undecided`; `not judged` where one of them is not above chance by twice its spread.
    """

    axis: str
    better: str
    worse: str
    reference: float
    here: float
    error: float
    verdict: Verdict


def orderings(
    cells: Mapping[str, Mapping[str, str]],
    found: Mapping[str, Mapping[str, Spread]],
    reference: Mapping[str, Mapping[str, float]],
    chance: float | None,
) -> list[Ordering]:
    """All pairs of cells with a reference that differ in one choice, the widest apart first within each axis.

    Args:
        cells: choices by axis, of each cell by its name.
        found: `over_seeds` of each cell.
        reference: of each cell; its first score counts.
        chance: the average of constant answers; None: not known, and nothing is judged by it.
    """
    first = {name: next(iter(scores.values())) for name, scores in reference.items() if scores}
    made = []
    for one, other in itertools.combinations([name for name in cells if name in first and AVERAGE in found[name]], 2):
        differ = [axis for axis in cells[one] if cells[one][axis] != cells[other][axis]]
        if len(differ) == 1 and first[one] != first[other]:
            better, worse = (one, other) if first[one] > first[other] else (other, one)
            made.append(_ordering(differ[0], better, worse, first[better] - first[worse], found, chance))
    axes = [axis for choices in cells.values() for axis in choices]
    return sorted(made, key=lambda ordering: (axes.index(ordering.axis), -ordering.reference))


def _ordering(
    axis: str,
    better: str,
    worse: str,
    apart: float,
    found: Mapping[str, Mapping[str, Spread]],
    chance: float | None,
) -> Ordering:
    spreads = found[better][AVERAGE], found[worse][AVERAGE]
    here = spreads[0].mean - spreads[1].mean
    error = math.sqrt(sum(spread.deviation**2 / len(spread.values) for spread in spreads))
    verdict: Verdict = "undecided"
    if chance is not None and not all(spread.is_above(chance) for spread in spreads):
        verdict = "not judged"
    elif abs(here) > 2 * error:  # False for NaN, the error of single seeds
        verdict = "reproduced" if here > 0 else "reversed"
    return Ordering(axis, better, worse, apart, here, error, verdict)


def in_words(made: Sequence[Ordering]) -> str:
    """`'12 of 25 orderings reproduced, 3 reversed, 10 undecided'`."""
    counts = {verdict: sum(one.verdict == verdict for one in made) for verdict in typing.get_args(Verdict)}
    reproduced = counts.pop("reproduced")
    rest = "".join(f", {count} {verdict}" for verdict, count in counts.items() if count)
    return f"{reproduced} of {len(made)} orderings reproduced{rest}"
