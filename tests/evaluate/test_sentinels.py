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


@BOTH
def test_fill_puts_each_span_in_its_place(vocabulary):
    inputs = [*sentinels.encode(vocabulary, "Thank you <extra_id_0> me to your party <extra_id_1> week."), 1]
    space = " " if vocabulary is PIECES else ""  # is part of a piece, but a byte of its own
    answer = f"<extra_id_0>{space}for inviting<extra_id_1>{space}last<extra_id_2>"
    answer = [*sentinels.encode(vocabulary, answer), 1]
    assert sentinels.fill(vocabulary, inputs, answer) == ("Thank you for inviting me to your party last week.", [])


@BOTH
def test_fill_leaves_what_the_answer_lacks_and_takes_what_is_empty(vocabulary):
    inputs = sentinels.encode(vocabulary, "One <extra_id_0> two <extra_id_1> three <extra_id_2> four")
    answer = [sentinel(vocabulary, 2), sentinel(vocabulary, 0), *vocabulary.encode("and")]
    text, missing = sentinels.fill(vocabulary, inputs, answer)
    assert " ".join(text.split()) == "One and two <extra_id_1> three four"
    assert missing == ["<extra_id_1>"]


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
