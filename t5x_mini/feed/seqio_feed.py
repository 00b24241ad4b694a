"""Batches from any SeqIO task or mixture, through tf.data: sharded over hosts, and resumable to the batch."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import warnings
from collections.abc import Iterator

import numpy as np

from t5x_mini.errors import UserError
from t5x_mini.feed.batch import check_feature_lengths
from t5x_mini.feed.config import FeedConfig
from t5x_mini.feed.convert import convert
from t5x_mini.feed.position import Position
from t5x_mini.model.config import ARCHITECTURES
from t5x_mini.quiet_tensorflow import hold_back_stderr

with hold_back_stderr():
    import seqio
    import tensorflow as tf

    from t5x_mini.feed.seqio_lookup import (
        Provider,
        load_task,
        model_vocab_size,
        task_vocabulary,
        tasks_with,
        tasks_with_split,
    )
    from t5x_mini.tasks import seqio_sources

__all__ = ["SeqioFeed", "feature_converter", "load_task", "model_vocab_size", "task_vocabulary", "tasks_with_split"]


def feature_converter(provider: Provider, config: FeedConfig, architecture: str) -> seqio.FeatureConverter:
    """SeqIO's converter from the task's features to the architecture's.

    Both decoder-only architectures see inputs ++ targets in one row, so that they differ in the mask alone; a task
    with nothing but targets is plain language modelling there, with the loss on every token.
    Raises UserError if the task lacks a feature or `task_feature_lengths` does not fit.
    """
    if architecture not in ARCHITECTURES:
        raise UserError(f"There is no architecture {architecture!r}; there are {', '.join(ARCHITECTURES)}.")
    if architecture == "encoder_decoder":
        converter = seqio.EncDecFeatureConverter(pack=config.pack)
    elif "inputs" in provider.output_features:
        converter = seqio.PrefixLMFeatureConverter(pack=config.pack, loss_on_targets_only=config.loss_on_targets_only)
    else:
        converter = seqio.LMFeatureConverter(pack=config.pack)
    for feature in converter.TASK_FEATURES:
        if feature not in provider.output_features:
            others = " or ".join(name for name in ARCHITECTURES if name != "encoder_decoder")
            hint = f" A task with targets alone suits ARCHITECTURE {others}." if feature == "inputs" else ""
            raise UserError(
                f"The task {provider.name!r} has no feature {feature!r}, which architecture {architecture!r} needs; "
                f"it has {', '.join(provider.output_features)}.{hint}"
            )
    check_feature_lengths(config.task_feature_lengths, tuple(converter.TASK_FEATURES))
    return converter


class SeqioFeed(Iterator[dict[str, np.ndarray]]):
    """One host's share of a stream of batches: dicts of int32 `[batch_size // host_count, length]`.

    With `repeat` (training) every host reads its own shard of the examples, over and over, shuffled if the
    configuration says so. Without (evaluation) nothing is shuffled, and every host reads the whole split and takes its
    rows of each global batch; a last batch that is not full is filled with rows of zeros, which carry no loss. So
    every example is seen once, and batches are the same for any number of hosts.

    As SeqIO does, examples longer than `task_feature_lengths` are cut.

    Args:
        architecture: decides the features, see `feature_converter`.
        split: the split of the task to read.
        repeat: see above.
        host_index: which share, of `host_count`.
        snapshot_every: batches between copies of tf.data's state (some MB each), best the checkpoint period: a
            position in between is the last copy and a number of batches to read again. None: never, and `restore`
            reads the stream again from its start.

    Raises:
        UserError: for a configuration the task cannot serve, or a split without examples.
    """

    def __init__(
        self,
        config: FeedConfig,
        architecture: str,
        *,
        split: str = "train",
        repeat: bool = True,
        host_index: int = 0,
        host_count: int = 1,
        snapshot_every: int | None = None,
    ) -> None:
        if config.batch_size < 1 or config.batch_size % host_count:
            raise UserError(
                f"BATCH_SIZE is {config.batch_size}; it must be a positive multiple of the {host_count} host(s), "
                "each of which reads an equal share of the rows."
            )
        self._config = config
        self._architecture = architecture
        self._split = split
        self._repeat = repeat
        self._host_index = host_index
        self._host_count = host_count
        self._snapshot_every = snapshot_every
        self._provider = load_task(config)
        self._converter = feature_converter(self._provider, config, architecture)
        self._shuffle = config.shuffle and repeat
        _check_readable(self._provider, config, split, shuffle=self._shuffle)
        self._refuse_empty_split()
        self._fingerprint = {
            "mixture_or_task_name": config.mixture_or_task_name,
            "split": split,
            "source_files": _source_files(self._provider, config, split),
            "task_feature_lengths": dict(config.task_feature_lengths),
            "batch_size": config.batch_size,
            "host_index": host_index,
            "host_count": host_count,
            "feature_converter": type(self._converter).__name__,
            "pack": config.pack,
            "loss_on_targets_only": config.loss_on_targets_only,
            "shuffle": self._shuffle,
            "repeat": repeat,
            "seed": config.seed,
            "use_cached_tasks": config.use_cached_tasks,
            # The layout of tf.data's state is private to its version.
            "tensorflow": tf.__version__,
            "seqio": seqio.__version__,
        }
        self._snapshot = b""
        self._batches_after_snapshot = 0

    def __next__(self) -> dict[str, np.ndarray]:
        with errors_for_people():
            batch = {name: tensor.numpy() for name, tensor in next(self._iterator).items()}
        if not self._config.pack:
            batch = self._converted(batch)
        self._batches_after_snapshot += 1
        if self._snapshot_every is not None and self._batches_after_snapshot >= self._snapshot_every:
            self._take_snapshot()
        return batch if self._repeat else {name: self._own_rows(rows) for name, rows in batch.items()}

    def position(self) -> Position:
        """The place right after the last batch that `next` returned. Costs nothing: call it after every batch."""
        return Position(self._fingerprint, self._snapshot, self._batches_after_snapshot)

    def restore(self, position: Position) -> None:
        """Goes to `position`: the next batch is, bit for bit, the one that followed it.

        Raises UserError if the position belongs to another stream, naming each difference.
        """
        position.check(self._fingerprint)
        # A second iterator over one dataset would shuffle differently; a new dataset starts over.
        self._iterator = iter(self._batches())
        try:
            if position.snapshot:
                _deserialize(self._iterator, position.snapshot)
            for _ in range(position.batches_after_snapshot):
                next(self._iterator)
        except (tf.errors.OpError, StopIteration) as error:
            raise UserError(
                f"The saved data position does not fit the task {self._config.mixture_or_task_name!r} any more "
                f"({error or 'the data ended before it'}): its files or preprocessors have changed. Undo that, or set "
                "a new MODEL_DIR; INITIAL_CHECKPOINT_PATH = the old checkpoint keeps its parameters."
            ) from error
        self._snapshot = position.snapshot
        self._batches_after_snapshot = position.batches_after_snapshot

    @functools.cached_property  # when first read: `restore` would throw away one made earlier
    def _iterator(self) -> tf.data.Iterator:
        return iter(self._batches())

    def _batches(self) -> tf.data.Dataset:
        examples = self._examples(shuffle=self._shuffle, epochs=None if self._repeat else 1)
        size = self._config.batch_size // (self._host_count if self._repeat else 1)
        if self._config.pack:
            batches = self._packed(examples).batch(size, drop_remainder=self._repeat)
        else:
            batches = self._only_features(examples).padded_batch(size, drop_remainder=self._repeat)
        options = tf.data.Options()
        options.deterministic = True  # some sources (TFDS) trade the order for speed
        return batches.with_options(options)

    def _only_features(self, examples: tf.data.Dataset) -> tf.data.Dataset:
        """Without what only people and postprocessors read."""
        names = set(examples.element_spec) & {*self._converter.TASK_FEATURES, "loss_weights"}
        if names == set(examples.element_spec):
            return examples
        return examples.map(lambda example: {name: example[name] for name in names}, tf.data.AUTOTUNE)

    def _packed(self, examples: tf.data.Dataset) -> tf.data.Dataset:
        """Rows of the model's features, each with several examples, by SeqIO's converter."""
        lengths = dict(self._config.task_feature_lengths)
        if "loss_weights" not in examples.element_spec:
            return self._converter(examples, lengths)
        rows = self._converter(examples.map(_mark_tokens_without_loss, tf.data.AUTOTUNE), lengths)
        return rows.map(_marks_to_weights, tf.data.AUTOTUNE)

    def _converted(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """A batch of examples as the model's features: what SeqIO's converter makes one by one, in less time."""
        lengths = self._config.task_feature_lengths
        fitted = {name: _fit(rows, lengths.get(name, lengths["targets"])) for name, rows in batch.items()}
        return convert(fitted, self._architecture, lengths, loss_on_targets_only=self._config.loss_on_targets_only)

    def _examples(self, *, shuffle: bool, epochs: int | None, provider: Provider | None = None) -> tf.data.Dataset:
        """Of the provider, or of one of a mixture's tasks."""
        sharded = self._repeat and self._host_count > 1
        return (provider or self._provider).get_dataset(
            dict(self._config.task_feature_lengths),
            split=self._split,
            use_cached=self._config.use_cached_tasks,
            shuffle=shuffle,
            num_epochs=epochs,
            shard_info=seqio.ShardInfo(self._host_index, self._host_count) if sharded else None,
            seed=self._config.seed,
            trim_output_features=self._config.pack,  # else whole batches are cut, after tf.data
        )

    def _refuse_empty_split(self) -> None:
        """A stream that repeats nothing would wait forever for its first example; so would a mixture with one in it."""
        for task in tasks_with(self._provider, self._split):
            if isinstance(self._provider, seqio.Mixture) and not self._provider.get_rate(task):
                continue
            with errors_for_people():
                first = next(iter(self._examples(shuffle=False, epochs=1, provider=task)), None)
            if first is None:
                share = f" for host {self._host_index} of {self._host_count}" if self._host_count > 1 else ""
                raise UserError(
                    f"The split {self._split!r} of {task.name!r} has no examples{share}: its source is empty or "
                    "smaller than the number of hosts, or its preprocessors drop every example. Look at the task's "
                    "files and filters, or read another split."
                )

    def _own_rows(self, rows: np.ndarray) -> np.ndarray:
        count = self._config.batch_size // self._host_count
        own = rows[self._host_index * count : (self._host_index + 1) * count]
        return np.pad(own, [(0, count - len(own)), (0, 0)])

    def _take_snapshot(self) -> None:
        try:
            self._snapshot = _serialize(self._iterator)
        except tf.errors.FailedPreconditionError as error:
            self._snapshot_every = None
            warnings.warn(
                f"tf.data cannot save where it stands in {self._config.mixture_or_task_name!r}, because a preprocessor "
                f"or source of this task calls Python or draws random numbers of its own ({error.message}). A resumed "
                "run will read the data again from its start, which takes time and is exact only if that code repeats "
                "itself. tf.numpy_function(…, stateful=False), with its seed as an input, can be saved.",
                stacklevel=3,
            )
            return
        self._batches_after_snapshot = 0


