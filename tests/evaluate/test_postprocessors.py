"""Postprocessors are T5's."""

from __future__ import annotations

import pytest
from task_goldens import T5_METRICS

from t5x_mini.errors import UserError
from t5x_mini.evaluate import postprocessors
from t5x_mini.tasks.definitions import TextToTextTask

TASK = TextToTextTask(name="my_task", files={}, labels=("no", "yes", "maybe"))
CASES = [(name, *case) for name, cases in T5_METRICS["postprocessors"].items() for case in cases]


@pytest.mark.parametrize("name, text, expected", CASES)
def test_gives_t5s_values(name, text, expected):
    assert postprocessors.by_name(name)(text, {}, False, TASK) == expected


def test_without_one_the_text_stays():
    assert postprocessors.by_name(None)(" A ", {}, False, TASK) == " A "


@pytest.mark.parametrize(
    "answers, expected",
    [({"text": ["U.S.", "the U.S."]}, ["U . S . ", "the U . S . "]), (["U.S."], ["U.S."]), ("U.S.", ["U.S."])],
)
def test_all_answers_of_a_question_are_its_target(answers, expected):
    assert postprocessors.by_name("qa")("U . S . ", {"answers": answers}, True, TASK) == expected
    assert postprocessors.by_name("qa")("U . S . ", {"answers": answers}, False, TASK) == "U . S . "


def test_asks_for_the_answers():
    with pytest.raises(UserError, match="my_task: .* 'qa' needs a field 'answers'.*'question', 'answer'"):
        postprocessors.by_name("qa")("x", {"question": "?", "answer": "x"}, True, TASK)


def test_asks_for_the_labels():
    with pytest.raises(UserError, match=r"my_task/TextToTextTask.labels = \('no', 'yes'\)"):
        postprocessors.by_name("label")("x", {}, False, TextToTextTask(name="my_task", files={}))


def test_names_the_closest_postprocessor():
    with pytest.raises(UserError, match="no postprocessor 'labels'; did you mean label\\? There are label, float"):
        postprocessors.by_name("labels")


@pytest.mark.parametrize(
    ("scoring", "words"),
    [
        ({"metrics": ("accuracy", "blue")}, "no metric 'blue'; did you mean bleu"),
        ({"postprocessor": "lable"}, "no postprocessor 'lable'; did you mean label"),
        ({"postprocessor": "label"}, r"my_task/TextToTextTask.labels = \('no', 'yes'\)"),
    ],
)
def test_scoring_that_cannot_be_is_refused(scoring, words):
    with pytest.raises(UserError, match=words):
        postprocessors.check_scoring(TextToTextTask(name="my_task", files={}, **scoring))


def test_scoring_that_can_be():
    postprocessors.check_scoring(TextToTextTask(name="my_task", files={}))
    scoring = {"metrics": ("accuracy",), "postprocessor": "label", "labels": ("no", "yes")}
    postprocessors.check_scoring(TextToTextTask(name="my_task", files={}, **scoring))
