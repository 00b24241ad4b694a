"""Measures a model on a split again and again: the loss on its text, and the metrics of the answers.

What is read is read once, and what is compiled is compiled once: parameters are arguments. Used while training, by
`t5x-mini eval` and by `t5x-mini glue`.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from t5x_mini.errors import UserError
from t5x_mini.evaluate import answers, inference_files
from t5x_mini.evaluate.answers import Answered, Question
from t5x_mini.evaluate.held_out import HeldOut
from t5x_mini.evaluate.results import Results
from t5x_mini.parallel import hosts
from t5x_mini.storage_errors import in_words
from t5x_mini.tasks import registry, sources
from t5x_mini.tasks.definitions import TextToTextTask
from t5x_mini.train.run import Run

_Scored = Iterator[tuple[str, dict[str, float], Iterable[Mapping[str, Any]]]]
"""Tasks with their metrics, and a line for each answer."""


EXAMPLES = 8  # of each task


class Evaluator:
    """The rows of every task that has the split: all tasks of a mixture, those included that are not trained on.

    EVAL_STEPS limits the batches of text that the loss is taken of, and EVAL_LIMIT the rows that are answered.

    Attributes:
        split: that is read.
        held_out: the text that the loss is taken of; without batches where no task has the split.
        unscored: why a task with metrics is not scored, by its name.
        examples: of the last measurement, a few lines of each scored task, as they stand in its file of answers.
    """

    def __init__(
        self,
        run: Run,
        split: str | None = None,
        *,
        folder: Path | None,
        goes_on: bool = False,
        between_batches: Callable[[], None] = lambda: None,
    ):
        """Reads and tokenises the rows. All hosts read all rows that are answered.

        Args:
            run: the model and the tasks.
            split: None: the configuration's, EvaluateConfig.split.
            folder: where `inference_eval` is written, with the metrics and the answers; None: nowhere.
            goes_on: whether a file that can't be written is only a warning: a run has the metrics in another place too.
            between_batches: called before each batch of a measurement, which it can end with an exception.

        Raises:
            UserError: a task names a metric or a postprocessor that does not exist; rows cannot be read.
        """
        config = run.config
        self.split = split or config.evaluate.split
        self.held_out = HeldOut(run, self.split, config.train.eval_steps)
        self.unscored: dict[str, str] = {}
        self.examples: dict[str, list[Mapping[str, Any]]] = {}
        self._run, self._folder, self._goes_on = run, folder, goes_on
        self._tasks = answers.scored_tasks(self.held_out.batches, config.feed)
        self._questions = {task.name: self._ask(task) for task in self._tasks}
        self._seqio_tasks = self._find_seqio_tasks()
        self._predictor = answers.make_predictor(run)
        self._predictor.between_batches = self.held_out.between_batches = between_batches

    @property
    def scored(self) -> list[str]:
        """The tasks whose answers are scored."""
        return [name for name, asked in self._questions.items() if asked] + [task.name for task in self._seqio_tasks]

    def measure(self, params: Mapping[str, jax.Array], step: int) -> Results:
        """All numbers of these parameters, the same on all hosts, which call it together.

        The first host writes the files. Parameters that lie as the run's do are not copied.

        Raises:
            UserError: a metric cannot be computed.
        """
        losses = self.held_out.measure(params)
        self._predictor.params = params
        scores = {}
        for name, found, lines in itertools.chain(self._score(), self._score_seqio_tasks()):
            scores[name], lines = found, list(lines)
            self.examples[name] = lines[:EXAMPLES]
            if self._folder and jax.process_index() == 0:
                self._write(name, step, found, lines)
        # A metric that draws samples gives another number on each host, and all have to decide the same by it.
        return hosts.gather(Results(step, self.split, losses, scores))[0]

    def _write(self, task: str, step: int, scores: Mapping[str, float], lines: list[Mapping[str, Any]]) -> None:
        try:
            inference_files.write_answers(self._folder, task, step, lines)
            inference_files.write_metrics(self._folder, task, step, scores)
        except (OSError, UserError) as error:
            if not self._goes_on:
                raise
            logging.getLogger(__name__).warning(
                "the answers of %s at step %d can't be written to %s: %s", task, step, self._folder, in_words(error)
            )

    def _ask(self, task: TextToTextTask) -> list[Question]:
        skipped = sources.Skipped()
        questions = answers.ask(self._run, task, self.split, self._run.config.evaluate.eval_limit, skipped)
        try:
            answers.check_labels(task, questions, self.split)
        except UserError as error:
            self.unscored[task.name] = str(error)
            return []
        if skipped:
            hosts.say(f"{task.name}, {self.split}: not scored: {skipped}")
        return questions

    def _find_seqio_tasks(self) -> list:
        feed = self._run.config.feed
        names = [name for name in self.held_out.batches if not registry.is_defined(name, feed)]
        if not names:
            return []
        from t5x_mini.evaluate import seqio_scores  # TensorFlow: only for tasks that need it

        return seqio_scores.find(self._run, names, self.split, self._run.config.evaluate.eval_limit)

    def _score(self) -> _Scored:
        # All tasks at once: rows of similar length share a batch, whatever they ask.
        questions = [question for asked in self._questions.values() for question in asked]
        answered = iter(answers.answer(self._run, self._predictor, questions, progress=f"answers, {self.split}"))
        for task in self._tasks:
            own = list(itertools.islice(answered, len(self._questions[task.name])))
            if own:
                yield task.name, answers.measure(task, own, self.split), lines(task, own)

    def _score_seqio_tasks(self) -> _Scored:
        for task in self._seqio_tasks:
            yield task.name, *task.measure(self._predictor)


def lines(task: TextToTextTask, answered: list[Answered]) -> Iterator[dict[str, Any]]:
    """An answer a line, with the keys of T5X and `infer`: inputs, prediction, targets, and what else is known."""
    right = answers.correct(task, answered)
    for place, one in enumerate(answered):
        line: dict[str, Any] = {"inputs": one.inputs, "prediction": one.prediction, "targets": one.target}
        if right is not None:
            line["correct"] = right[place]
        yield line if one.scores is None else line | {"scores": dict(one.scores)}
