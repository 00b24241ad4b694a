"""What GLUE is made of: the parts that are trained on, and the tasks by which each is scored."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

from t5x_mini import config_checks
from t5x_mini.errors import UserError
from t5x_mini.tasks.glue import ALIASES


@dataclasses.dataclass(frozen=True)
class Part:
    """One of the benchmark's data sets.

    Attributes:
        name: short, as `--tasks` takes it: `'mnli'`.
        title: the GLUE site's.
        trained_on: the task with its training rows.
        scored: the tasks with its validation rows.
    """

    name: str
    title: str
    trained_on: str
    scored: tuple[str, ...]

    @property
    def tasks(self) -> tuple[str, ...]:
        """All of them, each once."""
        return tuple(dict.fromkeys((self.trained_on, *self.scored)))


def _part(name: str, title: str, *scored: str) -> Part:
    return Part(name, title, ALIASES[name], tuple(ALIASES[task] for task in scored) or (ALIASES[name],))


PARTS = {
    part.name: part
    for part in (
        _part("cola", "CoLA"),
        _part("sst2", "SST-2"),
        _part("mrpc", "MRPC"),
        _part("stsb", "STS-B"),
        _part("qqp", "QQP"),
        _part("mnli", "MNLI", "mnli_matched", "mnli_mismatched"),
        _part("qnli", "QNLI"),
        _part("rte", "RTE"),
        _part("wnli", "WNLI"),
    )
}
"""By name, in the GLUE site's order."""

DEFAULT = tuple(name for name in PARTS if name != "wnli")
"""T5's: without WNLI, whose development set contradicts its training set (Raffel et al. 2020, section 2.3)."""


def choose(names: Sequence[str]) -> list[Part]:
    """The parts of these names, short or T5's (`glue_cola_v002`), in the benchmark's order.

    Raises:
        UserError: there is no such part.
    """
    known = {alias: part for part in PARTS.values() for alias in (part.name, *part.tasks)}
    if not names:
        raise UserError(f"--tasks names no task. GLUE has {', '.join(PARTS)}.")
    for name in names:
        if name not in known:
            hint = config_checks.closest(name, PARTS)
            raise UserError(f"--tasks: GLUE has no task {name!r}{hint} It has {', '.join(PARTS)}.")
    chosen = {known[name] for name in names}
    return [part for part in PARTS.values() if part in chosen]


def rates(parts: Iterable[Part], count: Callable[[str], int]) -> dict[str, float]:
    """What to mix the parts by: their numbers of training examples, as T5; 0 for tasks that only score.

    Of the real data, all parts but WNLI have the rates of `glue_v002_proportional`.
    """
    found: dict[str, float] = {}
    for part in parts:
        found[part.trained_on] = float(count(part.trained_on))
        found |= {task: 0.0 for task in part.scored if task not in found}
    return found


def title(task: str) -> str:
    """How a table calls a scored task: `'MNLI-mm'`."""
    if task in (ALIASES["mnli_matched"], ALIASES["mnli_mismatched"]):
        return "MNLI-mm" if "mismatched" in task else "MNLI-m"
    return next((part.title for part in PARTS.values() if task in part.scored), task)
