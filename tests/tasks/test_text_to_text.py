"""Templates and `write` functions."""

from __future__ import annotations

import pytest

from t5x_mini.errors import UserError
from t5x_mini.tasks.definitions import TextToTextTask
from t5x_mini.tasks.text_to_text import write_row


def _pairs(**changed) -> TextToTextTask:
    templates = {"inputs": "translate English to German: {en}", "targets": "{de}"}
    return TextToTextTask(name="pairs", files={"train": "pairs.tsv"}, **(templates | changed))


def test_fills_in_fields_as_they_are():
    row = {"en": 'a "quoted"\ttab {brace}', "de": "ß — 東京", "other": 3}
    assert write_row(_pairs(), row) == {
        "inputs": 'translate English to German: a "quoted"\ttab {brace}',
        "targets": "ß — 東京",
    }


def test_takes_numbers_nested_fields_and_braces():
    definition = _pairs(inputs="{{{pair[en]}}} {n:.1f}", targets="{#1 String}")
    row = {"pair": {"en": "hello"}, "n": 2.25, "#1 String": "x"}
    assert write_row(definition, row) == {"inputs": "{hello} 2.2", "targets": "x"}


def test_leaves_out_a_row_with_a_null_that_a_template_uses():
    assert write_row(_pairs(), {"en": None, "de": "x"}) is None
    assert write_row(_pairs(), {"en": "x", "de": "y", "note": None}) is not None


def test_bytes_are_read_as_text():
    assert write_row(_pairs(), {"en": "été".encode(), "de": "Sommer"})["inputs"] == "translate English to German: été"
    with pytest.raises(UserError, match="The field 'de' is not text: b'\\\\xff' is not UTF-8"):
        write_row(_pairs(), {"en": "x", "de": b"\xff"})


def test_names_the_fields_that_there_are():
    with pytest.raises(UserError, match=r"pairs.inputs = .*\{en\}' uses the field 'en'.*'english', 'german'"):
        write_row(_pairs(), {"english": "x", "german": "y"})


@pytest.mark.parametrize("template", ["{de", "de}", "{de!z}", "{de.missing}", "{de:d}"])
def test_refuses_what_is_no_template(template):
    with pytest.raises(UserError, match="pairs.targets = .* isn't a template: .*in braces"):
        write_row(_pairs(targets=template), {"en": "x", "de": "y"})


@pytest.mark.parametrize("template", ["{}", "{0}"])
def test_refuses_a_template_without_a_name(template):
    with pytest.raises(UserError, match="uses an empty field.*'en', 'de'"):
        write_row(_pairs(targets=template), {"en": "x", "de": "y"})


def _upper_or_nothing(row):
    return {"inputs": row["en"].upper(), "targets": row["de"]} if row["en"] else None


def test_a_function_goes_before_the_templates():
    definition = _pairs(write=_upper_or_nothing)
    assert write_row(definition, {"en": "x", "de": "y"}) == {"inputs": "X", "targets": "y"}
    assert write_row(definition, {"en": "", "de": "y"}) is None


def _without_targets(row):
    return {"inputs": "x"}


def test_refuses_a_function_that_returns_something_else():
    with pytest.raises(UserError, match="`write` function of 'pairs' returned .*'targets': str"):
        write_row(_pairs(write=_without_targets), {"en": "x"})


@pytest.mark.parametrize(
    "template",
    [
        "{en.__class__}",
        "{en[0]}",
        "{pair.keys}",
        "{pair[en].upper}",
        "{pair[en][0]}",
        "{en:>100000}",
        "{en:{pair[wide]}}",
    ],
)
def test_a_template_reaches_for_nothing_but_fields(template):
    row = {"en": "hello", "de": "x", "pair": {"en": "hello", "wide": "99999999"}}
    with pytest.raises(UserError, match="isn't a template: .*(asks for more than a field|is wider than any example)"):
        write_row(_pairs(inputs=template), row)


@pytest.mark.parametrize("template, text", [("{all[1]}", "b"), ("{pair[a.b]}", "c"), ("{en:>4}", "   a")])
def test_a_template_reaches_into_fields(template, text):
    row = {"en": "a", "de": "x", "all": ["a", "b"], "pair": {"a.b": "c"}}
    assert write_row(_pairs(inputs=template), row)["inputs"] == text
