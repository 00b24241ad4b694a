"""Metrics are T5's, to the last digits, on T5's own answers for cases that go wrong easily."""

from __future__ import annotations

import math

import numpy as np
import pytest
from task_goldens import T5_METRICS

from t5x_mini.errors import UserError
from t5x_mini.evaluate import metrics

CASES = [
    pytest.param(name, case, id=f"{name}, {case['case']}")
    for name, cases in T5_METRICS["metrics"].items()
    for case in cases
]


@pytest.mark.parametrize("name, case", CASES)
def test_gives_t5s_numbers(name, case):
    values = metrics.by_name(name)(case["targets"], case["predictions"])
    assert values.keys() == case["values"].keys()
    for key, expected in case["values"].items():
        if expected is None:
            assert math.isnan(values[key])
        else:
            assert values[key] == pytest.approx(expected, abs=1e-9)
        assert type(values[key]) is float


def test_every_metric_is_compared_with_t5s():
    compared = {metrics.by_name(name) for name in T5_METRICS["metrics"]}
    assert set(metrics.METRICS.values()) == compared


def test_f1_leaves_the_predictions_alone():
    predictions = np.array([-1, 1, 0])
    assert metrics.by_name("f1")([1, 1, 0], predictions) == {"f1": pytest.approx(200 / 3)}
    assert predictions.tolist() == [-1, 1, 0]


def test_f1_refuses_more_than_two_classes():
    with pytest.raises(UserError, match="two classes, 0 and 1, but the targets are 0, 1, 2.*'mean_3class_f1'"):
        metrics.by_name("f1")([0, 1, 2], [0, 1, 2])


def test_rouge_is_the_same_each_time_and_near_t5s_bootstrap():
    from rouge_score import scoring

    rng = np.random.default_rng(0)
    words = np.array(["the", "cat", "dog", "sat", "ran", ".", "late", "early"])
    targets, predictions = ([" ".join(rng.choice(words, 12)) for _ in range(60)] for _ in range(2))
    values = metrics.by_name("rouge")(targets, predictions)
    assert metrics.by_name("rouge")(targets, predictions) == values

    aggregator = scoring.BootstrapAggregator()
    for target, prediction in zip(targets, predictions, strict=True):
        aggregator.add_scores({"f": scoring.Score(0, 0, metrics.by_name("rouge")([target], [prediction])["rouge1"])})
    interval = aggregator.aggregate()["f"]
    assert interval.mid.fmeasure == pytest.approx(values["rouge1"], abs=0.5)


def test_one_row_has_no_correlation():
    assert math.isnan(metrics.by_name("pearson")([1.0], [1.0])["pearson_corrcoef"])


def test_takes_t5s_names_too():
    assert metrics.by_name("matthews_corrcoef") is metrics.by_name("matthews")
    assert metrics.by_name("f1_score_with_invalid") is metrics.by_name("f1")


def test_names_the_closest_metric():
    with pytest.raises(UserError, match="no metric 'mathews'; did you mean matthews\\?.* accuracy, "):
        metrics.by_name("mathews")


def _results() -> dict[str, dict[str, float]]:
    results: dict[str, dict[str, float]] = {}
    for tag, value in T5_METRICS["glue_average"]["scores"].items():
        task, metric = tag.split("/")
        results.setdefault(task, {})[metric] = value
    return results


def test_glues_average_is_t5s():
    results = _results() | {"glue_wnli_v002": {"accuracy": 0.0}}
    assert metrics.glue_average(results) == pytest.approx(T5_METRICS["glue_average"]["average"])


@pytest.mark.parametrize("task", ["glue_rte_v002", "glue_mnli_matched_v002"])
def test_there_is_no_average_of_a_part(task):
    results = _results()
    del results[task]
    assert metrics.glue_average(results) is None
