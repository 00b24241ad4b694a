"""Examples of a task at every stage between its source and the model, to be looked at.

The functions that the feeds call are called here on the first rows of a split, unshuffled, one stage after the other.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from t5x_mini.errors import UserError
from t5x_mini.feed.config import FeedConfig
from t5x_mini.feed.convert import convert
from t5x_mini.tasks import registry, sources, vocabularies
from t5x_mini.tasks.definitions import PretrainingTask, TextToTextTask
from t5x_mini.tasks.text_to_text import write_row
from t5x_mini.tasks.vocabularies import EOS_ID

_READ_AT_MOST = 20_000


@dataclasses.dataclass(frozen=True)
class Example:
    """One example on its way.

    Attributes:
        raw: what the source has: a row's fields; of running text, the documents that the window was cut from.
        texts: what is read and written, of a text-to-text task.
        tokens: int[length] by name, before the objective or the end of sequence; none where SeqIO alone knows them.
        features: int32[length] by feature, after the objective: with EOS, not yet cut to the run's lengths (those of a
            task registered with SeqIO are), without padding.
    """

    raw: Mapping[str, str]
    texts: Mapping[str, str]
    tokens: Mapping[str, np.ndarray]
    features: Mapping[str, np.ndarray]


def examples(feed: FeedConfig, split: str, count: int) -> dict[str, list[Example]]:
    """Up to `count` examples of the task, or of each task of the mixture that has the split, by the task's name.

    Raises:
      UserError: there is no such task or split, or nothing in it.
    """
    if not _is_definition(feed):
        return _of_seqio(feed, split, count)
    vocabulary = vocabularies.load(feed.vocabulary, feed.extra_ids)
    tasks = [registry.find(name, feed) for name in registry.components(feed.mixture_or_task_name, feed)]
    chosen = [task for task in tasks if split in sources.splits(task)]
    if not chosen:
        known = sorted({name for task in tasks for name in sources.splits(task)})
        raise UserError(
            f"No task of {feed.mixture_or_task_name!r} has a split {split!r}; there are {', '.join(known)}. "
            f"Write --split={known[0]}."
        )
    return {task.name: _of_definition(task, feed, split, count, vocabulary) for task in chosen}


def model_features(found: Sequence[Example], feed: FeedConfig, architecture: str) -> dict[str, np.ndarray]:
    """What a model of that architecture receives of the examples, one a row: int32 `[examples, length]` by SeqIO's
    names."""
    lengths = feed.task_feature_lengths
    arrays = {}
    for name in found[0].features:
        length = lengths["targets" if name == "loss_weights" else name]
        rows = [_cut(example.features[name], length, has_eos=name != "loss_weights") for example in found]
        arrays[name] = np.stack([np.pad(row, (0, length - len(row))) for row in rows])
    return convert(arrays, architecture, lengths, loss_on_targets_only=feed.loss_on_targets_only)


def _cut(ids: np.ndarray, length: int, *, has_eos: bool) -> np.ndarray:
    """As the feeds do: what is cut still ends in EOS."""
    if len(ids) <= length:
        return ids
    end = ids[-1:] if has_eos and ids[-1] == EOS_ID else ids[length - 1 : length]
    return np.concatenate([ids[: length - 1], end])


def _is_definition(feed: FeedConfig) -> bool:
    return registry.is_defined(feed.mixture_or_task_name, feed)


def _of_definition(task, feed: FeedConfig, split: str, count: int, vocabulary) -> list[Example]:
    skipped = sources.Skipped()
    rows = (row for shard in sources.shards(task, split) for row in sources.read(task, shard, skipped))
    if isinstance(task, PretrainingTask):
        found = _windows(task, rows, feed, count, vocabulary)
    else:
        found = list(itertools.islice(_written(task, rows, vocabulary, skipped), count))
    if not found:
        raise sources.nothing_read(task, split, skipped)
    return found


def _written(task: TextToTextTask, rows: Iterator, vocabulary, skipped: sources.Skipped) -> Iterator[Example]:
    for row in itertools.islice(rows, _READ_AT_MOST):
        texts = write_row(task, row)
        if texts is None:
            skipped.add("left out by the task", task.name)
            continue
        tokens = {name: np.asarray(vocabulary.encode(text), np.int32) for name, text in texts.items()}
        features = {name: np.append(ids, np.int32(EOS_ID)) for name, ids in tokens.items()}
        yield Example({name: str(value) for name, value in row.items()}, texts, tokens, features)


def _windows(task: PretrainingTask, rows: Iterator, feed: FeedConfig, count: int, vocabulary) -> list[Example]:
    """Running text, cut into windows that the objective makes examples of; a shorter one where there is less text."""
    window = task.objective.window(feed.task_feature_lengths, vocabulary)
    texts, documents, total = [], [], 0
    for row in rows:
        ids = [i for i in vocabulary.encode(row[task.field]) if i] + [EOS_ID] * task.eos_between_documents
        texts.append(row[task.field])
        documents.append(np.asarray(ids, np.int32))
        total += len(ids)
        if total >= window * count:
            break
    if total < 2:
        return []
    length = min(window, total)
    tokens = np.concatenate(documents)[: total - total % length].reshape(-1, length)[:count]
    made = task.objective(tokens, np.random.default_rng(feed.seed), vocabulary)
    ends = np.cumsum([len(ids) for ids in documents])
    first = np.searchsorted(ends, np.arange(len(tokens)) * length, side="right")
    last = np.searchsorted(ends, np.arange(1, len(tokens) + 1) * length - 1, side="right")
    return [
        Example(
            {f"document {i + 1}": texts[i] for i in range(first[n], last[n] + 1)},
            {},
            {"text": tokens[n]},
            _without_padding({name: rows[n] for name, rows in made.items()}),
        )
        for n in range(len(tokens))
    ]


def _without_padding(row: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    ends = {name: np.max(np.flatnonzero(ids), initial=-1) + 1 for name, ids in row.items()}
    if "loss_weights" in row:
        ends["loss_weights"] = ends["targets"]
    return {name: ids[: ends[name]] for name, ids in row.items()}


def _of_seqio(feed: FeedConfig, split: str, count: int) -> dict[str, list[Example]]:
    from t5x_mini.feed import seqio_lookup
    from t5x_mini.feed.seqio_feed import errors_for_people

    provider = seqio_lookup.load_task(feed)
    tasks = seqio_lookup.tasks_with(provider, split)
    if not tasks:
        raise UserError(
            f"{provider.name!r} has no split {split!r}; it has {', '.join(sorted(provider.splits))}. "
            f"Write --split={sorted(provider.splits)[0]}."
        )
    with errors_for_people():
        return {task.name: _of_seqio_task(task, feed, split, count) for task in tasks}


def _of_seqio_task(task, feed: FeedConfig, split: str, count: int) -> list[Example]:
    rows = task.source.get_dataset(split, shuffle=False).take(count).as_numpy_iterator()
    dataset = task.get_dataset(
        dict(feed.task_feature_lengths),
        split=split,
        use_cached=feed.use_cached_tasks,
        shuffle=False,
        num_epochs=1,
        seed=feed.seed,
    )
    found = []
    for row, example in itertools.zip_longest(rows, dataset.take(count).as_numpy_iterator()):
        if example is None:
            break
        row = row if isinstance(row, dict) else {} if row is None else {"row": row}
        names = [name for name in (*task.output_features, "loss_weights") if name in example]
        written = {name: _text(example[f"{name}_pretokenized"]) for name in names if f"{name}_pretokenized" in example}
        features = {name: np.asarray(example[name]) for name in names}
        found.append(Example({name: _text(value) for name, value in row.items()}, written, {}, features))
    if not found:
        raise UserError(
            f"The split {split!r} of {task.name!r} has no examples: its source is empty, or its preprocessors drop "
            "every example."
        )
    return found


def _text(value) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
