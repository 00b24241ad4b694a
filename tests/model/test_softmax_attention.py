"""Attention with a gradient of its own, against the formula and autodiff's gradient of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens import error
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from t5x_mini.model.attention import KeysValues, dot_product_attention
from t5x_mini.model.layers import dropout
from t5x_mini.model.softmax_attention import MASKED, softmax_attention, sum_over_rows

ROWS, QUERIES, KEYS, HEADS, WIDTH = 8, 5, 7, 4, 6
INPUTS = ("query", "keys", "values", "bias")


def plain(query, keys, values, bias, mask, kept=1.0):
    """The twin: weights as the formula has them, and no gradient of its own."""
    scores = jnp.einsum("bqhd,bhkd->bhqk", query, keys).astype(jnp.float32)
    scores = scores if bias is None else scores + bias
    weights = jax.nn.softmax(jnp.where(mask, scores, MASKED), axis=-1).astype(query.dtype) * kept
    return jnp.einsum("bhqk,bhkd->bqhd", weights, values)


def inputs(seed=0, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(seed), 5)
    query = jax.random.normal(keys[0], (ROWS, QUERIES, HEADS, WIDTH), dtype)
    key, value = (jax.random.normal(k, (ROWS, HEADS, KEYS, WIDTH), dtype) for k in keys[1:3])
    bias = jax.random.normal(keys[3], (1, HEADS, QUERIES, KEYS))
    return (query, key, value, bias), jax.random.normal(keys[4], query.shape, dtype)


def masks():
    shown = np.random.default_rng(0).random((ROWS, 1, QUERIES, KEYS)) < 0.6
    shown[..., 0] = True
    nothing = shown.copy()
    nothing[1, 0, 2] = nothing[3] = False
    padding = np.arange(KEYS) < np.array([7, 1, 0, 3, 5, 6, 2, 7])[:, None, None, None]
    return {"all": np.ones_like(shown), "some": shown, "nothing for some queries": nothing, "padding": padding}


def with_gradients(function, given, upstream):
    def objective(*given):
        out = function(*given)
        return jnp.sum(out.astype(jnp.float32) * upstream.astype(jnp.float32)), out

    gradients, out = jax.jit(jax.grad(objective, argnums=tuple(range(len(given))), has_aux=True))(*given)
    return out, gradients


@pytest.mark.parametrize("keep_weights", [True, False])
@pytest.mark.parametrize("name", masks())
def test_values_and_all_gradients_are_those_of_the_formula(name, keep_weights):
    given, upstream = inputs()
    mask = jnp.asarray(masks()[name])
    out, gradients = with_gradients(lambda *given: softmax_attention(*given, mask, keep_weights), given, upstream)
    expected, expected_gradients = with_gradients(lambda *given: plain(*given, mask), given, upstream)
    assert error(out, expected) < 1e-5
    for name_, gradient, wanted in zip(INPUTS, gradients, expected_gradients, strict=True):
        assert np.abs(wanted).max() > 0, name_
        assert error(gradient, wanted) < 1e-5, name_


def test_without_a_bias():
    (query, keys, values, _), upstream = inputs(1)
    mask, given = jnp.asarray(masks()["some"]), (query, keys, values)
    out, gradients = with_gradients(lambda q, k, v: softmax_attention(q, k, v, None, mask), given, upstream)
    expected, expected_gradients = with_gradients(lambda q, k, v: plain(q, k, v, None, mask), given, upstream)
    assert error(out, expected) < 1e-5
    assert max(map(error, gradients, expected_gradients)) < 1e-5


def test_bfloat16_is_as_near_to_float32_as_the_formula_is():
    given, upstream = inputs(2)
    mask = jnp.asarray(masks()["some"])
    exact = with_gradients(lambda *given: plain(*given, mask), given, upstream)
    short, short_upstream = (*(x.astype(jnp.bfloat16) for x in given[:3]), given[3]), upstream.astype(jnp.bfloat16)
    ours = with_gradients(lambda *given: softmax_attention(*given, mask), short, short_upstream)
    theirs = with_gradients(lambda *given: plain(*given, mask), short, short_upstream)
    assert ours[0].dtype == jnp.bfloat16 and [x.dtype for x in ours[1]] == [x.dtype for x in short]
    rounding = 2.0**-8
    for made, formula, wanted in zip(*map(jax.tree.leaves, (ours, theirs, exact)), strict=True):
        made, formula = (np.asarray(x, np.float32) for x in (made, formula))
        assert error(made, wanted) < error(formula, wanted) + 2 * rounding


def test_dropout_draws_the_weights_that_it_did():
    (query, keys, values, bias), upstream = inputs(3)
    mask, key = jnp.asarray(masks()["some"]), jax.random.key(5)
    kept = dropout(jnp.ones((ROWS, HEADS, QUERIES, KEYS)), 0.4, key, broadcast=2)

    def ours(query, keys, values, bias):
        parts = [KeysValues(keys, values)]
        return dot_product_attention(query, parts, mask=mask, bias=bias, dropout_rate=0.4, key=key)

    given = query, keys, values, bias
    out, gradients = with_gradients(ours, given, upstream)
    expected, expected_gradients = with_gradients(lambda *given: plain(*given, mask, kept), given, upstream)
    assert 0 < np.mean(kept == 0) < 1
    assert error(out, expected) < 1e-5
    assert max(map(error, gradients, expected_gradients)) < 1e-5


def test_nothing_of_size_queries_times_keys_is_kept():
    given, _ = inputs()
    mask, weights = jnp.asarray(masks()["padding"]), (ROWS, HEADS, QUERIES, KEYS)

    def kept(function):
        return {x.shape for x in jax.tree.leaves(jax.vjp(lambda *given: function(*given, mask), *given)[1])}

    assert weights not in kept(softmax_attention)
    assert weights in kept(functools.partial(softmax_attention, keep_weights=True))
    assert weights in kept(plain)


@pytest.mark.parametrize("sizes", [(2, 2, 2), (1, 8, 1), (1, 1, 8)])
def test_the_same_on_a_mesh(sizes):
    devices = np.asarray(jax.devices()[:8]).reshape(sizes)
    mesh = Mesh(devices, ("data", "fsdp", "model"), axis_types=(AxisType.Auto,) * 3)
    given, upstream = inputs(4)
    mask = jnp.asarray(masks()["some"])
    expected, expected_gradients = with_gradients(lambda *given: plain(*given, mask), given, upstream)
    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    split = [
        *(jax.device_put(x, rows) for x in given[:3]),
        jax.device_put(given[3], NamedSharding(mesh, PartitionSpec())),
    ]
    with jax.set_mesh(mesh):
        out, gradients = with_gradients(lambda *given: softmax_attention(*given, mask), split, upstream)
    assert error(out, expected) < 1e-5
    assert max(map(error, gradients, expected_gradients)) < 1e-5


@pytest.mark.parametrize("rows", [1, 6, 16, 40, 37])
def test_rows_are_summed_in_float32(rows):
    x = jax.random.normal(jax.random.key(rows), (rows, 2, 3, 4), jnp.bfloat16)
    made = sum_over_rows(x)
    assert made.dtype == jnp.float32 and made.shape == (1, 2, 3, 4)
    assert error(made, np.asarray(x, np.float64).sum(0, keepdims=True)) < 1e-6
