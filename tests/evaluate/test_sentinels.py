"""Tests of t5x_mini/evaluate/sentinels.py: texts with masked spans, in pieces and in bytes."""

import pytest

from t5x_mini.errors import UserError
from t5x_mini.evaluate import sentinels
from t5x_mini.tasks import vocabularies

PIECES = vocabularies.load("docs_8k")
BYTES = vocabularies.ByteVocabulary()
BOTH = pytest.mark.parametrize("vocabulary", [PIECES, BYTES], ids=["pieces", "bytes"])


def sentinel(vocabulary, number):
    return vocabulary.vocab_size - 1 - number


@BOTH
def test_sentinels_are_single_ids_wherever_they_stand(vocabulary):
    ids = sentinels.encode(vocabulary, "The <extra_id_0> of(<extra_id_1>) it<extra_id_2>.")
    places = [token for token in ids if token in sentinels.sentinel_ids(vocabulary)]
    assert places == [sentinel(vocabulary, number) for number in range(3)]
    assert sentinels.encode(vocabulary, "<extra_id_9>") == [sentinel(vocabulary, 9)]


@BOTH
def test_a_text_without_sentinels_is_the_vocabularys(vocabulary):
    assert sentinels.encode(vocabulary, "A house, a tree.") == vocabulary.encode("A house, a tree.")


def test_what_follows_a_sentinel_has_no_space_that_was_not_there():
    ids = sentinels.encode(PIECES, "it<extra_id_0>.")
    assert [PIECES.decode([token]) for token in ids] == ["it", "<extra_id_0>", "."]
    assert ids[2] == PIECES.encode("it.")[-1]


@BOTH
def test_decode_names_sentinels_and_stops_at_eos(vocabulary):
    ids = [sentinel(vocabulary, 0), *vocabulary.encode("house"), sentinel(vocabulary, 1), 1, 5, 6]
    assert sentinels.decode(vocabulary, ids).replace(" ", "") == "<extra_id_0>house<extra_id_1>"


def answer_of(vocabulary, spans):
    """As a model writes it: `{number: text}`."""
    return [
        token for number, text in spans.items() for token in (sentinel(vocabulary, number), *vocabulary.encode(text))
    ]


@BOTH
@pytest.mark.parametrize("space", ["", " "])
def test_fill_puts_each_span_in_its_place(vocabulary, space):
    answer = answer_of(vocabulary, {0: f"{space}for inviting{space}", 1: f"{space}last", 2: ""})
    text = "Thank you <extra_id_0> me to your party <extra_id_1> week."
    filled = ("Thank you for inviting me to your party last week.", [])
    assert sentinels.fill(vocabulary, text, [*answer, 1]) == filled


@BOTH
def test_fill_changes_nothing_else(vocabulary):
    text = " 猫  and\u2028 {} <extra_id_0>,\t\x0b x(<extra_id_1>)  <extra_id_0> … \n"
    filled, missing = sentinels.fill(vocabulary, text, answer_of(vocabulary, {0: "a dog", 1: "b"}))
    assert filled == text.replace("<extra_id_0>", "a dog").replace("<extra_id_1>", "b")
    assert missing == []


@BOTH
def test_fill_leaves_what_the_answer_lacks(vocabulary):
    answer = answer_of(vocabulary, {2: "", 0: "and"})
    text = "One <extra_id_0> two <extra_id_1> three <extra_id_2> four <extra_id_3> <extra_id_1>"
    filled, missing = sentinels.fill(vocabulary, text, answer)
    assert filled == "One and two <extra_id_1> three four <extra_id_3> <extra_id_1>"
    assert missing == ["<extra_id_1>", "<extra_id_3>"]


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("a <extra_id_0> b", "a b"),
        ("a  <extra_id_0> b", "a  b"),
        ("a <extra_id_0>.", "a."),
        ("a <extra_id_0> , b", "a , b"),
        ("a <extra_id_0>", "a"),
        ("<extra_id_0> b", "b"),
        ("(<extra_id_0> b)", "(b)"),
        ("a <extra_id_0> <extra_id_1> b", "a b"),
        ("a <extra_id_0><extra_id_1>.", "a."),
        ("a <extra_id_0>\nb", "a\nb"),
        ("a<extra_id_0> b", "a b"),
        ("a<extra_id_0>b", "ab"),
    ],
)
def test_an_empty_span_leaves_no_gap(text, filled):
    assert sentinels.fill(PIECES, text, answer_of(PIECES, {0: "", 1: ""})) == (filled, [])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"ab\xff".decode(errors="surrogateescape"), "Line 3 is not UTF-8: it has the byte 0xff at place 2"),
        ("\ud83d", r"half a character, '\\ud83d', at place 0"),
        (5, "Line 3 is 5, of type int: write a string"),
    ],
)
def test_what_has_no_form_in_utf_8_is_refused(text, words):
    sentinels.check_text("\U0001f600", "Line 3")
    with pytest.raises(UserError, match=words):
        sentinels.check_text(text, "Line 3")


def test_a_sentinel_that_the_vocabulary_lacks_is_refused():
    with pytest.raises(UserError, match="no <extra_id_100>: the last is <extra_id_99>"):
        sentinels.encode(BYTES, "a <extra_id_0> b <extra_id_100>")
    with pytest.raises(UserError, match="it has none"):
        sentinels.encode(vocabularies.ByteVocabulary(0), "a <extra_id_0> b")


MARKS = range(96, 100)


@pytest.mark.parametrize(
    ("targets", "spans"),
    [
        ([99, 5, 6, 98, 7, 1], {99: [5, 6], 98: [7]}),
        ([99, 5, 1, 98, 7], {99: [5]}),
        ([99, 5, 0, 98, 7], {99: [5]}),
        ([99, 98, 7], {99: [], 98: [7]}),
        ([4, 4, 99, 5], {99: [5]}),
        ([99, 5, 99, 6, 98, 7], {99: [5], 98: [7]}),
        ([], {}),
    ],
)
def test_parse_spans(targets, spans):
    assert sentinels.parse_spans(targets, MARKS) == spans
