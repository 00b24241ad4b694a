"""Makes a study's runs, several at a time: each is `t5x-mini train` on a file that is kept beside its folder.

What is finished isn't made again, what was interrupted goes on, and what was begun with other settings is refused.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from t5x_mini.begun import begun_with, refuse_changes
from t5x_mini.errors import Terminated, UserError
from t5x_mini.feed import token_tasks
from t5x_mini.study.cells import Planned, Trial
from t5x_mini.study.progress import Progress
from t5x_mini.study.workers import Place, Process
from t5x_mini.train import completion
from t5x_mini.whole_file import write_whole

_POLL_S = 0.2


def check_begun(trials: Sequence[Trial]) -> None:
    """Raises UserError for a run that was begun with other settings."""
    for trial in trials:
        for run in trial.runs:
            # A finetuning starts from the study's own pretraining, wherever the study's folder is now.
            moved = ("TrainConfig.initial_checkpoint_path",)
            refuse_changes(run.folder, begun_with(run.folder), run.config, but=moved)


def make_tokens(trials: Sequence[Trial], place: Place, output: Path) -> None:
    """Turns text into tokens, once for all runs that read them.

    Raises:
        UserError: it failed.
    """
    for trial in trials:
        feed = trial.pretraining.config.feed
        if feed.data_feed != "tokens" or all(_has_tokens(feed, split) for split in ("train", "validation")):
            continue
        file = _write(trial.pretraining)
        arguments = ["tokenize", f"--task={feed.mixture_or_task_name}", f"--gin_file={file}"]
        process = Process(arguments, place, output / "tokenize.log")
        if process.wait():
            raise UserError(f"The text of {feed.mixture_or_task_name} can't be made tokens:\n{process.last_words()}")


def make(
    trials: Sequence[Trial], places: Sequence[Place], say: Callable[[str], None], finished: Callable[[], None]
) -> None:
    """Makes all runs that are not finished.

    A run that fails ends neither the others nor those that are still to come, but for its own finetuning.

    Args:
        trials: in the order to make them.
        places: one run at a time on each.
        say: takes a line about how it goes.
        finished: is called whenever a trial is.

    Raises:
        UserError: runs failed, with the last words of the first.
        Terminated: SIGTERM came; all runs have saved what they had.
    """
    work = _Work(trials, places, say, finished)
    progress = Progress([run for trial in trials for run in trial.runs], say)
    with _sigterm_raises(), work:
        while work.goes_on():
            progress.tell(work.names)
            time.sleep(_POLL_S)
    work.raise_failures()


@dataclasses.dataclass(frozen=True)
class _Going:
    """A trial's run that is being made."""

    trial: Trial
    run: Planned
    place: Place
    process: Process

    @property
    def name(self) -> str:
        return f"{self.trial.name}: {self.run.folder.name}"


class _Work:
    """What waits, goes on and has failed. Who leaves its context stops what goes on, and waits for it to save."""

    def __init__(
        self,
        trials: Sequence[Trial],
        places: Sequence[Place],
        say: Callable[[str], None],
        finished: Callable[[], None],
    ):
        self._say, self._finished = say, finished
        self._waiting = collections.deque(trial for trial in trials if _left(trial))
        self._count, self._done = len(trials), len(trials) - len(self._waiting)
        self._free, self._going, self._failed = list(places), list[_Going](), list[_Going]()
        if self._done:
            say(f"{self._done} of {self._count} are finished already")

    def __enter__(self) -> _Work:
        return self

    def __exit__(self, *_: object) -> None:
        for going in self._going:
            going.process.stop()
        for going in self._going:
            going.process.wait()

    @property
    def names(self) -> list[str]:
        """Of the runs that are being made."""
        return [going.name for going in self._going]

    def goes_on(self) -> bool:
        """Starts what there is a place for, and takes note of what has ended; whether anything is left to do."""
        while self._free and self._waiting:
            self._start(self._waiting.popleft(), self._free.pop(0))
        for going in [going for going in self._going if going.process.status is not None]:
            self._going.remove(going)
            self._end(going)
        return bool(self._waiting or self._going)

    def raise_failures(self) -> None:
        """Raises UserError if a run failed, with the last words of the first."""
        if not self._failed:
            return
        first = self._failed[0]
        raise UserError(
            f"{len(self._failed)} of {self._count} failed; the same command tries them again. The first, {first.name}, "
            f"ended with\n{first.process.last_words()}"
        )

    def _start(self, trial: Trial, place: Place) -> None:
        run = _left(trial)[0]
        process = Process(["train", f"--gin_file={_write(run)}"], place, run.folder.with_suffix(".log"))
        self._going.append(_Going(trial, run, place, process))

    def _end(self, going: _Going) -> None:
        status = going.process.status
        if status or not completion.is_marked(going.run.folder):
            self._failed.append(going)
            self._say(f"FAILED with status {status}: {going.name}; see {going.process.log}")
        elif _left(going.trial):
            self._start(going.trial, going.place)
            return
        else:
            self._done += 1
            self._say(f"{self._done} of {self._count} finished: {going.trial.name}")
            self._finished()
        self._free.append(going.place)


def _left(trial: Trial) -> list[Planned]:
    return [run for run in trial.runs if not completion.is_marked(run.folder)]


def _write(run: Planned) -> Path:
    """The run's configuration, beside its folder: whoever wants to repeat the run has one file."""
    file = run.folder.with_suffix(".gin")
    write_whole(file, run.text)
    return file


def _has_tokens(feed, split: str) -> bool:
    try:
        token_tasks.open_tasks(feed, split, training=split == "train")
    except UserError:
        return False
    return True


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """As Ctrl-C does by itself, so that the runs are told to save and stop."""

    def stop(number: int, _: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # some send it twice, and the runs need their time to save
        raise Terminated("SIGTERM: the study stopped, and its runs have saved what they had.", number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
