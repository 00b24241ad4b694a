"""Runs with poisoned batches: stopped, with updates left out, and rolled back; killed and told to stop in between."""

import itertools
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import poisoned
import pytest
import tiny_runs
from test_stopping import signalled_at, step_is
from tiny_runs import arrays, steps_on_disk, training_rows, without_times

from t5x_mini import config
from t5x_mini.feed import feeds
from t5x_mini.inspect.rebuild import rebuild_batch
from t5x_mini.train import roll_back
from t5x_mini.train.reporter import Reporter

TOKENS = """
include '{folder}/tiny.gin'
MIXTURE_OR_TASK_MODULE = None
MIXTURE_OR_TASK_NAME = 'sentences'
sentences/PretrainingTask.files = {{'train': '{folder}/tiny_sentences_train.txt'}}
VOCABULARY = '{folder}/tiny.model'
DATA_FEED = 'tokens'
TOKENS_DIR = '{folder}/tokens'
"""
SETTINGS = dict(TRAIN_STEPS=12, CHECKPOINT_PERIOD=5, CHECKPOINTS_TO_KEEP=None)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    with tiny_runs.tiny(tmp_path_factory.mktemp("tiny")) as tiny:
        (tiny.folder / "tokens.gin").write_text(TOKENS.format(folder=tiny.folder))
        yield tiny


@pytest.fixture(scope="module")
def tokens(tiny):
    done = tiny_runs.run(["tokenize", f"--gin_file={tiny.folder / 'tokens.gin'}", "--task=sentences", "--workers=1"])
    assert done.code == 0, done.err


@pytest.fixture(params=["seqio", "tokens"])
def gin_file(request, tiny):
    if request.param == "seqio":
        return tiny.folder / "tiny.gin"
    request.getfixturevalue("tokens")
    return tiny.folder / "tokens.gin"


def words(gin_file, folder, **macros):
    bindings = [f"--gin.{name}={value!r}" for name, value in {"MODEL_DIR": str(folder), **SETTINGS, **macros}.items()]
    return ["train", f"--gin_file={gin_file}", *bindings]


def train(gin_file, folder, **macros):
    return tiny_runs.run(words(gin_file, folder, **macros))


def marks(gin_file, count):
    """Of the first batches, as the run reads them."""
    loaded = config.load([str(gin_file)], ["MODEL_DIR='unused'"])
    feed = feeds.make_feed(loaded.feed, loaded.model.architecture)
    found = [int(poisoned.mark(batch)) for batch in itertools.islice(feed, count)]
    assert len(set(found)) == count
    return found


def assert_same_run(folder, expected, steps):
    jax.tree.map(np.testing.assert_array_equal, arrays(folder, steps), arrays(expected, steps))
    rows = [[repr(row) for row in without_times(training_rows(run))] for run in (folder, expected)]  # nan is not nan
    assert rows[0] == rows[1]
    assert [row["step"] for row in training_rows(folder)] == list(range(1, steps + 1))


DAMAGE = "A batch that makes the loss NaN, or a spike of it: stop, skip the update, or roll back and leave it out."


@pytest.mark.damage(DAMAGE)
def test_a_poisoned_batch_stops_a_run_that_is_not_told_otherwise(tiny, tmp_path):
    gin_file = tiny.folder / "tiny.gin"
    with poisoned.poisoned({marks(gin_file, 7)[6]: math.nan}):
        stopped = train(gin_file, tmp_path / "run")
    assert stopped.code == 1
    good = tmp_path / "run" / "checkpoints" / "5"
    assert f"The loss of step 7 is nan; the run stops. The last good checkpoint is {good}." in stopped.err
    assert steps_on_disk(tmp_path / "run") == [5]


@pytest.mark.damage(DAMAGE)
@pytest.mark.slow
def test_updates_are_left_out_and_a_run_that_is_resumed_leaves_out_the_same(tiny, tmp_path):
    gin_file, whole, parts = tiny.folder / "tiny.gin", tmp_path / "whole", tmp_path / "parts"
    settings = dict(TRAIN_STEPS=80, CHECKPOINT_PERIOD=1000, ON_DIVERGENCE="skip", LOSS_SPIKE=8.0)
    found = marks(gin_file, 75)
    with poisoned.poisoned({found[8]: math.nan, found[72]: 5.0, found[74]: 5.0}):
        finished = train(gin_file, whole, **settings)
        for step in (9, 73):
            with signalled_at(Reporter, "add", signal.SIGTERM, when=step_is(step)):
                assert train(gin_file, parts, **settings).code == 143
        assert train(gin_file, parts, **settings).code == 0
    assert finished.code == 0, finished.err
    rows = {row["step"]: row for row in training_rows(whole)}
    assert [step for step, row in rows.items() if row["skipped_update"]] == [9, 73, 75]
    assert math.isnan(rows[9]["loss"]) and rows[73]["loss"] > 3 * rows[72]["loss"]
    assert rows[9]["param_norm"] == rows[8]["param_norm"]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(arrays(whole, 80)["params"]))
    assert_same_run(parts, whole, 80)


