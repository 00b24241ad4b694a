"""Which checkpoints stay: the newest, the best, and one now and then for ever."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from t5x_mini.checkpoint.config import CheckpointConfig
from t5x_mini.checkpoint.manifest import Manifest


def doomed(manifests: Mapping[int, Manifest], config: CheckpointConfig, metric: str | None) -> list[int]:
    """The steps of the checkpoints that are to be deleted, ascending. The newest one never is.

    Args:
        manifests: of the complete checkpoints, by step.
        config: how many stay.
        metric: that the best are chosen by; None: none are.
    """
    steps = sorted(manifests)
    newest = steps if config.keep is None else steps[-config.keep :]
    best = ranked(manifests, metric)[: config.keep_best]
    stay = {*newest, *best, *_for_ever(steps, config.keep_period)}
    return [step for step in steps if step not in stay]


def ranked(manifests: Mapping[int, Manifest], metric: str | None) -> list[int]:
    """The steps that a metric is known of, the best first; of equals, the first."""
    known = [step for step in sorted(manifests) if metric is not None and metric in manifests[step].metrics]
    return sorted(known, key=lambda step: -rank(manifests[step].metrics[metric], metric))


def best(manifests: Mapping[int, Manifest]) -> int | None:
    """The step of the best checkpoint, by what the newest one says that its run chooses by; None: by nothing."""
    return next(iter(ranked(manifests, best_metric(manifests))), None)


def rank(value: float, metric: str) -> float:
    """More is better. What is not a number is worse than anything."""
    if math.isnan(value):
        return -math.inf
    return -value if less_is_better(metric) else value


def less_is_better(metric: str) -> bool:
    """Whether a metric is a loss or a norm, by its name: `loss`, `eval/<task>/loss_per_all_target_tokens`."""
    name = metric.rpartition("/")[2]
    return "loss" in name or "norm" in name


def best_metric(manifests: Mapping[int, Manifest]) -> str | None:
    """What the newest checkpoint says that its run chooses by."""
    for step in sorted(manifests, reverse=True):
        one = manifests[step]
        if one.best_metric is not None or one.files:  # of earlier versions, only the best say it
            return one.best_metric
    return None


def _for_ever(steps: Collection[int], period: int | None) -> list[int]:
    return [] if period is None else [step for step in steps if step % period == 0]
