"""Losses out of the ordinary: how they are told, and what is done about them (`ON_DIVERGENCE`).

A step has diverged if its loss or its parameters are not finite or, with `LOSS_SPIKE`, if its loss lies too far above
the losses before it: OLMo-core's rule (`optim/skip_step_optimizer.py`), more than so many standard deviations above the
mean of the last 128.

    stop        the run ends, and says where it can go on from
    skip        the update is left out, on the device; the step counts
    roll_back   the run goes on from its newest checkpoint with the batch behind the one that diverged (`roll_back.py`)

What is decided at a step is a function of the losses up to two steps before it. They are in the run's metrics.jsonl, so
that a run that is started again decides as it would have.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from t5x_mini.errors import UserError
from t5x_mini.parallel.hosts import on_first
from t5x_mini.train.config import TrainConfig
from t5x_mini.train.metrics import METRICS_FILE, SKIPPED, read_metrics

WINDOW = 128
_FEWEST = WINDOW // 2
# The row of the step before isn't read yet when a step is started.
_LAG = 2
_WORDS = {"loss": "loss", "param_norm": "parameter norm"}


class Diverged(Exception):
    """A step diverged, and the run is to be rolled back.

    Attributes:
        step: which one.
        why: in words.
    """

    def __init__(self, step: int, why: str):
        super().__init__(why)
        self.step, self.why = step, why


@dataclasses.dataclass
class History:
    """What later steps are judged by.

    Attributes:
        losses: step and loss of the newest steps that did not diverge.
        skipped: updates left out so far, and
        in_a_row: how many of them were the last ones.
    """

    losses: collections.deque[tuple[int, float]] = dataclasses.field(
        default_factory=lambda: collections.deque(maxlen=WINDOW + _LAG)
    )
    skipped: int = 0
    in_a_row: int = 0

    def add(self, step: int, row: Mapping[str, float]) -> None:
        """Takes a row of metrics of a training step."""
        if row.get(SKIPPED):
            self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        else:
            self.losses.append((step, row["loss"]))
            self.in_a_row = 0

    def limit(self, step: int, deviations: float | None) -> float:
        """The loss from which on the step has diverged; infinite where nothing can be said."""
        known = [loss for earlier, loss in self.losses if earlier <= step - _LAG][-WINDOW:]
        if deviations is None or len(known) < _FEWEST:
            return math.inf
        return float(np.mean(known) + deviations * np.std(known))


class Divergence:
    """Judges the steps of a run.

    Attributes:
        history: of the steps so far.
    """

    def __init__(self, config: TrainConfig, history: History | None = None):
        self.history = history or History()
        self._config = config

    def limit(self, step: int) -> float:
        """The loss from which on the step has diverged."""
        return self.history.limit(step, self._config.loss_spike)

    def limits(self, step: int) -> tuple[np.float32, ...]:
        """What the compiled step takes besides its batch (`train/step.py`)."""
        return (np.float32(self.limit(step)),) if self._config.on_divergence == "skip" else ()

    def judge(self, step: int, row: Mapping[str, float], last_good: str | Path | None) -> str | None:
        """Takes the row of a step, in order, and gives a warning where an update was left out.

        Args:
            step: which one.
            row: its metrics.
            last_good: the newest checkpoint, if any.

        Raises:
            UserError: the run has to stop.
            Diverged: it has to be rolled back.
        """
        limit = self.limit(step)
        self.history.add(step, row)
        if row.get(SKIPPED):
            return self._skipped(step, row, limit, last_good)
        what = next((name for name in _WORDS if not math.isfinite(row[name])), None)
        if what is None and row["loss"] < limit:
            return None
        why = f"The {_WORDS[what or 'loss']} of step {step} is {row[what or 'loss']:{'' if what else '.4g'}}"
        if what is None:
            why += f", and {limit:.4g} is where a spike begins (LOSS_SPIKE = {self._config.loss_spike:g})"
        if self._config.on_divergence == "roll_back":
            raise Diverged(step, why)
        raise UserError(f"{why}; the run stops. {_go_on(last_good)} {_advice(row)}")

    def _skipped(self, step: int, row: Mapping[str, float], limit: float, last_good: str | Path | None) -> str:
        most, history = self._config.max_skips, self.history
        why = f"loss {row['loss']:.4g}, gradient norm {row['grad_norm']:.4g}"
        if math.isfinite(limit):
            why += f"; a spike begins at {limit:.4g}"
        if history.in_a_row >= most:
            raise UserError(
                f"The updates of {history.in_a_row} steps in a row, up to step {step}, were left out ({why}), as many "
                f"as MAX_SKIPS allows; the run stops. {_go_on(last_good)} {_advice(row)}"
            )
        return f"step {step}: update left out ({why}), {history.skipped} in all"


def past(folder: Path, step: int, config: TrainConfig) -> History:
    """The history of a run that goes on at `step`, on all hosts, which call it together."""
    history = History()
    if config.loss_spike is None and config.on_divergence != "skip":
        return history
    found = on_first(lambda: _rows(folder / METRICS_FILE, step))
    for earlier, loss, skipped in found:
        history.add(earlier, {"loss": loss, SKIPPED: skipped})
    return history


def _rows(path: Path, step: int) -> list[tuple[int, float, float]]:
    rows = read_metrics(path) if path.exists() else []
    return [(row["step"], row["loss"], row.get(SKIPPED, 0)) for row in rows if "loss" in row and row["step"] <= step]


def _go_on(last_good: str | Path | None) -> str:
    if last_good is None:
        return "There is no checkpoint before it."
    return f"The last good checkpoint is {last_good}."


def _advice(row: Mapping[str, float]) -> str:
    return (
        f"Gradient norm {row['grad_norm']:g}, parameter norm {row['param_norm']:g}, learning rate "
        f"{row['learning_rate']:g}: a lower rate, a longer warm-up or --gin.CLIP_GLOBAL_NORM=1.0 usually helps."
    )