# Above every token id.
_MARK = 1 << 24


def _mark_tokens_without_loss(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Writes the loss weights into the tokens: SeqIO's converters move and pack tokens, and know nothing of weights."""
    return {**example, "targets": example["targets"] + (1 - example["loss_weights"]) * _MARK}


def _marks_to_weights(row: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    has_loss = tf.cast(row["decoder_target_tokens"] < _MARK, tf.int32)
    tokens = {name: row[name] % _MARK for name in ("decoder_target_tokens", "decoder_input_tokens")}
    return {**row, **tokens, "decoder_loss_weights": row["decoder_loss_weights"] * has_loss}


def _fit(rows: np.ndarray, length: int) -> np.ndarray:
    rows = rows[:, :length]
    return np.pad(rows, ((0, 0), (0, length - rows.shape[1])))


@contextlib.contextmanager
def errors_for_people() -> Iterator[None]:
    """Takes a UserError that was raised inside tf.data out of TensorFlow's account of it, and turns SeqIO's complaint
    about a feature that the preprocessors don't make, or make of another kind, into one."""
    try:
        yield
    except ValueError as error:
        if not str(error).startswith("Task dataset "):
            raise
        raise UserError(
            f"{error}. The task's preprocessors have to make every feature in its output_features, as declared there."
        ) from error
    except tf.errors.OpError as error:
        found = re.search(r"UserError: (.*?)\s*(?:\nTraceback |$)", error.message, re.DOTALL)
        if found is None:
            raise
        raise UserError(found[1]) from error


def _serialize(iterator: tf.data.Iterator) -> bytes:
    refuse_what_cannot_be_saved = 2  # tf.data's ExternalStatePolicy FAIL; the default leaves it out
    state = tf.raw_ops.SerializeIterator(
        resource_handle=iterator._iterator_resource, external_state_policy=refuse_what_cannot_be_saved
    )
    return tf.io.serialize_tensor(state).numpy()


def _deserialize(iterator: tf.data.Iterator, state: bytes) -> None:
    tf.raw_ops.DeserializeIterator(
        resource_handle=iterator._iterator_resource, serialized=tf.io.parse_tensor(state, tf.variant)
    )


def _check_readable(provider: Provider, config: FeedConfig, split: str, *, shuffle: bool) -> None:
    """Raises UserError for what SeqIO would answer with an assertion or a bare ValueError."""
    if split not in provider.splits:
        raise UserError(
            f"{provider.name!r} has no split {split!r}; it has {', '.join(sorted(provider.splits))}. "
            "A run trains on `train`; `eval` and `infer` take another one."
        )
    for task in tasks_with(provider, split):
        if config.use_cached_tasks and task.supports_caching and not task.cache_dir:
            raise UserError(
                f"USE_CACHED_TASKS is True, but the task {task.name!r} has no cache in any of "
                f"{list(seqio.utils.get_global_cache_dirs())}. Write --gin.USE_CACHED_TASKS=False to prepare the text "
                "while training, or make the cache with seqio_cache_tasks and name the folder that holds it with "
                "--seqio_additional_cache_dirs."
            )
        if task.requires_caching and not config.use_cached_tasks:
            raise UserError(
                f"The task {task.name!r} can only be read from a cache. Make one with seqio_cache_tasks, and write "
                "--gin.USE_CACHED_TASKS=True."
            )
        if shuffle and task.shuffle_buffer_size is None and not task.source.performs_internal_shuffling:
            raise UserError(
                f"The task {task.name!r} forbids shuffling (its shuffle_buffer_size is None). Write "
                "--gin.SHUFFLE_TRAIN_EXAMPLES=False."
            )
        reads_source = not (config.use_cached_tasks and task.supports_caching)
        if reads_source and isinstance(task.source, seqio.FileDataSource) and not task.source.list_shards(split):
            raise UserError(
                f"The task {task.name!r} finds no files for its split {split!r}: {task.source}. Make the files, or "
                "correct the pattern where the task is registered."
            )


def _source_files(provider: Provider, config: FeedConfig, split: str) -> str:
    """A digest of the paths and sizes of the files behind the split; tf.data's state points into them."""
    if config.use_cached_tasks:
        return "cached"
    files = {file for task in tasks_with(provider, split) for file in _files(task.source, split)}
    digest = hashlib.sha256("\n".join(f"{path} {size}" for path, size in sorted(files)).encode())
    return f"{len(files)} files ({digest.hexdigest()[:12]})"


def _files(source: seqio.DataSource, split: str) -> list[tuple[str, str]]:
    """(name, size) of the source's files, or of their parts."""
    if isinstance(source, seqio_sources.RowsSource):
        return [(shard.name, str(shard.size_bytes)) for shard in source.shards(split)]
    if not isinstance(source, seqio.FileDataSource):
        return []
    return [
        (file, str(os.path.getsize(file)) if os.path.exists(file) else "remote") for file in source.list_shards(split)
    ]
