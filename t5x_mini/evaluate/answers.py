"""What a model answers to a text-to-text task, scored by the task's metrics.

A task with labels is answered by the label that is likeliest: the sum of its tokens' log-probabilities given the input,
EOS included. FLAN and T0 call that rank classification, and their evaluation in T5X does the same. Others, and all
where RANK_CLASSIFICATION is False, are decoded, as the run's DecodingConfig says: greedily by default.

Rows are read from the task's source and written out here, in their order: metrics such as SQuAD's need the row that an
answer belongs to, which no feed keeps.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

import jax
import numpy as np

from t5x_mini.errors import UserError
from t5x_mini.evaluate import metrics, postprocessors
from t5x_mini.evaluate.id_predictor import IdPredictor
from t5x_mini.evaluate.row_batches import Ids, cut
from t5x_mini.feed import feeds
from t5x_mini.feed.config import FeedConfig
from t5x_mini.tasks import registry, sources
from t5x_mini.tasks.definitions import Row, TextToTextTask
from t5x_mini.tasks.text_to_text import write_row
from t5x_mini.tasks.vocabularies import EOS_ID, Vocabulary
from t5x_mini.train.run import Run


@dataclasses.dataclass(frozen=True)
class Question:
    """What a model is asked.

    Attributes:
        task: that the row is of.
        row: as the source has it.
        inputs: text that the model reads.
        target: text that it should write.
        ids: of the inputs, as the model takes them.
    """

    task: TextToTextTask
    row: Row
    inputs: str
    target: str
    ids: Ids


@dataclasses.dataclass(frozen=True)
class Answered:
    """One row of a task with a model's answer.

    Attributes:
        row: as the source has it.
        inputs: text that the model read.
        target: text that it should have written.
        prediction: what it wrote, or the likeliest label.
        scores: the log-probability of each label, in nats; None where the answer was decoded.
    """

    row: Row
    inputs: str
    target: str
    prediction: str
    scores: Mapping[str, float] | None = None


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


def make_predictor(run: Run, params: Mapping[str, jax.Array] | None = None) -> IdPredictor:
    """For the run's tasks: answers are as long as its targets at most. Without `params`, they are set later."""
    return IdPredictor(params, run.config.model, run.partitioner, feature_lengths=run.config.feed.task_feature_lengths)


def answer_split(
    run: Run, predictor: IdPredictor, task: TextToTextTask, split: str, limit: int | None = None
) -> list[Answered]:
    """The answers to the first `limit` rows of a split (None: all), which need no labels. All hosts call it.

    Raises:
      UserError: there is no such split.
    """
    return answer(run, predictor, ask(run, task, split, limit), progress=f"{task.name}, {split}")


def ask(
    run: Run, task: TextToTextTask, split: str, limit: int | None = None, skipped: sources.Skipped | None = None
) -> list[Question]:
    """The first `limit` rows of a split as the model takes them: tokenised, and cut where the feeds cut them."""
    vocabulary, length = feeds.vocabulary(run.config.feed), run.config.feed.task_feature_lengths.get("inputs")

    def ids(text: str) -> Ids:
        # Without inputs it is a language model, which writes its answers from nothing.
        return cut([*vocabulary.encode(text), EOS_ID], length) if length else []

    return [
        Question(task, row, texts["inputs"], texts["targets"], ids(texts["inputs"]))
        for row, texts in read(task, split, limit, skipped)
    ]


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
    run: Run, predictor: IdPredictor, questions: Sequence[Question], progress: str = "answers"
) -> list[Answered]:
    """An answer to each question, in their order. They may be of several tasks, and are then answered together: rows of
    similar length share a batch, and the fewest programs are compiled."""
    vocabulary = feeds.vocabulary(run.config.feed)
    ranked = run.config.evaluate.rank_classification
    places = {True: [], False: []}
    for place, question in enumerate(questions):
        places[ranked and has_labels(question.task)].append(place)
    found: dict[int, Answered] = {}
    for is_ranked, rows in places.items():
        chosen = [questions[row] for row in rows]
        how = _rank if is_ranked else _decode
        if chosen:
            found.update(zip(rows, how(run, predictor, chosen, vocabulary, progress), strict=True))
    return [found[place] for place in range(len(questions))]


