"""What a study found: each trial's losses and scores, and over seeds their means and spreads."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence

from t5x_mini.evaluate.results import Results
from t5x_mini.evaluate.spread import Spread
from t5x_mini.report.run_data import RunData, read_run
from t5x_mini.study.cells import Trial
from t5x_mini.train.metrics import LOSS

AVERAGE = "average"
_LAST_SHARE = 0.05  # of the steps: what the training loss is the mean of
TRAINING_LOSS, HELD_OUT_LOSS = LOSSES = ("training loss", "held-out loss")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a finished trial reached.

    Attributes:
        cell: its name.
        seed: its seed.
        training_loss: nats a target token, the mean over the last 5 % of the pretraining's steps.
        held_out_loss: at the pretraining's end; None where nothing was held out.
        curve: (step, training loss), some hundred points.
        scores: at the finetuning's best evaluation, `{task: {metric: per cent}}`; of a correlation that isn't there, 0.
    """

    cell: str
    seed: int
    training_loss: float
    held_out_loss: float | None
    curve: list[tuple[int, float]]
    scores: Mapping[str, Mapping[str, float]]

    @property
    def values(self) -> dict[str, float]:
        """Of each task the mean of its metrics, as T5 counts, and the mean of the tasks."""
        if not self.scores:
            return {}
        tasks = {task: statistics.fmean(metrics.values()) for task, metrics in self.scores.items()}
        return {AVERAGE: Results(0, "", {}, self.scores).averages[AVERAGE], **tasks}


def read_outcome(trial: Trial) -> Outcome:
    """From the folders of a trial whose runs are complete."""
    pretraining = read_run(trial.pretraining.folder, answers=0)
    losses = pretraining.series(LOSS)
    last = losses[-max(round(len(losses) * _LAST_SHARE), 1) :]
    held_out = [series[LOSS][-1][1] for series in pretraining.held_out.values() if LOSS in series]
    return Outcome(
        cell=trial.cell.name,
        seed=trial.seed,
        training_loss=statistics.fmean(loss for _, loss in last),
        held_out_loss=statistics.fmean(held_out) if held_out else None,
        curve=_smoothed(losses),
        scores=_best_scores(read_run(trial.finetuning.folder, answers=0)) if trial.finetuning else {},
    )


def over_seeds(outcomes: Sequence[Outcome], cell: str) -> dict[str, Spread]:
    """Of a cell's finished trials: its losses, and its scores by task with their average first."""
    found: dict[str, list[float]] = {}
    for outcome in outcomes:
        if outcome.cell != cell:
            continue
        losses = {TRAINING_LOSS: outcome.training_loss, HELD_OUT_LOSS: outcome.held_out_loss}
        for name, value in {**losses, **outcome.values}.items():
            if value is not None:
                found.setdefault(name, []).append(value)
    return {name: Spread(tuple(values)) for name, values in found.items()}


def _best_scores(run: RunData) -> dict[str, dict[str, float]]:
    """At the best evaluation by BEST_METRIC; at the last one where there is none."""
    last = max(step for series in run.scores.values() for values in series.values() for step, _ in values)
    step = run.best.step if run.best else last
    return {
        task: {name: _or_zero(dict(values)[step]) for name, values in series.items()}
        for task, series in run.scores.items()
    }


def _or_zero(value: float | None) -> float:
    return 0.0 if value is None or math.isnan(value) else value


def _smoothed(losses: Sequence[tuple[int, float]], points: int = 100) -> list[tuple[int, float]]:
    """Means of so many stretches, each at its last step."""
    size = max(len(losses) // points, 1)
    stretches = [losses[start : start + size] for start in range(0, len(losses), size)]
    return [(part[-1][0], round(statistics.fmean(loss for _, loss in part), 4)) for part in stretches]
