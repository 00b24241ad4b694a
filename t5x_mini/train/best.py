"""Which checkpoint is the best, and when to stop looking for a better one."""

from __future__ import annotations

import collections
from collections.abc import Collection, Mapping, Sequence

from t5x_mini import config_checks
from t5x_mini.checkpoint import retention
from t5x_mini.errors import UserError
from t5x_mini.evaluate.results import Results
from t5x_mini.tasks import registry
from t5x_mini.train import metrics

TRAINING = "train/"  # in front of the names of a training row


class Best:
    """Follows a metric from evaluation to evaluation.

    Attributes:
        step: of the best evaluation so far; None before the first.
        value: of the metric there.
    """

    def __init__(self, metric: str, patience: int | None, eval_period: int, keep: int = 1):
        """
        Args:
            metric: as `value_of` takes it.
            patience: evaluations without a better value after which to stop; None: never.
            eval_period: steps between evaluations, to count those that an earlier process made.
            keep: checkpoints that are kept because they are the best ones.
        """
        self._metric, self._patience, self._period, self._keep = metric, patience, eval_period, keep
        self.step: int | None = None
        self.value: float | None = None
        self._ranks: list[float] = []  # of the best ones, descending
        self._without_better = 0

    def check(self, evaluated: Collection[str], scored: Collection[str]) -> None:
        """Raises UserError where the metric will never be measured.

        Args:
            evaluated: tasks that have a held-out loss.
            scored: those of them whose answers are scored.
        """
        name = full_name(self._metric).removeprefix("inference_eval/")
        of_text = name == "loss" or name.startswith("eval/")
        task = name.removeprefix("eval/").rpartition("/")[0]
        if task and task not in evaluated:
            hint = config_checks.closest(task, evaluated)
            raise UserError(
                f"BEST_METRIC = {self._metric!r} is of a task that is not evaluated{hint} There are "
                f"{', '.join(sorted(evaluated))}."
            )
        if not of_text and not (task in scored if task else scored):
            what = f"{task} has" if task else f"{', '.join(sorted(evaluated))} have"
            raise UserError(
                f"BEST_METRIC = {self._metric!r} is measured on a task's answers, but {what} none that are scored; "
                "write BEST_METRIC='loss' to choose by the held-out loss."
            )

    def resume(self, step: int, best: Sequence[tuple[int, float]]) -> None:
        """Goes on at `step`, with what the checkpoints say are the best, steps and values."""
        if not best:
            return
        self.step, self.value = best[0]
        self._ranks = [retention.rank(value, self._metric) for _, value in best[: self._keep]]
        self._without_better = step // self._period - self.step // self._period

    def add(self, results: Results) -> bool:
        """Whether these results are among the best so far, and their checkpoint is to be kept. Of equals, the first
        stay."""
        value = value_of(results, self._metric)
        rank = retention.rank(value, self._metric)
        if not self._ranks or rank > self._ranks[0]:
            self.step, self.value, self._without_better = results.step, value, 0
        else:
            self._without_better += 1
        if len(self._ranks) >= self._keep and rank <= self._ranks[self._keep - 1]:
            return False
        self._ranks = sorted([*self._ranks, rank], reverse=True)[: self._keep]
        return True

    @property
    def exhausted(self) -> bool:
        """Whether it is time to stop."""
        return self._patience is not None and self._without_better >= self._patience

    def __str__(self) -> str:
        if self.value is None:
            return f"no {self._metric} yet"
        return f"the best {self._metric} is {self.value:.4g}, at step {self.step}"


def is_of_training(metric: str | None) -> bool:
    """Whether it is one of the training rows', `train/loss`, say, which every checkpoint has."""
    return metric is not None and metric.startswith(TRAINING)


def check_training(metric: str) -> None:
    """Raises UserError unless training rows have such a metric."""
    names = [TRAINING + name for name in _training_names()]
    if metric not in names:
        raise UserError(
            f"BEST_METRIC = {metric!r} is not among what is logged of each step{config_checks.closest(metric, names)} "
            f"There are {', '.join(names)}."
        )


def measured(results: Results) -> dict[str, float]:
    """Every number of an evaluation by the names that BEST_METRIC may have; see `value_of`."""
    known = dict(results.averages)
    if results.loss is not None:
        known["loss"] = results.loss
    known |= {f"{task}/{name}": value for task, row in results.scores.items() for name, value in row.items()}
    return known | results.flat()


def value_of(results: Results, metric: str) -> float:
    """A metric of an evaluation: `loss`, the mean of the tasks' held-out losses; `average` or `glue_average` of the
    scores; a task's, `glue_sst2_v002/accuracy` or `sst2/accuracy`; or any by its name in `metrics.jsonl`,
    `eval/<task>/accuracy`.

    Raises:
        UserError: there is no such metric.
    """
    known = measured(results)
    full = full_name(metric)
    if full not in known:
        raise UserError(
            f"BEST_METRIC = {metric!r} is not among what was measured{config_checks.closest(full, known)} There are "
            f"{', '.join(known)}."
        )
    return known[full]


def full_name(metric: str) -> str:
    """`glue_sst2_v002/accuracy` for `sst2/accuracy`."""
    task, slash, name = metric.rpartition("/")
    return f"{registry.aliases().get(task, task)}/{name}" if slash else metric


def _training_names() -> list[str]:
    sums: Mapping[str, float] = collections.defaultdict(float)
    return list(metrics.step_metrics(sums, seconds=1.0, flops=1.0, device_count=1, peak_flops=1.0))
