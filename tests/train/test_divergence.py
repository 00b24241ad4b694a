"""Which steps have diverged; whole runs that do are in test_diverging_runs.py."""

import json
import math
import random

import numpy as np
import pytest

from t5x_mini.errors import UserError
from t5x_mini.train import divergence
from t5x_mini.train.config import TrainConfig
from t5x_mini.train.divergence import WINDOW, Diverged, Divergence, History


def make_config(**fields):
    return TrainConfig(model_dir="x", **fields)


def row(loss, **changes):
    return {"loss": loss, "param_norm": 2.0, "grad_norm": 1.0, "learning_rate": 0.01} | changes


def noisy(count, seed=0):
    rng = random.Random(seed)
    return [3 + rng.gauss(0, 0.1) for _ in range(count)]


def history_of(losses, first=1):
    history = History()
    for step, loss in enumerate(losses, start=first):
        history.add(step, row(loss))
    return history


def test_the_limit_is_so_many_deviations_above_the_mean_of_the_last_128():
    losses = noisy(300)
    window = losses[298 - WINDOW : 298]  # steps 171 to 298: 299 and 300 are too near to step 300
    expected = np.mean(window) + 6 * np.std(window)
    assert history_of(losses[:299]).limit(300, 6.0) == pytest.approx(expected, rel=1e-12)


def test_the_row_of_the_step_before_does_not_count_whether_it_is_known_or_not():
    losses = noisy(200)
    behind, level = history_of(losses[:198]), history_of(losses[:199])
    assert behind.limit(200, 6.0) == level.limit(200, 6.0) < math.inf


def test_without_enough_losses_and_without_a_threshold_nothing_finite_is_a_spike():
    assert history_of(noisy(63)).limit(65, 6.0) == math.inf
    assert history_of(noisy(64)).limit(66, 6.0) < math.inf
    assert history_of(noisy(200)).limit(202, None) == math.inf


def test_skipped_steps_are_counted_and_are_no_part_of_the_mean():
    losses = noisy(100)
    history, without = History(), history_of(losses)
    for step, loss in enumerate(losses, start=1):
        history.add(step, row(loss))
    for step in (101, 102):
        history.add(step, row(math.nan, skipped_update=1.0))
    assert (history.skipped, history.in_a_row) == (2, 2)
    assert history.limit(104, 6.0) == without.limit(104, 6.0)
    history.add(103, row(3.0, skipped_update=0.0))
    assert (history.skipped, history.in_a_row) == (2, 0)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (dict(loss=math.nan), "The loss of step 7 is nan; the run stops. There is no checkpoint before it. Gradient"),
        (dict(loss=-math.inf), "The loss of step 7 is -inf; the run stops."),
        (dict(param_norm=math.inf), "The parameter norm of step 7 is inf; the run stops."),
    ],
)
def test_what_is_not_finite_stops_a_run_that_is_not_told_otherwise(changes, expected):
    with pytest.raises(UserError) as raised:
        Divergence(make_config()).judge(7, row(3.0) | changes, None)
    assert str(raised.value).startswith(expected)
    assert "a lower rate, a longer warm-up or --gin.CLIP_GLOBAL_NORM=1.0" in str(raised.value)


def judged(config, loss):
    """A step behind 200 that are like one another."""
    return Divergence(config, history_of(noisy(200))).judge(201, row(loss), "runs/x/checkpoints/200")


def test_a_spike_stops_a_run_that_is_told_what_one_is():
    assert judged(make_config(loss_spike=6.0), 3.2) is None
    assert judged(make_config(), 4.0) is None
    with pytest.raises(
        UserError,
        match=r"The loss of step 201 is 4, and 3\.\d+ is where a spike begins \(LOSS_SPIKE = 6\); the run stops\. The "
        "last good checkpoint is runs/x/checkpoints/200",
    ):
        judged(make_config(loss_spike=6.0), 4.0)


@pytest.mark.parametrize("loss", [math.nan, 4.0])
def test_a_run_that_is_to_be_rolled_back_is_told_which_step_it_was(loss):
    with pytest.raises(Diverged, match="The loss of step 201 is") as raised:
        judged(make_config(loss_spike=6.0, on_divergence="roll_back"), loss)
    assert raised.value.step == 201


def test_skipped_updates_are_reported_until_there_are_too_many_in_a_row():
    found = Divergence(make_config(on_divergence="skip", max_skips=3))
    spoilt = row(math.nan, grad_norm=math.inf, skipped_update=1.0)
    assert found.judge(1, spoilt, None) == "step 1: update left out (loss nan, gradient norm inf), 1 in all"
    assert found.judge(2, spoilt, None).endswith("2 in all")
    assert found.judge(3, row(3.0, skipped_update=0.0), None) is None
    assert found.judge(4, spoilt, None).endswith("3 in all")
    assert found.judge(5, spoilt, None).endswith("4 in all")
    with pytest.raises(UserError, match="The updates of 3 steps in a row, up to step 6, were left out .*MAX_SKIPS"):
        found.judge(6, spoilt, None)


def test_parameters_that_are_not_finite_stop_a_run_that_skips_updates_too():
    found = Divergence(make_config(on_divergence="skip"))
    with pytest.raises(UserError, match="The parameter norm of step 1 is nan; the run stops"):
        found.judge(1, row(3.0, param_norm=math.nan, skipped_update=0.0), None)


def test_a_step_that_may_skip_its_update_is_given_the_limit_and_others_nothing():
    history = history_of(noisy(200))
    assert Divergence(make_config(loss_spike=6.0), history).limits(202) == ()
    (limit,) = Divergence(make_config(loss_spike=6.0, on_divergence="skip"), history).limits(202)
    assert limit.dtype == np.float32 and limit == np.float32(history.limit(202, 6.0))
    (limit,) = Divergence(make_config(on_divergence="skip"), history).limits(202)
    assert limit == math.inf


def test_a_resumed_run_judges_as_the_one_before_it_would_have(tmp_path):
    config = make_config(loss_spike=3.0, on_divergence="skip")
    rows = [row(loss, step=step, skipped_update=0.0) for step, loss in enumerate(noisy(300), start=1)]
    rows[149] |= {"loss": math.nan, "skipped_update": 1.0}
    lines = [json.dumps({name: "NaN" if value != value else value for name, value in one.items()}) for one in rows]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 250, "eval/x/loss_a": 1.0}', '{"step": 30']))
    whole = Divergence(config)
    for one in rows:
        whole.history.add(one["step"], one)
    resumed = Divergence(config, divergence.past(tmp_path, 200, config))
    assert resumed.history.skipped == 1
    for one in rows[200:]:
        resumed.history.add(one["step"], one)
    assert resumed.history == whole.history
    assert [resumed.limit(step) for step in (301, 302)] == [whole.limit(step) for step in (301, 302)]


def test_a_run_that_nothing_is_asked_of_reads_no_rows(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    assert not divergence.past(tmp_path, 1, make_config()).losses
    assert not divergence.past(tmp_path / "none", 1, make_config(loss_spike=6.0)).losses
    assert len(divergence.past(tmp_path, 1, make_config(loss_spike=6.0)).losses) == 1
