"""What an evaluation found, under the names that metrics, checkpoints and reports know it by."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from t5x_mini.evaluate.metrics import glue_average
from t5x_mini.parallel import plain
from t5x_mini.train.metrics import LOSS


@plain.told
@dataclasses.dataclass(frozen=True)
class Results:
    """One evaluation of one checkpoint.

    Attributes:
        step: of the checkpoint.
        split: that was read.
        losses: T5X's numbers token by token, `{task: {'loss_per_nonpadding_target_token': 2.1, 'accuracy': 0.6}}`.
        scores: metrics of the answers, in per cent, of the tasks that have some: `{task: {'accuracy': 87.5}}`. NaN is a
            correlation's value where all answers are the same.
    """

    step: int
    split: str
    losses: Mapping[str, Mapping[str, float]]
    scores: Mapping[str, Mapping[str, float]]

    @property
    def averages(self) -> dict[str, float]:
        """`average`, the mean of the tasks' mean metrics, where any is scored; `glue_average`, where all of GLUE is.

        NaN counts 0, as a correlation does that isn't there.
        """
        if not self.scores:
            return {}
        scores = {
            task: {name: 0.0 if math.isnan(value) else value for name, value in row.items()}
            for task, row in self.scores.items()
        }
        found = {"average": float(np.mean([np.mean(list(row.values())) for row in scores.values()]))}
        glue = glue_average(scores)
        return found if glue is None else found | {"glue_average": glue}

    @property
    def loss(self) -> float | None:
        """The mean of the tasks' held-out losses, in nats a token; None where none was measured."""
        return float(np.mean([row[LOSS] for row in self.losses.values()])) if self.losses else None

    def flat(self) -> dict[str, float]:
        """All of it for `metrics.jsonl` and TensorBoard: `eval/<task>/<name>` token by token, as in training, and
        `inference_eval/<task>/<metric>`, `inference_eval/average` of the answers."""
        rows = {f"eval/{task}/{name}": value for task, row in self.losses.items() for name, value in row.items()}
        rows |= {
            f"inference_eval/{task}/{name}": value for task, row in self.scores.items() for name, value in row.items()
        }
        return rows | {f"inference_eval/{name}": value for name, value in self.averages.items()}
