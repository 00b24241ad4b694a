"""Tables and code as a renderer of Markdown will see them."""

import html

from t5x_mini.train import markdown


def cells(line):
    return [html.unescape(cell.strip()) for cell in line.strip("|").split(" | ")]


def test_answers_are_a_table():
    rows = [
        {"inputs": "cola sentence: fine", "targets": "acceptable", "prediction": "acceptable", "correct": True},
        {"inputs": "b", "targets": "c", "prediction": "d", "correct": False},
        {"inputs": "b", "targets": "c", "prediction": "d"},
    ]
    header, rule, *lines = markdown.examples(rows).splitlines()
    assert cells(header)[:3] == ["inputs", "target", "prediction"] and set(rule) == {"|", "-"}
    assert [cells(line)[:3] for line in lines] == [
        ["cola sentence: fine", "acceptable", "acceptable"],
        ["b", "c", "d"],
        ["b", "c", "d"],
    ]
    assert [cells(line)[-1] for line in lines] == ["right", "wrong", ""]


def test_no_text_becomes_markup():
    text = "<extra_id_0> | *a* _b_ `c` [d](e) \\ &lt; # - 1."
    line = markdown.examples([{"inputs": text, "targets": "two\nlines", "prediction": None}]).splitlines()[2]
    assert cells(line)[:3] == [text, "two lines", ""]
    for special in "<>*_`[](\\":
        assert special not in line
    assert line.count("|") == 5


def test_long_texts_are_cut():
    line = markdown.examples([{"inputs": "word " * 1000, "targets": "", "prediction": ""}]).splitlines()[2]
    assert len(cells(line)[0]) == 400 and cells(line)[0].endswith("…")


def test_code_is_fenced_with_more_than_it_holds():
    assert markdown.code("a = 1\n") == "```\na = 1\n```"
    assert markdown.code("```\nb").splitlines()[0] == "````"
