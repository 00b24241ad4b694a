"""What a model reaches on GLUE that always gives the same answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from t5x_mini.evaluate import answers, metrics, postprocessors
from t5x_mini.tasks.definitions import TextToTextTask


def targets(task: TextToTextTask, split: str, limit: int | None = None) -> list[Any]:
    """The targets of the split's first `limit` rows (None: all), as the metrics take them."""
    postprocess = postprocessors.by_name(task.postprocessor)
    return [postprocess(texts["targets"], row, True, task) for row, texts in answers.read(task, split, limit)]


def best_constant(names: Sequence[str], targets: Sequence[Any]) -> dict[str, float]:
    """The best value that one answer for all rows gets, of each metric by itself: `{'accuracy': 68.4, 'f1': 81.2}`.

    A correlation, which one answer doesn't have, is 0.
    """
    best: dict[str, float] = {}
    for constant in sorted(set(targets)):
        for name in names:
            for metric, value in metrics.by_name(name)(targets, [constant] * len(targets)).items():
                best[metric] = max(best.get(metric, -math.inf), 0.0 if math.isnan(value) else value)
    return best
