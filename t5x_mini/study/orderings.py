"""Which of two cells is better, here and in the reference, and whether the seeds decide it."""

from __future__ import annotations

import dataclasses
import itertools
import math
import typing
from collections.abc import Mapping, Sequence
from typing import Literal

from t5x_mini.evaluate.spread import Spread
from t5x_mini.study.config import Study
from t5x_mini.study.outcomes import AVERAGE, HELD_OUT_LOSS

Verdict = Literal["reproduced", "reversed", "undecided", "not judged"]
Found = Mapping[str, Mapping[str, Spread]]
"""`outcomes.over_seeds` of each cell by its name."""


@dataclasses.dataclass(frozen=True)
class Ordering:
    """Two cells that differ in one choice, and the reference puts the first above the second.

    Attributes:
        axis: in which they differ.
        better: the cell's name that the reference puts first.
        worse: the other one's.
        reference: how far apart they are there.
        by: what they are compared by here: the scores' `average`, or the `held-out loss`.
        here: how far apart they are here; negative where the other one is better.
        error: standard error of that difference.
        verdict: `reproduced` or `reversed` where the difference is more than twice its standard error, else
            `undecided`; `not judged` where scores of one of them are not above chance by twice their spread.
    """

    axis: str
    better: str
    worse: str
    reference: float
    by: str
    here: float
    error: float
    verdict: Verdict


def orderings(
    study: Study, cells: Mapping[str, Mapping[str, str]], found: Found, chance: float | None
) -> list[Ordering]:
    """All pairs of cells with a reference that differ in one choice: by their scores, then by their held-out losses
    where those compare; the widest apart there first within each axis.

    Args:
        study: whose first reference scores count.
        cells: choices by axis, of each cell by its name.
        found: losses and scores of each cell.
        chance: the average of constant answers; None: not known, and nothing is judged by it.
    """
    first = {name: next(iter(scores.values())) for name, scores in study.reference.items() if scores}
    made = []
    for one, other in itertools.combinations([name for name in cells if name in first], 2):
        differ = [axis for axis in cells[one] if cells[one][axis] != cells[other][axis]]
        if len(differ) != 1 or first[one] == first[other]:
            continue
        better, worse = (one, other) if first[one] > first[other] else (other, one)
        for by in (AVERAGE, HELD_OUT_LOSS):
            comparable = by == AVERAGE or _losses_compare(study, differ[0], one, other)
            if comparable and all(by in found[name] for name in (one, other)):
                apart = first[better] - first[worse]
                made.append(_ordering(differ[0], better, worse, apart, by, found, chance))
    axes = list(study.axes)
    return sorted(made, key=lambda one: (one.by != AVERAGE, axes.index(one.axis), -one.reference))


def _losses_compare(study: Study, axis: str, *names: str) -> bool:
    return axis in study.compare_losses_along and not any(name in study.exceptions for name in names)


def _ordering(
    axis: str, better: str, worse: str, apart: float, by: str, found: Found, chance: float | None
) -> Ordering:
    spreads = found[better][by], found[worse][by]
    here = spreads[0].mean - spreads[1].mean
    here = here if by == AVERAGE else -here  # of a loss, less is better
    error = math.sqrt(sum(spread.deviation**2 / len(spread.values) for spread in spreads))
    verdict: Verdict = "undecided"
    if by == AVERAGE and chance is not None and not all(spread.is_above(chance) for spread in spreads):
        verdict = "not judged"
    elif abs(here) > 2 * error:  # False for NaN, the error of single seeds
        verdict = "reproduced" if here > 0 else "reversed"
    return Ordering(axis, better, worse, apart, by, here, error, verdict)


def in_words(made: Sequence[Ordering]) -> str:
    """`'12 of 25 orderings reproduced, 3 reversed, 10 undecided'`."""
    counts = {verdict: sum(one.verdict == verdict for one in made) for verdict in typing.get_args(Verdict)}
    reproduced = counts.pop("reproduced")
    rest = "".join(f", {count} {verdict}" for verdict, count in counts.items() if count)
    return f"{reproduced} of {len(made)} orderings reproduced{rest}"
