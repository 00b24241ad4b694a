"""Answers the test sets with the best checkpoints, and writes them as gluebenchmark.com wants them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax

from t5x_mini.checkpoint.steps import FOLDER
from t5x_mini.config import RunConfig
from t5x_mini.errors import UserError
from t5x_mini.evaluate import answers
from t5x_mini.evaluate.checkpoint_params import restore_params
from t5x_mini.evaluate.results import Results
from t5x_mini.feed.config import FeedConfig
from t5x_mini.glue import benchmark, submission
from t5x_mini.glue.plan import Finetuning
from t5x_mini.glue.submission import TestFile
from t5x_mini.glue.table import Outcome
from t5x_mini.parallel.hosts import say
from t5x_mini.tasks import registry, sources
from t5x_mini.train.run import assemble
from t5x_mini.whole_file import write_whole

_SPLIT = "test"


def submit(outcomes: Sequence[Outcome], config_of: Callable[[Finetuning], RunConfig], output: Path) -> None:
    """Writes `submission/<file>.tsv` for each test set that is here, and `submission.zip` where none is missing.

    A test set is answered by the pretrained finetuning that was best on the validation sets. WNLI, where nothing was
    trained on it, gets label 0 throughout, the commoner one. Files that are there from the same checkpoint stay.
    """
    best = {part: _best(outcomes, part) for part in benchmark.PARTS}
    complete = all(best[part] for part in benchmark.DEFAULT)
    feed = config_of(outcomes[0].run).feed
    wanted = [file for file in submission.FILES if best[file.part] or (complete and file.part == "wnli")]
    here = [file for file in wanted if _is_here(file, feed)]
    folder = output / "submission"
    if not here:
        say("The data has no test sets of these tasks, so there is no submission to write.")
        return
    made = _Made(folder)
    for outcome in outcomes:
        files = [file for file in here if best[file.part] is outcome and not made.is_from(file, outcome)]
        for file, predicted in _answered(files, outcome, config_of, output):
            made.write(file, predicted, feed, outcome)
    for file in here:
        if best[file.part] is None:
            rows = answers.read(registry.find(file.task, feed), _SPLIT)
            made.write(file, [(row, "") for row, _ in rows], feed, None)
    _finish(folder, here)


class _Made:
    """The files in the folder of a submission, and which checkpoint each is from (`made_from.json`)."""

    def __init__(self, folder: Path):
        self._folder, self._record = folder, folder / "made_from.json"
        self._from: dict[str, list] = json.loads(self._record.read_text()) if self._record.is_file() else {}

    def is_from(self, file: TestFile, outcome: Outcome) -> bool:
        return (self._folder / file.name).is_file() and self._from.get(file.name) == _name(outcome)

    def write(self, file: TestFile, predicted: Sequence, feed: FeedConfig, outcome: Outcome | None) -> None:
        task = registry.find(file.task, feed)
        text, filled = submission.write(file, task, submission.predictions(predicted, task))
        if filled and outcome is not None:
            say(f"{file.name}: {filled} rows could not be read, or got no label for an answer: they get the first.")
        if jax.process_index() == 0:
            write_whole(self._folder / file.name, text)
            self._from[file.name] = _name(outcome)
            write_whole(self._record, json.dumps(self._from, indent=1) + "\n")


def _answered(files: Sequence[TestFile], outcome: Outcome, config_of: Callable, output: Path):
    """(file, [(row, answer)]) of each file, from the run's best checkpoint."""
    if not files:
        return
    config = config_of(outcome.run)
    checkpoint = str(output / outcome.run.name / FOLDER / str(outcome.step))
    run = assemble(
        dataclasses.replace(config, evaluate=dataclasses.replace(config.evaluate, checkpoint_path=checkpoint))
    )
    predictor = answers.make_predictor(run, restore_params(run)[1])
    for file in files:
        say(f"answering {file.name} with {outcome.run.name}, step {outcome.step}")
        task = registry.find(file.task, config.feed)
        found = answers.answer_split(run, predictor, task, _SPLIT)
        yield file, [(answered.row, answered.prediction) for answered in found]


def _best(outcomes: Sequence[Outcome], part: str) -> Outcome | None:
    """The pretrained finetuning on the part that has the best average on the validation sets; None without one."""
    candidates = [
        outcome
        for outcome in outcomes
        if outcome.run.start == "pretrained" and part in [chosen.name for chosen in outcome.run.parts]
    ]
    return max(candidates, key=lambda outcome: Results(0, "", {}, outcome.scores).averages["average"], default=None)


def _is_here(file: TestFile, feed: FeedConfig) -> bool:
    task = registry.find(file.task, feed)
    try:
        return _SPLIT in sources.splits(task) and bool(sources.shards(task, _SPLIT))
    except UserError:
        return False


def _finish(folder: Path, here: Sequence[TestFile]) -> None:
    if jax.process_index() > 0:
        return
    missing = [file.name for file in submission.FILES if file not in here]
    if missing:
        say(f"written to {folder}; for a submission to gluebenchmark.com {', '.join(missing)} are missing")
    else:
        say(f"written to {submission.pack(folder)}, for gluebenchmark.com")


def _name(outcome: Outcome | None) -> Mapping | None:
    return None if outcome is None else {"run": outcome.run.name, "step": outcome.step}