@pytest.mark.damage(DAMAGE)
def test_a_run_that_can_do_nothing_but_skip_stops(tiny, tmp_path):
    gin_file = tiny.folder / "tiny.gin"
    with poisoned.poisoned({known: math.inf for known in marks(gin_file, 10)[6:]}):
        stopped = train(gin_file, tmp_path / "run", ON_DIVERGENCE="skip", MAX_SKIPS=3)
    assert stopped.code == 1
    assert "The updates of 3 steps in a row, up to step 9, were left out (loss inf" in stopped.err
    assert f"The last good checkpoint is {tmp_path / 'run' / 'checkpoints' / '5'}." in stopped.err


@pytest.mark.slow
def test_what_skips_nothing_is_the_same_run_but_for_rounding(tiny, tmp_path):
    gin_file = tiny.folder / "tiny.gin"
    assert train(gin_file, tmp_path / "plain").code == 0
    assert train(gin_file, tmp_path / "skip", ON_DIVERGENCE="skip", LOSS_SPIKE=6.0).code == 0
    plain, skip = (without_times(training_rows(tmp_path / name)) for name in ("plain", "skip"))
    assert {row.pop("skipped_update") for row in skip} == {0.0}
    for one, other in zip(skip, plain, strict=True):  # another program: the compiler joins other operations
        assert one == pytest.approx(other, rel=1e-4)


@pytest.mark.damage(DAMAGE)
@pytest.mark.slow
def test_a_run_is_rolled_back_and_one_that_is_killed_right_behind_it_goes_on_alike(gin_file, tiny, tmp_path):
    whole, killed, settings = tmp_path / "whole", tmp_path / "killed", dict(ON_DIVERGENCE="roll_back")
    found = marks(gin_file, 16)
    factors = {found[6]: math.nan}
    with poisoned.poisoned(factors):
        finished = train(gin_file, whole, **settings)
    assert finished.code == 0, finished.err
    (record,) = roll_back.read(whole)
    assert record == roll_back.RollBack(5, 7, 2, "The loss of step 7 is nan")
    assert f"{record}." in finished.out and "resuming from step 5" in finished.out
    # The batches 6 and 7 are left out; step 6 has batch 8.
    seen = [int(poisoned.mark(rebuild_batch(str(whole), step).batch)) for step in (5, 6, 12)]
    assert seen == [found[4], found[7], found[13]]

    environment = tiny.environment()
    environment["PYTHONPATH"] += f"{os.pathsep}{Path(__file__).parent}"
    command = [json.dumps({str(known): str(factor) for known, factor in factors.items()})]
    process = subprocess.run(
        [sys.executable, poisoned.__file__, *command, *words(gin_file, killed, **settings)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert roll_back.read(killed) == [record] and steps_on_disk(killed) == [5]
    with poisoned.poisoned(factors):
        resumed = train(gin_file, killed, **settings)
    assert resumed.code == 0, resumed.err
    assert "leaving out 2 batches behind step 5, as rollbacks.jsonl says" in resumed.out
    assert_same_run(killed, whole, 12)


@pytest.mark.damage(DAMAGE)
def test_a_run_without_a_checkpoint_is_rolled_back_to_its_start_until_it_gets_through_or_has_tried_enough(
    tiny, tmp_path
):
    gin_file = tiny.folder / "tiny.gin"
    found = marks(gin_file, 6)
    with poisoned.poisoned({found[1]: math.nan, found[3]: math.nan}):
        finished = train(gin_file, tmp_path / "run", ON_DIVERGENCE="roll_back", TRAIN_STEPS=4)
        assert finished.code == 0, finished.err
        assert [(record.to, record.step, record.batches) for record in roll_back.read(tmp_path / "run")] == [
            (0, 2, 2),
            (0, 2, 4),
        ]
        assert [row["step"] for row in training_rows(tmp_path / "run")] == [1, 2, 3, 4]
        stopped = train(gin_file, tmp_path / "other", ON_DIVERGENCE="roll_back", TRAIN_STEPS=4, MAX_SKIPS=1)
    assert stopped.code == 1
    assert (
        "The loss of step 2 is nan, after 1 roll-backs (MAX_SKIPS) that got the run no further; it stops."
        in stopped.err
    )
