"""The sources of definitions as SeqIO data sources that give texts, and whose place in the stream tf.data can save."""

from __future__ import annotations

import dataclasses
import itertools
import json
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import seqio
import tensorflow as tf

from t5x_mini.tasks import sources, text_to_text, tfds_source
from t5x_mini.tasks.definitions import PretrainingTask, Row, TextToTextTask
from t5x_mini.tasks.sources import Shard, Skipped

# Shards that are read at the same time when shuffling; SeqIO's number for files.
_SHARDS_AT_ONCE = 16
_ROWS_PER_BLOCK = 128

Task = PretrainingTask | TextToTextTask


def source_of(definition: Task) -> seqio.DataSource:
    """A SeqIO source of `{'text': text}` for pretraining, or `{'inputs': text, 'targets': text, 'row': JSON}`.

    Nothing is read, and no split is asked for, before a dataset is.
    """
    return TfdsSource(definition) if definition.tfds is not None else RowsSource(definition)


def texts(definition: Task, row: Row) -> tuple[str, ...] | None:
    """The strings of `source_of`'s features in their order; None for a row that is left out."""
    if isinstance(definition, PretrainingTask):
        return (row[definition.field],)
    written = text_to_text.write_row(definition, row)
    # Parquet has dates, decimals and bytes, which JSON has not; nothing scores by them.
    return written and (written["inputs"], written["targets"], json.dumps(row, ensure_ascii=False, default=str))


def features(definition: Task) -> tuple[str, ...]:
    """Names of `source_of`'s features."""
    return ("text",) if isinstance(definition, PretrainingTask) else ("inputs", "targets", "row")


class RowsSource(seqio.DataSource):
    """Files and Hugging Face datasets: what `sources.read` reads, in blocks of rows that each have a number.

    A block is a function of its number, so that tf.data can save the place in any file, compressed ones included.
    """

    def __init__(self, definition: Task):
        super().__init__(splits=())
        self._definition = definition

    @property
    def splits(self) -> Sequence[str]:
        return sources.splits(self._definition)

    @property
    def supports_arbitrary_sharding(self) -> bool:
        return False

    def shards(self, split: str) -> tuple[Shard, ...]:
        """Raises UserError where there is nothing to read."""
        return sources.shards(self._definition, split)

    def list_shards(self, split: str) -> Sequence[str]:
        return [shard.name for shard in self.shards(split)]

    def get_dataset(
        self,
        split: str = "train",
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        **_: object,
    ) -> tf.data.Dataset:
        shards = self.shards(split)
        reader = _Reader(self._definition, shards)
        order = tf.data.Dataset.range(len(shards))
        if shard_info:
            order = order.shard(shard_info.num_shards, shard_info.index)
        if shuffle:
            order = order.shuffle(len(shards), seed=seed)
        return order.interleave(reader.blocks, cycle_length=_SHARDS_AT_ONCE if shuffle else 1, block_length=1).unbatch()


