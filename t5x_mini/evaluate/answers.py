"""What a model answers to a text-to-text task, scored by the task's metrics.

Rows are read from the task's source and written out here, in their order: metrics such as SQuAD's need the row that an
answer belongs to, which no feed keeps.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import jax

from t5x_mini.errors import UserError
from t5x_mini.evaluate import metrics, postprocessors
from t5x_mini.evaluate.predictor import EOS_ID, Predictor
from t5x_mini.feed import feeds
from t5x_mini.feed.config import FeedConfig
from t5x_mini.model.config import DecodingConfig
from t5x_mini.tasks import registry, sources
from t5x_mini.tasks.definitions import Row, TextToTextTask
from t5x_mini.tasks.text_to_text import write_row
from t5x_mini.tasks.vocabularies import Vocabulary
from t5x_mini.train.run import Run

Ids = Sequence[int]
Decode = Callable[[Sequence[Ids]], Sequence[Ids]]
"""From the ids of all inputs to those of what a model writes for each."""


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
    """Greedy decoding with these parameters, as long as the run's targets."""
    lengths = run.config.feed.task_feature_lengths
    predictor = Predictor(params, run.config.model, None, run.partitioner, feature_lengths=lengths)

    def decode(inputs: Sequence[Ids]) -> list[Ids]:
        found = predictor.generate_ids(inputs, DecodingConfig(), batch_size=run.eval_rows)
        return [answer.ids[0] for answer in found]

    return decode


def score(
    run: Run, decode: Decode, task: TextToTextTask, split: str, max_batches: int | None = None
) -> dict[str, float]:
    """The task's metrics of the answers to the first `max_batches` batches of rows (None: all).

    Raises:
      UserError: the split has no rows, or no labels.
    """
    feed, skipped = run.config.feed, sources.Skipped()
    rows = read(task, split, None if max_batches is None else max_batches * run.eval_rows, skipped)
    scores = measure(task, answer(decode, rows, feeds.vocabulary(feed), feed), split)
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
) -> list[tuple[Row, str, str]]:
    """(row, target, what the model writes) for each row, both as text. `feed` says where inputs are cut.

    All rows are decoded at once, so that those of similar length can share a batch.
    """
    rows, limit = list(rows), feed.task_feature_lengths.get("inputs")
    # Without inputs it is a language model, which writes its answers from nothing.
    inputs = [[*vocabulary.encode(texts["inputs"]), EOS_ID] if limit else [] for _, texts in rows]
    written = decode([cut(ids, limit) for ids in inputs])
    return [(row, texts["targets"], vocabulary.decode(ids)) for (row, texts), ids in zip(rows, written, strict=True)]


def cut(ids: Ids, limit: int | None) -> list[int]:
    """The first `limit` ids (None: all); what ends in EOS still does, as in the feeds."""
    if limit is None or len(ids) <= limit:
        return list(ids)
    return [*ids[: limit - 1], EOS_ID] if ids[-1] == EOS_ID else list(ids[:limit])


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
