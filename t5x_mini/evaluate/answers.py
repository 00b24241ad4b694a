"""What a model answers to a text-to-text task, scored by the task's metrics.

Rows are read from the task's source and written out here, in their order: metrics such as SQuAD's need the row that an
answer belongs to, which no feed keeps.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping

import jax
import numpy as np

from t5x_mini.errors import UserError
from t5x_mini.evaluate import metrics, postprocessors
from t5x_mini.feed import feeds
from t5x_mini.feed.config import FeedConfig
from t5x_mini.feed.convert import convert
from t5x_mini.model import decoding
from t5x_mini.tasks import registry, sources
from t5x_mini.tasks.definitions import Row, TextToTextTask
from t5x_mini.tasks.text_to_text import write_row
from t5x_mini.tasks.vocabularies import Vocabulary
from t5x_mini.train.run import Run

Decode = Callable[[Mapping[str, np.ndarray]], np.ndarray]
"""From the features of a batch to the tokens that a model writes for each row, `decoding.greedy` of a model."""


def scored_tasks(names: Iterable[str], feed: FeedConfig) -> list[TextToTextTask]:
    """Those of the tasks that have metrics. One registered in Python with SeqIO is never among them.

    Raises:
      UserError: a task names a metric or a postprocessor that does not exist.
    """
    found = [registry.find(name, feed) for name in names if registry.is_defined(name, feed)]
    tasks = [task for task in found if isinstance(task, TextToTextTask) and task.metrics]
    for task in tasks:
        postprocessors.check_scoring(task)
    return tasks


def greedy_decoder(run: Run, params: Mapping[str, jax.Array]) -> Decode:
    """Greedy decoding with these parameters, compiled at the first batch."""
    decode = jax.jit(functools.partial(decoding.greedy, config=run.config.model))
    return lambda batch: np.asarray(decode(params, dict(batch)))


def score(
    run: Run, decode: Decode, task: TextToTextTask, split: str, max_batches: int | None = None
) -> dict[str, float]:
    """The task's metrics of the answers to the first `max_batches` batches of rows (None: all).

    Raises:
      UserError: the split has no rows, or no labels.
    """
    feed = dataclasses.replace(run.config.feed, batch_size=run.eval_rows)
    skipped = sources.Skipped()
    rows = read(task, split, None if max_batches is None else max_batches * run.eval_rows, skipped)
    scores = measure(task, answer(decode, rows, feeds.vocabulary(feed), feed, run.config.model.architecture), split)
    if skipped:
        print(f"{task.name}, {split}: not scored: {skipped}")
    return scores


def read(
    task: TextToTextTask, split: str, limit: int | None = None, skipped: sources.Skipped | None = None
) -> Iterator[tuple[Row, dict[str, str]]]:
    """Up to `limit` rows of the split, in order, each with its texts; rows that are left out are counted."""
    skipped = sources.Skipped() if skipped is None else skipped

    def written() -> Iterator[tuple[Row, dict[str, str]]]:
        for shard in sources.shards(task, split):
            for row in sources.read(task, shard, skipped):
                texts = write_row(task, row)
                if texts is None:
                    skipped.add("left out by the task", shard.name)
                else:
                    yield row, texts

    return itertools.islice(written(), limit)


def answer(
    decode: Decode,
    rows: Iterable[tuple[Row, Mapping[str, str]]],
    vocabulary: Vocabulary,
    feed: FeedConfig,
    architecture: str,
) -> Iterator[tuple[Row, str, str]]:
    """(row, target, what the model writes) for each row, both as text. `feed` gives the sizes of a batch."""
    rows = iter(rows)
    while batch := list(itertools.islice(rows, feed.batch_size)):
        examples = {
            name: _tokens([texts[name] for _, texts in batch], vocabulary, (feed.batch_size, length))
            for name, length in feed.task_feature_lengths.items()
        }
        written = decode(convert(examples, architecture, feed.task_feature_lengths))
        for (row, texts), ids in zip(batch, written, strict=False):  # the last batch is filled up
            yield row, texts["targets"], vocabulary.decode([int(token) for token in ids if token > 0])


def measure(task: TextToTextTask, answers: Iterable[tuple[Row, str, str]], split: str) -> dict[str, float]:
    """The task's metrics of `answer`'s triples, in per cent.

    Raises:
      UserError: there are none, or no row has a label.
    """
    postprocess = postprocessors.by_name(task.postprocessor)
    pairs = [
        (postprocess(target, row, True, task), postprocess(written, row, False, task))
        for row, target, written in answers
    ]
    if not pairs:
        raise UserError(f"The split {split!r} of {task.name} has no rows to score.")
    targets, predictions = (list(values) for values in zip(*pairs, strict=True))
    if all(target == -1 for target in targets):
        raise UserError(
            f"The rows of {task.name}'s split {split!r} have no labels, so there is nothing to score. "
            "`t5x-mini infer` writes the model's answers."
        )
    return {key: value for name in task.metrics for key, value in metrics.by_name(name)(targets, predictions).items()}


def _tokens(texts: list[str], vocabulary: Vocabulary, shape: tuple[int, int]) -> np.ndarray:
    """Ids with EOS, cut to the width and filled up with 0: what the feeds make of texts."""
    tokens = np.zeros(shape, np.int32)
    for row, text in zip(tokens, texts, strict=False):
        ids = [*vocabulary.encode(text)[: shape[1] - 1], decoding.EOS_ID]
        row[: len(ids)] = ids
    return tokens
