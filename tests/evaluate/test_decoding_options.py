"""Tests of t5x_mini/evaluate/decoding_options.py: what a person needn't say."""

import pytest

from t5x_mini.errors import UserError
from t5x_mini.evaluate import decoding_options
from t5x_mini.model.config import DecodingConfig


def test_what_is_not_given_is_the_default():
    assert decoding_options.make(method=None, max_length=7, top_k=None) == (DecodingConfig(max_length=7), False)


def test_beam_searches_with_four_for_one_answer():
    assert decoding_options.make(method="beam") == (DecodingConfig(method="beam", num_decodes=4), False)
    assert decoding_options.make(method="beam", num_decodes=2) == (DecodingConfig(method="beam", num_decodes=2), True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "beem"}, "did you mean beam"),
        ({"temperature": 0.5}, "'greedy' doesn't read"),
        ({"method": "sample", "top_p": 1.5}, "at most 1"),
        ({"method": "sample", "seed": "a"}, "seed is 'a': write a whole number."),
        ({"max_length": 0}, "from 1 to 1,000,000"),
    ],
)
def test_mistakes_are_told(options, words):
    with pytest.raises(UserError, match=words):
        decoding_options.make(**options)
