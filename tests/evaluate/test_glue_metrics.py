"""GLUE's metrics, from a model's words to the numbers, are scikit-learn's and SciPy's on any answers."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from t5x_mini.evaluate import metrics, postprocessors
from t5x_mini.tasks import glue
from t5x_mini.tasks.definitions import TextToTextTask

TASKS = [task for task in glue.definitions("tiny") if isinstance(task, TextToTextTask) and task.metrics]
OF_CLASSES = [task for task in TASKS if task.labels]
ids = pytest.mark.parametrize("task", OF_CLASSES, ids=lambda task: task.name)
# What a model writes that is no label of any task: an invalid answer.
GARBAGE = ("", "yes", "Acceptable", " entailment", "not", "<unk>", "entailment neutral", "1")

quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def answered(draw, labels, answers):
    """(targets, predictions) as texts: up to 40 rows, one among them; both may be the same in all rows."""
    rows = draw(st.integers(1, 40))

    def column(values):
        constant = st.sampled_from(values).map(lambda value: [value] * rows)
        return draw(st.one_of(st.lists(st.sampled_from(values), min_size=rows, max_size=rows), constant))

    return column(labels), column(answers)


def scored(task, targets, predictions):
    """The task's numbers of texts, by name."""
    postprocess = postprocessors.by_name(task.postprocessor)
    pairs = [
        [postprocess(text, {}, place == 0, task) for text in texts]
        for place, texts in enumerate((targets, predictions))
    ]
    return {key: value for name in task.metrics for key, value in metrics.by_name(name)(*pairs).items()}


def class_ids(labels, texts):
    """-1 where a text is no label."""
    return [labels.index(text) if text in labels else -1 for text in texts]


def quietly(function, *arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments, **options)


def expected(task, targets, predictions):
    """What scikit-learn says of class ids; an invalid answer to a question of two classes is the other one for F1."""
    found = {}
    if "accuracy" in task.metrics:
        found["accuracy"] = sklearn.metrics.accuracy_score(targets, predictions)
    if "matthews" in task.metrics:
        found["matthews_corrcoef"] = quietly(sklearn.metrics.matthews_corrcoef, targets, predictions)
    if "f1_with_invalid" in task.metrics:
        wrong = [1 - target if answer == -1 else answer for target, answer in zip(targets, predictions, strict=True)]
        found["f1"] = sklearn.metrics.f1_score(targets, wrong, zero_division=0.0)
    return {name: pytest.approx(100 * value, abs=1e-9) for name, value in found.items()}


@ids
@quick
@given(data=st.data())
def test_metrics_of_classes_are_scikit_learns(task, data):
    targets, predictions = data.draw(answered(task.labels, (*task.labels, *GARBAGE)))
    ours = scored(task, targets, predictions)
    assert ours == expected(task, class_ids(task.labels, targets), class_ids(task.labels, predictions))


def test_all_of_glues_metrics_are_compared():
    assert {name for task in OF_CLASSES for name in task.metrics} == {"accuracy", "matthews", "f1_with_invalid"}
    assert {name for task in TASKS if not task.labels for name in task.metrics} == {"pearson", "spearman"}


@quick
@given(rows=answered((0, 1, 2), (-1, 0, 1, 2)))
def test_f1_of_three_classes_is_the_mean_of_scikit_learns(rows):
    targets, predictions = rows
    each = sklearn.metrics.precision_recall_fscore_support(targets, predictions, labels=[0, 1, 2], zero_division=0.0)[2]
    ours = metrics.by_name("mean_3class_f1")(targets, predictions)
    assert ours == {"mean_3class_f1": pytest.approx(100 * np.mean(each), abs=1e-9)}


SCORES = tuple(f"{fifth / 5:.1f}" for fifth in range(26))
STSB = next(task for task in TASKS if not task.labels)


@quick
@given(rows=answered(SCORES, (*SCORES, "four", "", "3,2", "3.2.")))
def test_correlations_are_scipys_and_those_of_ranks(rows):
    targets, predictions = rows
    ours = scored(STSB, targets, predictions)
    assert ours.keys() == {"pearson_corrcoef", "spearman_corrcoef"}
    numbers = [float(text) for text in targets], [float(text) if text in SCORES else -1.0 for text in predictions]
    if min(len(set(column)) for column in numbers) == 1:  # a single row among them
        assert all(math.isnan(value) for value in ours.values())
        return
    ranks = [scipy.stats.rankdata(column) for column in numbers]
    for key, function, columns in (
        ("pearson_corrcoef", scipy.stats.pearsonr, numbers),
        ("spearman_corrcoef", scipy.stats.spearmanr, ranks),
    ):
        assert ours[key] == pytest.approx(100 * function(*numbers)[0], abs=1e-9)
        assert ours[key] == pytest.approx(100 * np.corrcoef(*columns)[0, 1], abs=1e-6)
