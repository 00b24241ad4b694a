"""Which checkpoint is the best, and when to stop looking for a better one."""

from __future__ import annotations

import math
from collections.abc import Collection

from t5x_mini import config_checks
from t5x_mini.checkpoint.manager import BestSoFar
from t5x_mini.errors import UserError
from t5x_mini.evaluate.results import Results
from t5x_mini.tasks import registry


class Best:
    """Follows a metric from evaluation to evaluation.

    Attributes:
        step: of the best evaluation so far; None before the first.
        found: what it found.
    """

    def __init__(self, metric: str, patience: int | None, eval_period: int):
        """
        Args:
            metric: as `value_of` takes it.
            patience: evaluations without a better value after which to stop; None: never.
            eval_period: steps between evaluations, to count those that an earlier process made.
        """
        self._metric, self._patience, self._period = metric, patience, eval_period
        self.step: int | None = None
        self.found: BestSoFar | None = None
        self._without_better = 0

    def check(self, evaluated: Collection[str], scored: Collection[str]) -> None:
        """Raises UserError where the metric will never be measured.

        Args:
            evaluated: tasks that have a held-out loss.
            scored: those of them whose answers are scored.
        """
        task = _full_name(self._metric).rpartition("/")[0]
        if task and task not in evaluated:
            hint = config_checks.closest(task, evaluated)
            raise UserError(
                f"BEST_METRIC = {self._metric!r} is of a task that is not evaluated{hint} There are "
                f"{', '.join(sorted(evaluated))}."
            )
        if self._metric != "loss" and not (task in scored if task else scored):
            what = f"{task} has" if task else f"{', '.join(sorted(evaluated))} have"
            raise UserError(
                f"BEST_METRIC = {self._metric!r} is measured on a task's answers, but {what} none that are scored; "
                "write BEST_METRIC='loss' to choose by the held-out loss."
            )

    def resume(self, step: int, best: tuple[int, BestSoFar] | None) -> None:
        """Goes on at `step`, with what the checkpoints say is the best."""
        if best is None or best[1].metric != self._metric:
            return
        self.step, self.found = best
        self._without_better = step // self._period - self.step // self._period

    def add(self, results: Results) -> bool:
        """Whether these are the best results so far. Of equal ones, the first stay the best."""
        value = value_of(results, self._metric)
        rank = -math.inf if math.isnan(value) else -value if self._metric == "loss" else value
        if self.found is not None and rank <= self.found.rank:
            self._without_better += 1
            return False
        self.step, self.found, self._without_better = results.step, BestSoFar(self._metric, value, rank), 0
        return True

    @property
    def exhausted(self) -> bool:
        """Whether it is time to stop."""
        return self._patience is not None and self._without_better >= self._patience

    def __str__(self) -> str:
        if self.found is None:
            return f"no {self._metric} yet"
        return f"the best {self._metric} is {self.found.value:.4g}, at step {self.step}"


def value_of(results: Results, metric: str) -> float:
    """A metric of an evaluation: `loss`, the mean of the tasks' held-out losses; `average` or `glue_average` of the
    scores; or a task's, `glue_sst2_v002/accuracy` or `sst2/accuracy`.

    Raises:
        UserError: there is no such metric.
    """
    known = dict(results.averages)
    if results.loss is not None:
        known["loss"] = results.loss
    known |= {f"{task}/{name}": value for task, row in results.scores.items() for name, value in row.items()}
    full = _full_name(metric)
    if full not in known:
        raise UserError(
            f"BEST_METRIC = {metric!r} is not among what was measured{config_checks.closest(full, known)} There are "
            f"{', '.join(known)}."
        )
    return known[full]


def _full_name(metric: str) -> str:
    task, slash, name = metric.rpartition("/")
    return f"{registry.aliases().get(task, task)}/{name}" if slash else metric
