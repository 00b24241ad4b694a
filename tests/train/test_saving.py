import errno
import os

import pytest

from t5x_mini.errors import SaveError, UserError
from t5x_mini.train.saving import Saver


class Checkpoints:
    """A run's checkpoints: a folder, and a disk that refuses what it is told to, at once or behind the steps."""

    def __init__(self, folder):
        self.directory = folder / "checkpoints"
        self.directory.mkdir()
        self.refuses, self.refuses_later, self.saving = False, False, None
        self.attempts = []

    def begin(self, step):
        self.attempts.append(step)
        if self.refuses:
            raise SaveError("the disk is full.")
        self.saving = step

    def is_saving(self):
        return False

    def wait(self):
        step, self.saving = self.saving, None
        if self.refuses_later:
            raise SaveError("the disk is full.")
        if step is not None:
            (self.directory / str(step)).mkdir()
            (self.directory / str(step) / "_CHECKPOINT_METADATA").write_text('{"commit_timestamp_nsecs": 1}')


class Clock:
    seconds = 0.0

    def __call__(self):
        return self.seconds

    def sleep(self, seconds):
        self.seconds += seconds


class Case:
    def __init__(self, folder, retries=3):
        self.checkpoints, self.clock, self.rows_refused = Checkpoints(folder), Clock(), None
        self.saver = Saver(self.checkpoints, self.sync, retries, now=self.clock, sleep=self.clock.sleep)

    def sync(self):
        if self.rows_refused:
            raise UserError(f"metrics.jsonl can't be written: {os.strerror(self.rows_refused)}.")

    def save(self, step):
        self.saver.save(step, lambda: self.checkpoints.begin(step))

    def finish(self, step, **options):
        self.saver.finish(step, lambda: self.checkpoints.begin(step), **options)

    def complete(self):
        return sorted(int(path.name) for path in self.checkpoints.directory.iterdir())


@pytest.fixture
def case(tmp_path):
    return Case(tmp_path)


def test_saves_that_succeed_are_not_repeated(case):
    for step in range(1, 7):
        if step % 2 == 0:
            case.save(step)
            assert case.saver.newest == step
        assert not case.saver.wants(step)
    case.finish(7)
    assert case.checkpoints.attempts == [2, 4, 6, 7]
    assert case.complete()[-1] == 7


@pytest.mark.parametrize("how", ["refuses", "refuses_later"])
def test_a_failed_save_is_made_up_for_after_a_pause(case, caplog, how):
    case.save(10)
    assert not case.saver.wants(11)
    setattr(case.checkpoints, how, True)
    case.save(20)
    assert not case.saver.wants(21)  # not at once: the disk gets a second
    (warning,) = caplog.messages
    assert warning.startswith(
        f"Step {20 if how == 'refuses' else 21}: the save failed, 1 of at most 3 times in a row: "
    )
    assert (
        "the disk is full. Safe is the checkpoint of step 10. Training goes on; the next attempt is in 1 s." in warning
    )
    setattr(case.checkpoints, how, False)
    case.save(22)
    assert case.checkpoints.attempts == [10, 20]
    case.clock.seconds = 1.0
    assert case.saver.wants(23)
    case.save(23)
    assert not case.saver.wants(24)
    assert case.complete() == [10, 23]
    assert case.saver.newest == 23


def test_rows_that_are_not_on_the_disk_hold_the_checkpoint_back(case, caplog):
    case.rows_refused = errno.EDQUOT
    case.save(10)
    assert case.checkpoints.attempts == [] and case.saver.newest is None
    assert "metrics.jsonl can't be written: Disk quota exceeded. There is no checkpoint there now." in caplog.text
    case.rows_refused, case.clock.seconds = None, 1.0
    assert case.saver.wants(11)
    case.save(11)
    assert case.checkpoints.attempts == [11]


def test_pauses_double_and_too_many_failures_stop_the_run(case, caplog):
    case.save(5)
    case.checkpoints.wait, case.checkpoints.refuses = lambda: None, True
    (case.checkpoints.directory / "5").mkdir()
    (case.checkpoints.directory / "5" / "_CHECKPOINT_METADATA").write_text('{"commit_timestamp_nsecs": 1}')
    with pytest.raises(UserError) as error:
        for step in range(6, 100):
            if case.saver.wants(step) or step == 6:
                case.save(step)
            case.clock.seconds += 1
    assert case.checkpoints.attempts == [5, 6, 7, 9, 13]
    assert str(error.value) == (
        "The state of step 13 could not be saved, 4 times in a row (SAVE_RETRIES = 3), and the run stops: the disk is "
        "full. Safe is the checkpoint of step 5, and what came after it is lost. When that is mended, the same command "
        "goes on from there."
    )


def test_the_last_step_waits_until_it_is_saved(case, caplog):
    tried = []

    def begin():
        tried.append(case.clock.seconds)
        case.checkpoints.refuses, case.checkpoints.refuses_later = len(tried) == 1, len(tried) == 2
        case.checkpoints.begin(30)

    case.saver.finish(30, begin)
    assert tried == [0.0, 1.0, 3.0]
    assert case.complete() == [30]
    assert caplog.text.count("The run waits") == 2


def test_where_there_is_no_time_one_attempt_has_to_do(case):
    case.checkpoints.refuses = True
    with pytest.raises(UserError, match="The state of step 8 could not be saved, and the run stops: the disk is full"):
        case.finish(8, hurries=lambda: True)
    assert case.checkpoints.attempts == [8]


def test_a_signal_ends_the_wait_with_one_more_attempt(case):
    case.checkpoints.refuses = True
    with pytest.raises(UserError, match="The state of step 8 could not be saved, and the run stops"):
        case.finish(8, hurries=lambda: case.clock.seconds >= 4)
    assert case.checkpoints.attempts == [8, 8, 8, 8]
    assert case.clock.seconds == 4  # 1 s, 2 s, and 1 s of the next 4


def test_without_retries_the_first_failure_stops_the_run(tmp_path):
    case = Case(tmp_path, retries=0)
    case.checkpoints.refuses = True
    with pytest.raises(UserError, match="There is no checkpoint there now, and what was trained is lost"):
        case.save(10)


def test_a_folder_that_cannot_be_read_does_not_hide_why(case, caplog):
    case.checkpoints.directory.rmdir()
    case.checkpoints.directory.write_text("a file")
    case.checkpoints.refuses = True
    case.save(10)
    assert "the disk is full. There is no checkpoint there now." in caplog.text