class TfdsSource(seqio.TfdsDataSource):
    """TensorFlow Datasets, through SeqIO."""

    def __init__(self, definition: Task):
        super().__init__(tfds_name=definition.tfds, splits=dict(definition.splits) if definition.splits else None)
        self._definition = definition

    def get_dataset(self, *args: object, **kwargs: object) -> tf.data.Dataset:
        tfds_source.prepared(self._definition)  # its errors are for people
        dataset = super().get_dataset(*args, **kwargs)
        spec, names = dataset.element_spec, features(self._definition)
        report = _Report(self._definition.name)

        def write(*values: np.ndarray) -> tuple[bytes, ...]:
            row = tfds_source.plain(tf.nest.pack_sequence_as(spec, values))
            rows = list(report.written(self._definition, [row], Skipped()))
            return tuple(np.array([strings[i] for strings in rows], dtype=object) for i in range(len(names)))

        def rows(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            strings = tf.numpy_function(write, tf.nest.flatten(example), [tf.string] * len(names), stateful=False)
            return {name: tf.ensure_shape(values, [None]) for name, values in zip(names, strings, strict=True)}

        if isinstance(self._definition, PretrainingTask) and spec.get(self._definition.field) == _STRING:
            return dataset.map(lambda example: {"text": example[self._definition.field]}, tf.data.AUTOTUNE)
        return dataset.map(rows, num_parallel_calls=tf.data.AUTOTUNE).unbatch()


_STRING = tf.TensorSpec([], tf.string)


class _Reader:
    """Blocks of rows by (shard, number). Open files are remembered, so that blocks asked for in turn are read once."""

    def __init__(self, definition: Task, shards: Sequence[Shard]):
        self._definition = definition
        self._shards = shards
        self._names = features(definition)
        self._cursors: dict[int, _Cursor] = {}
        self._lock = threading.Lock()
        # A shard is read in every epoch; what it leaves out is counted in the first.
        self._first_report, self._later_report = _Report(definition.name), _Report(definition.name, silent=True)
        self._begun: set[int] = set()

    def blocks(self, shard: tf.Tensor) -> tf.data.Dataset:
        """The blocks of a shard, `{feature: string[rows]}`."""

        def block(number: tf.Tensor) -> dict[str, tf.Tensor]:
            types = [tf.string] * len(self._names)
            strings = tf.numpy_function(self._block, [shard, number], types, stateful=False)
            return {name: tf.ensure_shape(values, [None]) for name, values in zip(self._names, strings, strict=True)}

        numbers = tf.data.Dataset.range(np.iinfo(np.int64).max)
        return numbers.map(block).take_while(lambda rows: tf.size(rows[self._names[0]]) > 0)

    def _block(self, shard: int, number: int) -> tuple[np.ndarray, ...]:
        shard, number = int(shard), int(number)
        with self._lock:
            cursor = self._cursors.pop(shard, None)
        if cursor is None or cursor.number > number:
            cursor = _Cursor(self._written(shard))
        rows = cursor.block(number)
        if rows:
            with self._lock:
                self._cursors[shard] = cursor
        return tuple(np.array([strings[i] for strings in rows], dtype=object) for i in range(len(self._names)))

    def _written(self, number: int) -> Iterator[tuple[str, ...]]:
        report = self._later_report if number in self._begun else self._first_report
        self._begun.add(number)
        shard, skipped = self._shards[number], Skipped()
        return report.written(self._definition, sources.read(self._definition, shard, skipped), skipped, shard.name)


@dataclasses.dataclass
class _Cursor:
    """Where the reading of a shard stands: block `number` is the next."""

    rows: Iterator[tuple[str, ...]]
    number: int = 0

    def block(self, number: int) -> list[tuple[str, ...]]:
        for _ in range((number - self.number) * _ROWS_PER_BLOCK):
            next(self.rows, None)
        self.number = number + 1
        return list(itertools.islice(self.rows, _ROWS_PER_BLOCK))


class _Report:
    """Warns of rows that are left out: the 1st, the 10th, the 100th, … for each reason, with the first one's place."""

    def __init__(self, name: str, silent: bool = False):
        self._name = name
        self._silent = silent
        self._all = Skipped()
        self._lock = threading.Lock()

    def written(
        self, definition: Task, rows: Iterator[Row], skipped: Skipped, place: str = ""
    ) -> Iterator[tuple[str, ...]]:
        """The texts of rows, while what is left out, by `skipped` and by the definition, is reported."""
        for row in rows:
            self._add(skipped)
            strings = texts(definition, row)
            if strings is None:
                skipped.add("left out by the task", place)
            else:
                yield strings
        self._add(skipped)

    def _add(self, skipped: Skipped) -> None:
        if not skipped:
            return
        with self._lock:
            for reason, count in skipped.counts.items():
                before = self._all.counts.get(reason, 0)
                self._all.merge(Skipped({reason: count}, {reason: skipped.first[reason]}))
                if not self._silent and (len(str(before + count)) > len(str(before)) or before == 0):
                    words = f"{self._name}: {reason}: {before + count} so far, first at {self._all.first[reason]}."
                    warnings.warn(words, stacklevel=2)
        skipped.counts.clear()
        skipped.first.clear()
