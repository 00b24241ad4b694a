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


@dataclasses.dataclass
class _Going:
    """A trial's run that is being made."""

    trial: Trial
    run: Planned
    process: Process
    began: float

    @property
    def name(self) -> str:
        return f"{self.trial.name}: {self.run.folder.name}"


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
        missing = [split for split in ("train", "validation") if not _has_tokens(feed, split)]
        if feed.data_feed != "tokens" or not missing:
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
    waiting = collections.deque(trial for trial in trials if _left(trial))
    done = len(trials) - len(waiting)
    if done:
        say(f"{done} of {len(trials)} are finished already")
    progress = Progress([run for trial in trials for run in trial.runs], say)
    free, going, failed = list(places), {}, []
    with _sigterm_raises():
        try:
            while waiting or going:
                while free and waiting:
                    place = free.pop(0)
                    going[id(place)] = (place, _start(waiting.popleft(), place))
                for key, (place, current) in list(going.items()):
                    status = current.process.status
                    if status is None:
                        continue
                    del going[key]
                    if status or not completion.is_marked(current.run.folder):
                        failed.append(current)
                        say(f"FAILED with status {status}: {current.name}; see {current.process.log}")
                    elif _left(current.trial):
                        going[key] = (place, _start(current.trial, place))
                        continue
                    else:
                        done += 1
                        say(f"{done} of {len(trials)} finished: {current.trial.name}")
                        finished()
                    free.append(place)
                progress.tell([current.name for _, current in going.values()])
                time.sleep(_POLL_S)
        finally:
            for _, current in going.values():
                current.process.stop()
            for _, current in going.values():
                current.process.wait()
    if failed:
        first = failed[0]
        raise UserError(
            f"{len(failed)} of {len(trials)} failed; the same command tries them again. The first, {first.name}, ended "
            f"with\n{first.process.last_words()}"
        )


def _left(trial: Trial) -> list[Planned]:
    return [run for run in trial.runs if not completion.is_marked(run.folder)]


def _start(trial: Trial, place: Place) -> _Going:
    run = _left(trial)[0]
    log = run.folder.with_suffix(".log")
    process = Process(["train", f"--gin_file={_write(run)}"], place, log)
    return _Going(trial, run, process, time.monotonic())


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
