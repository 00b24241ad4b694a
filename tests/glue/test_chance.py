"""The best constant answer."""

import itertools

import pytest
import sklearn.metrics

from t5x_mini.evaluate import metrics
from t5x_mini.feed.config import FeedConfig
from t5x_mini.glue import chance
from t5x_mini.tasks import registry

FEED = FeedConfig(mixture_or_task_name="", task_feature_lengths={}, batch_size=1, glue_dir="tiny")


def test_each_metric_has_its_own_best_answer():
    targets = [0] * 6 + [1] * 4
    found = chance.best_constant(["accuracy", "f1_with_invalid", "matthews"], targets)
    ones = [1] * 10
    expected = {
        "accuracy": 60.0,
        "f1": 100 * sklearn.metrics.f1_score(targets, ones),
        "matthews_corrcoef": 0.0,
    }
    assert found == pytest.approx(expected)


def test_one_answer_has_no_correlation():
    assert chance.best_constant(["pearson", "spearman"], [0.0, 2.4, 5.0]) == {
        "pearson_corrcoef": 0.0,
        "spearman_corrcoef": 0.0,
    }


@pytest.mark.parametrize("name", ["cola", "mrpc", "stsb", "mnli_mismatched"])
def test_no_constant_answer_is_better(name):
    task = registry.find(name, FEED)
    targets = chance.targets(task, "validation")
    best = chance.best_constant(task.metrics, targets)
    for constant, metric in itertools.product(set(targets), task.metrics):
        for number, value in metrics.by_name(metric)(targets, [constant] * len(targets)).items():
            assert not value > best[number]
    assert len(targets) >= 198


def test_reads_as_many_rows_as_were_scored():
    assert len(chance.targets(registry.find("rte", FEED), "validation", limit=7)) == 7
