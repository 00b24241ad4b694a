"""Tests of t5x_mini/parallel/plain.py."""

import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from t5x_mini.errors import UserError
from t5x_mini.evaluate.id_predictor import Answer, Score
from t5x_mini.evaluate.results import Results
from t5x_mini.parallel import plain

_KEYS = st.none() | st.booleans() | st.integers() | st.text() | st.binary()
_LEAVES = _KEYS | st.floats(allow_nan=False)
_VALUES = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(_KEYS, inner),
    max_leaves=20,
)


@given(_VALUES)
def test_what_comes_back_is_what_was_sent(value):
    back = plain.from_bytes(plain.to_bytes(value))
    assert (back, repr(back)) == (value, repr(value))  # repr tells True from 1 and 1 from 1.0


@given(hnp.arrays(st.sampled_from(["int32", "float32", "bool", "uint16", ">f8"]), hnp.array_shapes(min_dims=0)))
def test_arrays_keep_dtype_and_shape(array):
    back = plain.from_bytes(plain.to_bytes({"tokens": array}))["tokens"]
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(back, array)


def test_numbers_that_are_not_finite_come_back():
    back = plain.from_bytes(plain.to_bytes([math.nan, math.inf, np.float32("nan")]))
    assert math.isnan(back[0]) and back[1] == math.inf and np.isnan(back[2]) and back[2].dtype == np.float32


@pytest.mark.parametrize("value", [UserError("no"), object(), {1, 2}, np.array([object()]), [print]])
def test_objects_are_not_sent(value):
    with pytest.raises(TypeError, match="is not told to other hosts"):
        plain.to_bytes(value)


@pytest.mark.parametrize(
    "value",
    [
        Answer(ids=[[3, 1]], scores=[-0.5]),
        Score(ids=[3, 1], log_probabilities=[-0.5, -2.0]),
        Results(step=3, split="validation", losses={"a": {"loss": 1.5}}, scores={}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_hosts_tell_one_another_comes_back(value):
    assert plain.from_bytes(plain.to_bytes([value])) == [value]


def test_a_pickle_is_not_read():
    with pytest.raises(ValueError):
        plain.from_bytes(pickle.dumps(print))
