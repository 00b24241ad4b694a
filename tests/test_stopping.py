"""Runs that are told to stop, at any moment, and go on: through the real command line, in this process."""

import contextlib
import os
import shlex
import signal

import jax
import numpy as np
import pytest
import tiny_runs
from tiny_runs import arrays, evaluation_rows, steps_on_disk, training_rows, without_times

from t5x_mini.checkpoint.locate import locate
from t5x_mini.evaluate import report
from t5x_mini.evaluate.held_out import HeldOut
from t5x_mini.train import loop
from t5x_mini.train.reporter import Reporter

STEPS = 12
SETTINGS = dict(
    TRAIN_STEPS=STEPS, CHECKPOINT_PERIOD=5, EVAL_PERIOD=4, EVAL_STEPS=3, BEST_METRIC="loss", CHECKPOINTS_TO_KEEP=None
)
STATUS = {signal.SIGTERM: 143, signal.SIGINT: 130}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    with tiny_runs.tiny(tmp_path_factory.mktemp("tiny")) as tiny:
        yield tiny


def train(tiny, folder, **macros):
    return tiny.run("train", MODEL_DIR=str(folder), **{**SETTINGS, **macros})


@pytest.fixture(scope="module")
def undisturbed(tiny):
    folder = tiny.folder / "undisturbed"
    finished = train(tiny, folder)
    assert finished.code == 0, finished.err
    return folder


@contextlib.contextmanager
def signalled_at(target, name, number, *, when=lambda *arguments: True, count=1):
    """Sends this process a signal each time that a function is called and `when` says so, at most `count` times."""
    left, function = [None] * count, getattr(target, name)

    def called(*arguments, **named):
        if left and when(*arguments):
            left.pop()
            os.kill(os.getpid(), number)
        return function(*arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target, name, called)
        yield


def step_is(step):
    return lambda reporter, done, sums: done == step


def assert_same_run(folder, expected):
    jax.tree.map(np.testing.assert_array_equal, arrays(folder, STEPS), arrays(expected, STEPS))
    for rows in (training_rows, evaluation_rows):
        assert without_times(rows(folder)) == without_times(rows(expected))
    assert [row["step"] for row in training_rows(folder)] == list(range(1, STEPS + 1))
    assert [row["step"] for row in evaluation_rows(folder)] == [4, 8, 12]


@pytest.mark.damage("SIGTERM or SIGINT once: the step is finished and saved; resumed, the run ends as if undisturbed.")
@pytest.mark.parametrize(
    ("number", "target", "name", "when", "saved"),
    [
        pytest.param(
            signal.SIGTERM, loop, "initial_state", lambda *_: True, None, id="term-start", marks=pytest.mark.slow
        ),
        pytest.param(
            signal.SIGINT, loop, "compile_step", lambda *_: True, None, id="int-compile", marks=pytest.mark.slow
        ),
        pytest.param(signal.SIGINT, Reporter, "add", step_is(1), 1, id="int-first_step", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, Reporter, "add", step_is(7), 7, id="term-step"),
        pytest.param(
            signal.SIGTERM, Reporter, "add", step_is(8), 8, id="term-before_evaluation", marks=pytest.mark.slow
        ),
        pytest.param(signal.SIGINT, HeldOut, "sums", lambda *_: True, 4, id="int-evaluation"),
        pytest.param(
            signal.SIGTERM,
            Reporter,
            "add",
            step_is(STEPS),
            STEPS,
            id="term-before_last_evaluation",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_run_that_is_told_to_stop_goes_on_as_if_it_had_not_been(
    tiny, undisturbed, tmp_path, number, target, name, when, saved
):
    folder = tmp_path / "run"
    with signalled_at(target, name, number, when=when):
        stopped = train(tiny, folder)
    assert stopped.code == STATUS[number], stopped.err
    assert steps_on_disk(folder)[-1:] == ([] if saved is None else [saved])
    said = "stopped before it made a step. Nothing is lost."
    if saved is not None:
        said = f"stopped after step {saved} of {STEPS}, which is saved in {folder}."
    assert f"t5x-mini: {signal.Signals(number).name}: {said}" in stopped.err
    command = shlex.join(tiny.arguments("train", MODEL_DIR=str(folder), **SETTINGS))
    assert stopped.err.endswith(f"Go on with the same command:\n    t5x-mini {command}\n")
    assert not (folder / "complete.json").exists()
    finished = train(tiny, folder)
    assert finished.code == 0, finished.err
    assert_same_run(folder, undisturbed)
    assert best(folder) == best(undisturbed)


def best(folder):
    """The step of the best checkpoint, as `eval` finds it."""
    return locate(str(folder / "checkpoints" / "best"))[1]


def test_an_evaluation_is_left_between_two_of_its_batches(tiny, tmp_path):
    measured, between = [], loop._Training._leave_evaluation

    def counted(training):
        measured.append(None)
        if len(measured) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        between(training)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop._Training, "_leave_evaluation", counted)
        assert train(tiny, tmp_path / "run").code == 143
    assert len(measured) == 2 and evaluation_rows(tmp_path / "run") == []


def test_a_run_that_has_nothing_left_to_do_when_it_is_told_to_stop_is_complete(tiny, tmp_path):
    folder = tmp_path / "run"
    settings = dict(EVAL_PERIOD=0, BEST_METRIC=None, TRAIN_STEPS=3)
    with signalled_at(Reporter, "add", signal.SIGTERM, when=step_is(3)):
        finished = train(tiny, folder, **settings)
    assert finished.code == 0, finished.err
    assert steps_on_disk(folder) == [3] and (folder / "complete.json").exists()


@pytest.mark.slow
def test_a_closing_report_is_left_and_the_next_start_finds_the_run_complete(tiny, tmp_path):
    folder = tmp_path / "run"
    settings = dict(TRAIN_STEPS=4, CLOSING_REPORT=True)
    with signalled_at(report, "closing_report", signal.SIGTERM):
        stopped = train(tiny, folder, **settings)
    assert stopped.code == 143
    assert "SIGTERM: stopped after its last step, which is saved. Nothing is lost." in stopped.err
    finished = train(tiny, folder, **settings)
    assert finished.code == 0 and "is complete: step 4 of 4" in finished.out
    assert (folder / "complete.json").exists()
