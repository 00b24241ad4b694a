import math

import pytest

from t5x_mini.checkpoint import retention
from t5x_mini.checkpoint.config import CheckpointConfig
from t5x_mini.checkpoint.manifest import Entry, Manifest

FILES = {"state": Entry(1, "0" * 64)}


def saved(values, metric="accuracy", chosen="accuracy"):
    return {
        step: Manifest(FILES, {} if value is None else {metric: value}, best_metric=chosen)
        for step, value in values.items()
    }


@pytest.mark.parametrize(
    ("config", "stay"),
    [
        (CheckpointConfig(keep=1, keep_best=1), {70, 30}),
        (CheckpointConfig(keep=2, keep_best=2), {60, 70, 30, 20}),
        (CheckpointConfig(keep=1, keep_best=9), {70, 10, 20, 30, 40, 50}),
        (CheckpointConfig(keep=1, keep_best=1, keep_period=20), {70, 30, 20, 40, 60}),
        (CheckpointConfig(keep=None), {10, 20, 30, 40, 50, 60, 70}),
    ],
)
def test_the_newest_the_best_and_some_for_ever_stay(config, stay):
    # At 50 the first of equals, at 40 what is not a number: the worst of all.
    there = saved({10: 1.0, 20: 3.0, 30: 5.0, 40: math.nan, 50: 3.0, 60: None, 70: None})
    assert there.keys() - set(retention.doomed(there, config, "accuracy")) == stay


def test_without_a_metric_the_newest_stay():
    there = saved({10: 9.0, 20: 3.0, 30: 5.0}, chosen=None)
    assert retention.doomed(there, CheckpointConfig(keep=1, keep_best=2), None) == [10, 20]


@pytest.mark.parametrize("keep", [1, 2, 3, None])
def test_the_newest_always_stays(keep):
    assert 30 not in retention.doomed(saved({10: 9.0, 20: 3.0, 30: math.nan}), CheckpointConfig(keep=keep), "accuracy")


@pytest.mark.parametrize(
    "metric", ["loss", "train/loss", "eval/docs/loss_per_nonpadding_target_token", "train/grad_norm", "train/z_loss"]
)
def test_less_of_a_loss_or_a_norm_is_better(metric):
    there = saved({10: 2.0, 20: 1.0, 30: 3.0}, metric)
    assert retention.ranked(there, metric) == [20, 10, 30]


@pytest.mark.parametrize("metric", ["average", "glue_sst2_v002/accuracy", "loss_task/f1"])
def test_more_of_all_else_is_better(metric):
    there = saved({10: 2.0, 20: 1.0, 30: 3.0}, metric)
    assert retention.ranked(there, metric) == [30, 10, 20]


def test_a_run_chooses_by_what_its_newest_checkpoint_says():
    assert retention.best_metric({}) is None
    assert retention.best_metric(saved({1: 1.0}, chosen=None) | saved({2: 1.0}, chosen="loss")) == "loss"
    assert retention.best_metric(saved({1: 1.0}, chosen="loss") | saved({2: 1.0}, chosen=None)) is None
    # Earlier versions said it of the best alone.
    earlier = {1: Manifest({}, {"loss": 1.0}, "loss"), 2: Manifest({})}
    assert retention.best_metric(earlier) == "loss"
