"""Tests of t5x_mini/report/examples.py: answers as HTML."""

import math
import re

import pytest
from made_up_runs import write_answers, write_run

from t5x_mini.report import examples
from t5x_mini.report.run_data import read_run, read_runs

INPUTS = "Thank you <extra_id_0> me to your party <extra_id_1> week."
TARGET = "<extra_id_0> for inviting <extra_id_1> last"


def of_rows(tmp_path, *rows, task="letters"):
    folder = write_run(tmp_path / "one", steps=1)
    write_answers(folder, task, 1, rows)
    return "".join(examples.sections([read_run(folder)]))


def test_spans_of_a_target():
    assert examples.spans(TARGET) == {0: "for inviting", 1: "last"}
    assert examples.spans("before <extra_id_2> a <extra_id_2> b") == {2: "a"}
    assert examples.spans("no sentinels") == {}


def test_right_and_wrong_spans_have_the_colour_of_their_sentinel():
    html = examples.fill(INPUTS, {0: "for inviting", 1: "next"}, examples.spans(TARGET))
    assert '<mark class="span s0 right" title="right">for inviting</mark> me' in html
    assert '<mark class="span s1 wrong" title="wrong; the target: last">next</mark> week.' in html


def test_a_span_that_the_answer_lacks_stays_a_sentinel():
    html = examples.fill(INPUTS, {0: ""}, examples.spans(TARGET))
    assert '<mark class="span s0 wrong" title="wrong; the target: for inviting">∅</mark>' in html
    assert "&lt;extra_id_1&gt;</mark>" in html and "the answer has no such span" in html


def test_a_span_that_the_target_lacks_is_not_judged():
    html = examples.fill("a <extra_id_7>", {7: "b"}, {})
    assert 'class="span s1"' in html and "the target has no such span" in html


def test_the_text_around_spans_is_the_target_s(tmp_path):
    html = of_rows(tmp_path, {"inputs": INPUTS, "targets": TARGET, "prediction": "<extra_id_0> for asking"})
    plain = re.sub(r"<[^>]+>", "", html)
    assert "Thank you for inviting me to your party last week." in plain
    assert "Thank you for asking me to your party" in plain


def test_predictions_of_hostile_text_are_escaped(tmp_path):
    evil = '</script><img src=x onerror="alert(1)">'
    rows = [
        {"inputs": evil, "targets": evil, "prediction": evil, "scores": {evil: -0.1, "b": -1.0}},
        {"inputs": f"{evil} <extra_id_0>", "targets": f"<extra_id_0> {evil}", "prediction": f"<extra_id_0> {evil}!"},
    ]
    html = of_rows(tmp_path, *rows, task="<i>task")
    assert "<img" not in html and "</script" not in html and "<i>" not in html
    assert html.count("&lt;img src=x onerror=&quot;alert(1)&quot;&gt;") >= 6


@pytest.mark.parametrize(
    ("row", "correct"),
    [
        ({"prediction": "a", "targets": "b", "correct": True}, True),
        ({"prediction": " a  b", "targets": "a b"}, True),
        ({"prediction": "a", "targets": "b"}, False),
        ({"prediction": ["b", "a"], "targets": "b"}, True),
        ({"prediction": "a"}, None),
    ],
)
def test_right_or_wrong(row, correct):
    assert examples.is_correct(row) is correct


def test_verdicts_are_words_and_not_colour_alone(tmp_path):
    html = of_rows(
        tmp_path, {"inputs": "q", "targets": "a", "prediction": "a"}, {"inputs": "r", "targets": "a", "prediction": ""}
    )
    assert html.count("✓ right") == 1 and html.count("✗ wrong") == 1 and "(nothing)" in html


def test_label_scores_are_shares(tmp_path):
    scores = {"no": math.log(0.1), "yes": math.log(0.3), "never": None, "broken": -math.inf}
    row = {"inputs": "q", "targets": "yes", "prediction": "yes", "scores": scores}
    html = of_rows(tmp_path, row)
    assert re.findall(r"width:([\d.]+)%", html) == ["75.0", "25.0", "0.0"]
    assert "yes (target)" in html


def test_answers_of_runs_stand_together(tmp_path):
    for name in ("one", "two"):
        folder = write_run(tmp_path / name, steps=1)
        write_answers(folder, "letters", 1, [{"inputs": f"q{i}", "targets": "a", "prediction": name} for i in range(9)])
    (html,) = examples.sections(read_runs([str(tmp_path / "one"), str(tmp_path / "two")]))
    assert html.count("<article") == 9 and "3 more examples" in html
    first = html.partition("</article>")[0]
    assert "one <span" in first and "two <span" in first


def test_rows_that_lack_parts_are_shown(tmp_path):
    html = of_rows(tmp_path, {"prediction": {"a": 1}}, {"inputs": 7, "targets": None, "prediction": None})
    assert html.count("<article") == 2 and "{&quot;a&quot;: 1}" in html
