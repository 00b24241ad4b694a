"""Batches from tokens on disk: batch k is a function of (seed, k), whatever the number of hosts and restarts.

Rows are numbered over the whole run: row i of batch k is row `k * batch_size + i`. From there on all is arithmetic:
the row's task in the mixture (`row_plan.py`), its place in the task's shuffled order (`shuffle.py`), the window or the
example there (`token_sources.py`). So a host makes its own rows and no others, a run goes on at any batch at no cost,
and no example is seen twice in an epoch of its task, or missed.

An objective works on many rows at a time and draws random numbers for all of them. So that these do not depend on the
hosts either, a batch is cut into lanes of `LANE` rows, each with a generator keyed by (seed, k, lane, task). A host
makes the lanes that its rows lie in, at most `2 * (LANE - 1)` rows too many: some milliseconds a batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from t5x_mini.errors import UserError
from t5x_mini.feed import shuffle
from t5x_mini.feed.batch import check_feature_lengths
from t5x_mini.feed.config import FeedConfig
from t5x_mini.feed.convert import convert
from t5x_mini.feed.position import Position
from t5x_mini.feed.row_plan import InTurn, Mixed
from t5x_mini.feed.token_sources import Arrays, Reader, TokenTask, make_source
from t5x_mini.model.config import ARCHITECTURES

LANE = 128


class TokenFeed(Iterator[Arrays]):
    """One host's share of a stream of batches: dicts of int32 `[batch_size // host_count, length]`.

    With `repeat` (training) every task is read epoch by epoch, each epoch in an order of its own if the configuration
    says so, and a mixture's tasks take turns by their rates. Without (evaluation) the tasks are read one after another,
    by name, in order and once; a last batch that is not full is filled with rows of zeros, which carry no loss.

    Args:
        config: `seed`, `batch_size`, `task_feature_lengths`, `pack`, `shuffle`, `loss_on_targets_only` are used.
        architecture: decides the features, see `feed/batch.py::feature_shapes`.
        tasks: what is mixed; one or more.
        split: for the position's fingerprint.
        repeat: see above.
        host_index: which share, of `host_count`.

    Raises:
        UserError: for a configuration the tasks cannot serve.
    """

    def __init__(
        self,
        config: FeedConfig,
        architecture: str,
        tasks: Sequence[TokenTask],
        *,
        split: str = "train",
        repeat: bool = True,
        host_index: int = 0,
        host_count: int = 1,
    ) -> None:
        if config.batch_size < 1 or config.batch_size % host_count:
            raise UserError(
                f"BATCH_SIZE is {config.batch_size}; it must be a positive multiple of the {host_count} host(s), "
                "each of which makes an equal share of the rows."
            )
        if architecture not in ARCHITECTURES:
            raise UserError(f"There is no architecture {architecture!r}; there are {', '.join(ARCHITECTURES)}.")
        # The order must not matter, as a run may be resumed with its mixture written in another one.
        tasks = sorted(tasks, key=lambda task: task.name)
        self._config, self._architecture, self._tasks = config, architecture, tasks
        self._own_rows = config.batch_size // host_count
        self._first_row = host_index * self._own_rows
        self._repeat = repeat
        self._next = 0
        sources = [make_source(task, config.task_feature_lengths) for task in tasks]
        features = _common_features(config, architecture, tasks, sources)
        self._widths = {name: config.task_feature_lengths[name] for name in features}
        if any("loss_weights" in source.features for source in sources):
            self._widths["loss_weights"] = self._widths["targets"]
        # Packed rows hold examples of one task, as many as its objective says; unpacked ones hold one.
        self._per_row = _examples_per_row(tasks, sources) if config.pack else [1] * len(tasks)
        self._slots = max(self._per_row)
        seed = config.seed if config.shuffle and repeat else None
        self._readers = [Reader(source, task.name, seed, repeat) for task, source in zip(tasks, sources, strict=True)]
        if repeat:
            self._plan = Mixed({task.name: task.rate for task in tasks}, config.seed)
            self._batches = None
        else:
            rows = [-(-source.count // per_row) for source, per_row in zip(sources, self._per_row, strict=True)]
            self._plan = InTurn(rows)
            self._batches = -(-sum(rows) // config.batch_size)
        self._fingerprint = {
            "data_feed": "tokens",
            "mixture_or_task_name": config.mixture_or_task_name,
            "split": split,
            **{f"tokens of {task.name}": _digest(task) for task in tasks},
            **{f"objective of {task.name}": repr(task.objective) for task in tasks},
            **{f"rate of {task.name}": task.rate for task in tasks},
            "task_feature_lengths": dict(config.task_feature_lengths),
            "batch_size": config.batch_size,
            "architecture": architecture,
            "pack": config.pack,
            "loss_on_targets_only": config.loss_on_targets_only,
            "shuffle": seed is not None,
            "repeat": repeat,
            "seed": config.seed,
            "random_numbers": shuffle.fingerprint(),
        }

    def __next__(self) -> Arrays:
        if self._next == self._batches:
            raise StopIteration
        batch = self.batch(self._next)
        self._next += 1
        return batch

    def batch(self, k: int) -> Arrays:
        """This host's rows of batch `k`, whichever was read before. Rows behind the end of the split are zeros."""
        stop = self._first_row + self._own_rows
        lanes = range(self._first_row // LANE, -(-stop // LANE))
        parts = [self._lane(k, lane) for lane in lanes]
        own = slice(self._first_row - lanes.start * LANE, stop - lanes.start * LANE)
        examples = {name: np.concatenate([part[name] for part in parts])[own] for name in parts[0]}
        features = convert(
            {name: values.reshape(-1, values.shape[-1]) for name, values in examples.items()},
            self._architecture,
            self._config.task_feature_lengths,
            examples_per_row=self._slots if self._config.pack else None,
            loss_on_targets_only=self._config.loss_on_targets_only,
        )
        return {name: _filled(rows, self._own_rows - len(rows)) for name, rows in features.items()}

    def examples_of(self, k: int) -> list[tuple[str, np.ndarray]]:
        """What batch `k` is made of, over all hosts: (task, the numbers of its windows or examples in the split)."""
        first = k * self._config.batch_size
        return [
            (self._tasks[number].name, self._readers[number].shuffle.items(positions))
            for number, positions, _ in self._examples(first, first + self._config.batch_size)
        ]

    def describe(self) -> list[str]:
        """A line a task: how much it has, and what is left over."""
        return [reader.source.describe() for reader in self._readers]

    def position(self) -> Position:
        """The place right after the last batch that `next` returned: for any number of hosts."""
        return Position(self._fingerprint, b"", self._next)

    def restore(self, position: Position) -> None:
        """Goes to `position`: the next batch is, bit for bit, the one that followed it.

        Raises UserError if the position belongs to another stream, naming each difference.
        """
        position.check(self._fingerprint)
        self._next = position.batches_after_snapshot

    def _lane(self, k: int, lane: int) -> Arrays:
        """The examples of one lane of batch `k`: int32 `[rows, slots, length]`; no rows behind the end of the split."""
        rows = self._config.batch_size
        start, stop = k * rows + lane * LANE, k * rows + min((lane + 1) * LANE, rows)
        lane_examples = {
            name: np.zeros(((stop - start) * self._slots, width), np.int32) for name, width in self._widths.items()
        }
        last = 0
        for number, positions, places in self._examples(start, stop):
            rng = shuffle.generator(self._config.seed, "objective", k, lane, self._tasks[number].name)
            examples = self._readers[number].examples(positions, rng)
            if "loss_weights" in self._widths:
                examples.setdefault("loss_weights", examples["targets"] != 0)
            for name, values in examples.items():
                lane_examples[name][places, : values.shape[1]] = values
            last = max(last, places[-1] // self._slots + 1)
        return {name: values.reshape(-1, self._slots, values.shape[1])[:last] for name, values in lane_examples.items()}

    def _examples(self, start: int, stop: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """What is in these rows: (number of the task, positions in its order, places among all slots of the rows)."""
        tasks, task_rows = self._plan(np.arange(start, stop))
        for number, per_row in enumerate(self._per_row):
            here = np.flatnonzero(tasks == number)[:, None]
            slots = np.arange(per_row)
            positions = (task_rows[here] * len(slots) + slots).ravel()
            places = (here * self._slots + slots).ravel()
            if not self._repeat:
                count = np.searchsorted(positions, self._readers[number].source.count)
                positions, places = positions[:count], places[:count]
            if len(positions):
                yield number, positions, places


def _common_features(config: FeedConfig, architecture: str, tasks: Sequence[TokenTask], sources) -> tuple[str, ...]:
    """The features that all the tasks have. Raises UserError where they differ, or don't suit the architecture."""
    features = {
        task.name: tuple(name for name in source.features if name != "loss_weights")
        for task, source in zip(tasks, sources, strict=True)
    }
    first = next(iter(features))
    for name, found in features.items():
        if set(found) != set(features[first]):
            raise UserError(
                f"The task {first!r} has the features {', '.join(features[first])}, and {name!r} in the same mixture "
                f"has {', '.join(found)}. Tasks of one mixture must have the same; choose other objectives."
            )
    if architecture == "encoder_decoder" and "inputs" not in features[first]:
        others = " or ".join(name for name in ARCHITECTURES if name != "encoder_decoder")
        raise UserError(
            f"The task {first!r} has no feature 'inputs', which architecture {architecture!r} needs; it has "
            f"{', '.join(features[first])}. A task with targets alone suits ARCHITECTURE {others}."
        )
    check_feature_lengths(config.task_feature_lengths, features[first])
    return features[first]


def _examples_per_row(tasks: Sequence[TokenTask], sources) -> list[int]:
    for task, source in zip(tasks, sources, strict=True):
        if source.examples_per_row is None:
            raise UserError(
                f"PACK is True, but the token feed does not pack examples of unequal lengths, as {task.name!r} has: "
                "which row one falls into would depend on all before it. Write --gin.PACK=False, or "
                "--gin.DATA_FEED=seqio, which packs."
            )
    return [source.examples_per_row for source in sources]


def _digest(task: TokenTask) -> str:
    manifest = task.store.manifest
    digest = hashlib.sha256(manifest.to_json().encode()).hexdigest()[:12]
    return f"{manifest.num_tokens:,} tokens, {manifest.num_documents:,} documents ({digest})"


def _filled(rows: np.ndarray, missing: int) -> np.ndarray:
    return np.pad(rows, [(0, missing), (0, 0)]) if missing else rows