def has_labels(task: TextToTextTask) -> bool:
    """Whether the task's answers are one of a few texts."""
    return task.postprocessor == "label" and bool(task.labels)


def _rank(
    run: Run, predictor: IdPredictor, questions: Sequence[Question], vocabulary: Vocabulary, progress: str
) -> Iterator[Answered]:
    labels = {label for question in questions for label in question.task.labels}
    ids = {label: [*vocabulary.encode(label), EOS_ID] for label in labels}
    found = predictor.score_choices(
        [question.ids for question in questions],
        [[ids[label] for label in question.task.labels] for question in questions],
        batch_size=batch_size(run, max(len(question.ids) for question in questions)),
        progress=progress,
    )
    for question, scores in zip(questions, found, strict=True):
        labels = question.task.labels
        prediction = labels[int(np.argmax(scores))]
        yield Answered(
            question.row, question.inputs, question.target, prediction, dict(zip(labels, scores, strict=True))
        )


def _decode(
    run: Run, predictor: IdPredictor, questions: Sequence[Question], vocabulary: Vocabulary, progress: str
) -> Iterator[Answered]:
    size = batch_size(run, max(len(question.ids) for question in questions))
    ids = [question.ids for question in questions]
    found = predictor.generate_ids(ids, run.config.decoding, batch_size=size, progress=progress)
    for question, written in zip(questions, found, strict=True):
        yield Answered(question.row, question.inputs, question.target, vocabulary.decode(written.ids[0]))


def batch_size(run: Run, longest: int) -> int:
    """Rows of a batch: as many tokens as a microbatch of training has, in rows that are `longest` at most."""
    length = run.config.feed.task_feature_lengths.get("inputs", 0)
    rows = run.eval_rows * length // max(longest, 1)
    return max(run.eval_rows, 1 << rows.bit_length() >> 1)


def targets_of(task: TextToTextTask, questions: Sequence[Question] | Sequence[Answered]) -> list:
    """What the task's metrics take as targets; all -1 where the split has no labels."""
    postprocess = postprocessors.by_name(task.postprocessor)
    return [postprocess(question.target, question.row, True, task) for question in questions]


def predictions_of(task: TextToTextTask, answered: Sequence[Answered]) -> list:
    """What the task's metrics take as predictions."""
    postprocess = postprocessors.by_name(task.postprocessor)
    return [postprocess(one.prediction, one.row, False, task) for one in answered]


def check_labels(task: TextToTextTask, questions: Sequence[Question] | Sequence[Answered], split: str) -> None:
    """Raises UserError unless there are rows to score, with labels."""
    if not questions:
        raise UserError(f"The split {split!r} of {task.name} has no rows to score.")
    if all(isinstance(target, int | float) and target == -1 for target in targets_of(task, questions)):
        raise UserError(
            f"The rows of {task.name}'s split {split!r} have no labels, so there is nothing to score. "
            "`t5x-mini infer` writes the model's answers."
        )


def measure(task: TextToTextTask, answered: Sequence[Answered], split: str) -> dict[str, float]:
    """The task's metrics of the answers, in per cent.

    Raises:
      UserError: there are none, or no row has a label.
    """
    check_labels(task, answered, split)
    targets, predictions = targets_of(task, answered), predictions_of(task, answered)
    return {key: value for name in task.metrics for key, value in metrics.by_name(name)(targets, predictions).items()}


def correct(task: TextToTextTask, answered: Sequence[Answered]) -> list[bool] | None:
    """Whether each answer is right; None where answers are more or less so, as translations are."""
    if not has_labels(task) and not {"accuracy", "exact_match"} & set(task.metrics):
        return None
    return [a == b for a, b in zip(targets_of(task, answered), predictions_of(task, answered), strict=True)]
