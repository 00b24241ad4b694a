"""The parts of the closing report on examples made by hand; whole reports are in test_end_to_end.py."""

import math

import numpy as np
import pytest

from t5x_mini.evaluate import report
from t5x_mini.tasks import vocabularies


@pytest.fixture(scope="module")
def vocabulary():
    return vocabularies.load("docs_8k")


def test_word_ids():
    is_word = report.word_ids(10, 3)
    assert np.flatnonzero(is_word).tolist() == [2, 3, 4, 5, 6]


def test_real_words_only():
    batch = {
        "decoder_target_tokens": np.array([[9, 5, 1, 0], [4, 8, 2, 1]]),
        "decoder_loss_weights": np.array([[1, 1, 1, 0], [0, 1, 1, 1]], np.int32),
        "other": "as it was",
    }
    kept = report.real_words_only(batch, report.word_ids(10, 3))
    assert kept["decoder_loss_weights"].tolist() == [[0, 1, 0, 0], [0, 0, 1, 0]]
    assert kept["decoder_loss_weights"].dtype == np.int32
    assert kept["decoder_target_tokens"] is batch["decoder_target_tokens"]
    assert kept["other"] == "as it was"


def test_swap_inputs_of_an_encoder_decoder():
    batch = {"encoder_input_tokens": np.array([[3, 1], [4, 1], [5, 1]]), "decoder_target_tokens": np.arange(3)}
    swapped = report.swap_inputs(batch)
    assert swapped["encoder_input_tokens"].tolist() == [[4, 1], [5, 1], [3, 1]]
    assert swapped["decoder_target_tokens"] is batch["decoder_target_tokens"]


def test_swap_inputs_of_a_decoder_only_row():
    # Inputs 3 4 1 and targets 10 11 1; inputs 5 1 and targets 12 1.
    batch = {
        "decoder_target_tokens": np.array([[3, 4, 1, 10, 11, 1], [5, 1, 12, 1, 0, 0]]),
        "decoder_input_tokens": np.array([[0, 3, 4, 1, 10, 11], [0, 5, 1, 12, 0, 0]]),
        "decoder_loss_weights": np.array([[0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 0, 0]]),
        "decoder_causal_attention": np.array([[1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 0]]),
    }
    swapped = report.swap_inputs(batch)
    assert {name: rows.tolist() for name, rows in swapped.items()} == {
        "decoder_target_tokens": [[5, 1, 10, 11, 1, 0], [3, 4, 1, 12, 1, 0]],
        "decoder_input_tokens": [[0, 5, 1, 10, 11, 1], [0, 3, 4, 1, 12, 1]],
        "decoder_loss_weights": [[0, 0, 1, 1, 1, 0], [0, 0, 0, 1, 1, 0]],
        "decoder_causal_attention": [[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0]],
    }


def test_unigram_loss():
    # Add-one smoothed: 4/8, 1/8, 3/8.
    counts = np.array([3, 0, 2])
    batches = [
        {"decoder_target_tokens": np.array([[0, 1]]), "decoder_loss_weights": np.array([[1, 1]])},
        {"decoder_target_tokens": np.array([[2, 1]]), "decoder_loss_weights": np.array([[1, 0]])},
    ]
    expected = -(math.log(4 / 8) + math.log(1 / 8) + math.log(3 / 8)) / 3
    assert report.unigram_loss(batches, counts) == pytest.approx(expected, rel=1e-12)


def test_split_row_of_both_layouts():
    encoder_decoder = {"encoder_input_tokens": np.array([[3, 1, 0]]), "decoder_target_tokens": np.array([[9, 1]])}
    decoder_only = {
        "decoder_target_tokens": np.array([[3, 1, 9, 1, 0]]),
        "decoder_causal_attention": np.array([[1, 1, 1, 0, 0]]),
    }
    inputs, targets = report.split_row(encoder_decoder, 0)
    assert (inputs.tolist(), targets.tolist()) == ([3, 1], [9, 1])
    inputs, targets = report.split_row(decoder_only, 0)
    assert (inputs.tolist(), targets.tolist()) == ([3, 1], [9, 1, 0])


def test_split_row_of_plain_language_modelling():
    inputs, targets = report.split_row({"decoder_target_tokens": np.array([[3, 4, 9, 1, 0]])}, 0)
    assert (inputs.tolist(), targets.tolist()) == ([], [3, 4, 9, 1, 0])


def masked(vocabulary, *parts):
    """Tokens of a text in which `None` stands for the next sentinel; and the sentinels."""
    end = vocabulary.vocab_size
    tokens, used = [], 0
    for part in parts:
        if part is None:
            used += 1
            tokens.append(end - used)
        else:
            tokens += vocabulary.encode(part)
    return np.array([*tokens, 1]), range(end - vocabulary.extra_ids, end)


def test_a_masked_sentence(vocabulary):
    sentence = ("The function returns the sum of", None, "in the given array and is as fast as", None, "ever be. ")
    inputs, sentinels = masked(vocabulary, "This is", None, "cut off. ", *sentence, "So is this")
    text, wanted = report._masked_sentence(inputs, sentinels, vocabulary)
    assert text == "The function returns the sum of [1] in the given array and is as fast as [2] ever be."
    assert wanted == [vocabulary.vocab_size - 2, vocabulary.vocab_size - 3]


@pytest.mark.parametrize(
    "parts",
    [
        ("Begin. ", "The function returns the sum of all elements in the given array, always. ", "End", None),
        ("Begin. ", "Short", None, "one. ", "End"),
        ("Begin. ", "A long sentence that never ends" * 10, None, "but here. ", "End"),
        ("The function returns", None, "the sum of all elements in the given array and stops",),
    ],
)  # fmt: skip
def test_what_is_no_sample(vocabulary, parts):
    inputs, sentinels = masked(vocabulary, *parts)
    assert report._masked_sentence(inputs, sentinels, vocabulary) is None


def test_filled_spans(vocabulary):
    spans = {8099: vocabulary.encode("all elements"), 8097: []}
    assert report._filled([8099, 8098, 8097], spans, vocabulary) == "[1] all elements   [2] (nothing)   [3] (nothing)"


def test_comparison_in_words():
    assert report._compare(2.0, 3.5) == "(1.500 worse)"
    assert report._compare(2.0, 1.75) == "(0.250 better)"
