"""Loss and accuracy on text that is not trained on, task by task."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from t5x_mini.feed import feeds
from t5x_mini.train import metrics
from t5x_mini.train.loss import normalizer
from t5x_mini.train.run import Run
from t5x_mini.train.step import make_eval_step

HostBatch = Mapping[str, np.ndarray]
Params = Mapping[str, jax.Array]


class HeldOut:
    """The held-out batches of every task of a mixture, and the compiled step that measures them.

    The batches are read once and kept on the host: every measurement sees the same text with the same masks.

    Attributes:
        batches: this host's rows, by task.
        between_batches: called before each batch of a measurement, which it can end with an exception.
    """

    def __init__(self, run: Run, split: str = "validation", max_batches: int | None = None):
        """Reads up to `max_batches` (None: all) of each task that has the split, and compiles."""
        self.between_batches: Callable[[], None] = lambda: None
        self.batches = read_held_out(run, split, max_batches)
        self._run = run
        config = run.config
        parts = config.train.num_microbatches
        step = make_eval_step(config.model, config.loss, run.partitioner.axis_name, parts)
        self._step = run.partitioner.compile_eval_step(
            step, run.shapes.params, run.shardings.params, run.batch_shapes(config.feed.batch_size)
        )

    def measure(self, params: Params) -> dict[str, dict[str, float]]:
        """`{task: {metric: value}}`, with T5X's metric names."""
        results = {}
        for name, batches in self.batches.items():
            sums = self.sums(params, batches)
            sums["normalizer"] = float(normalizer(jnp.float32(sums["normalizer"]), self._run.config.loss))
            results[name] = metrics.loss_metrics(sums)
        return results

    def cross_entropy(self, params: Params, batches: Iterable[HostBatch]) -> float:
        """Nats a token that carries loss, without z-loss."""
        sums = self.sums(params, batches)
        return (sums["loss"] - sums["z_loss"]) / sums["weights"]

    def sums(self, params: Params, batches: Iterable[HostBatch]) -> dict[str, float]:
        """The step's sums (`train/step.py`), added up over `batches`."""
        total: dict[str, float] = {}
        for batch in batches:
            self.between_batches()
            sums = jax.device_get(self._step(params, self._run.partitioner.put(batch)))
            total = {name: total.get(name, 0.0) + float(value) for name, value in sums.items()}
        return total


def read_held_out(run: Run, split: str, max_batches: int | None) -> dict[str, list[HostBatch]]:
    """This host's rows of the first `max_batches` batches of every task that has the split, by task."""
    config = run.config.feed
    batches = {}
    for task in feeds.tasks_with_split(config, split):
        feed = feeds.make_feed(
            dataclasses.replace(config, mixture_or_task_name=task),
            run.config.model.architecture,
            split=split,
            repeat=False,
            host_index=run.partitioner.row_share.index,
            host_count=run.partitioner.row_share.count,
        )
        batches[task] = list(itertools.islice(feed, max_batches))
    return batches
