"""Attention and the relative position bias against the formulas, written out in numpy float64 or exact integers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from goldens import error
from hypothesis import given, settings
from hypothesis import strategies as st

from t5x_mini.model.attention import (
    Attention,
    KeysValues,
    RelativePositionBias,
    dot_product_attention,
    relative_position_bucket,
)

SIZES = [(1, 1), (1, 7), (7, 1), (6, 6), (4, 40), (40, 4)]
BATCH, QUERIES, KEYS, HEADS, WIDTH = 2, 5, 7, 3, 4


def literal_bucket(distance, *, bidirectional, buckets, max_distance):
    """T5's rule in exact integers: bucket `exact + floor(log(n / exact) / log(max / exact) * rest)` for far keys."""
    offset = 0
    if bidirectional:
        buckets //= 2
        offset = buckets if distance > 0 else 0
        n = abs(distance)
    else:
        n = max(-distance, 0)
    exact = buckets // 2
    if n < exact:
        return offset + n
    rest, steps = buckets - exact, 0
    # steps <= log(n / exact) / log(max / exact) * rest, with the logarithms taken away.
    while steps < rest and n**rest * exact ** (steps + 1) >= max_distance ** (steps + 1) * exact**rest:
        steps += 1
    return offset + min(exact + steps, buckets - 1)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("buckets, max_distance", [(32, 128), (16, 128), (32, 64)])
def test_buckets_are_t5s(bidirectional, buckets, max_distance):
    settings = dict(bidirectional=bidirectional, buckets=buckets, max_distance=max_distance)
    distances = np.arange(-600, 601)
    expected = [literal_bucket(int(distance), **settings) for distance in distances]
    np.testing.assert_array_equal(relative_position_bucket(distances, **settings), expected)


def test_buckets_of_a_few_distances():
    """Exact up to 7 (encoder) or 15 (decoder), then wider and wider; the decoder sees nothing ahead."""
    distances = np.array([0, -1, 1, -7, -8, 8, -127, -128, 128, -5000])
    encoder = relative_position_bucket(distances, bidirectional=True, buckets=32, max_distance=128)
    decoder = relative_position_bucket(distances, bidirectional=False, buckets=32, max_distance=128)
    assert encoder.tolist() == [0, 1, 17, 7, 8, 24, 15, 15, 31, 15]
    assert decoder.tolist() == [0, 1, 0, 7, 8, 0, 31, 31, 0, 31]


@pytest.fixture(scope="module")
def relpos():
    config = tiny.model()
    return RelativePositionBias(jax.random.key(0), config), config


def gathered(table, queries, keys, bidirectional):
    """`table[head, bucket(key - query)]`, entry by entry."""
    distances = np.arange(keys)[None, :] - np.arange(queries)[:, None]
    buckets = relative_position_bucket(distances, bidirectional=bidirectional, buckets=32, max_distance=128)
    return table[:, buckets][None]


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("queries, keys", SIZES)
def test_bias_is_the_tables_entry_for_the_distance(relpos, queries, keys, bidirectional):
    bias, config = relpos
    table = np.asarray(bias.rel_embedding[...])
    made = bias(queries, keys, bidirectional=bidirectional, config=config)
    np.testing.assert_array_equal(made, gathered(table, queries, keys, bidirectional))


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("queries, keys", [(1, 1), (6, 6), (4, 40)])
def test_gradient_of_the_table_is_that_of_the_look_up(relpos, queries, keys, bidirectional):
    bias, config = relpos
    upstream = jax.random.normal(jax.random.key(1), (1, config.num_heads, queries, keys))

    def ours(module):
        return jnp.sum(upstream * module(queries, keys, bidirectional=bidirectional, config=config))

    def look_up(table):
        return jnp.sum(upstream * gathered(table, queries, keys, bidirectional))

    grad, expected = jax.grad(ours)(bias).rel_embedding[...], jax.grad(look_up)(bias.rel_embedding[...])
    assert np.abs(expected).max() > 0
    assert error(grad, expected) < 1e-6
    np.testing.assert_array_equal(grad == 0, expected == 0)


def random_heads(seed):
    keys = jax.random.split(jax.random.key(seed), 4)
    query = jax.random.normal(keys[0], (BATCH, QUERIES, HEADS, WIDTH))
    key, value = (jax.random.normal(k, (BATCH, KEYS, HEADS, WIDTH)) for k in keys[1:3])
    return query, key, value, jax.random.normal(keys[3], (1, HEADS, QUERIES, KEYS))


def heads_first(key, value):
    return KeysValues(key.swapaxes(1, 2), value.swapaxes(1, 2))


def reference_attention(query, key, value, mask, bias):
    """One head of one row at a time, in float64."""
    query, key, value, bias = (np.asarray(x, np.float64) for x in (query, key, value, bias))
    out = np.zeros(query.shape)
    for b, h in np.ndindex(BATCH, HEADS):
        scores = query[b, :, h] @ key[b, :, h].T + bias[0, h]
        weights = np.where(mask[b, 0], np.exp(scores), 0.0)
        out[b, :, h] = weights / weights.sum(-1, keepdims=True) @ value[b, :, h]
    return out


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**16), shown=st.floats(0.2, 1.0))
def test_attention_is_the_softmax_over_visible_keys_without_scaling(seed, shown):
    query, key, value, bias = random_heads(seed)
    mask = np.random.default_rng(seed).random((BATCH, 1, QUERIES, KEYS)) < shown
    mask[..., 0] = True
    made = dot_product_attention(query, [heads_first(key, value)], mask=jnp.asarray(mask), bias=bias)
    assert error(made, reference_attention(query, key, value, mask, bias)) < 1e-5


def test_parts_are_read_as_one():
    query, key, value, bias = random_heads(1)
    mask = np.random.default_rng(1).random((BATCH, 1, QUERIES, KEYS)) < 0.7
    first, rest = heads_first(key[:, :2], value[:, :2]), heads_first(key[:, 2:], value[:, 2:])
    made = dot_product_attention(query, [first, rest], mask=jnp.asarray(mask), bias=bias)
    assert (
        error(made, dot_product_attention(query, [heads_first(key, value)], mask=jnp.asarray(mask), bias=bias)) < 1e-6
    )


def test_a_part_serves_several_rows_of_queries():
    """Row by row as if each had a copy of the part."""
    query, key, value, bias = random_heads(2)
    queries = jnp.concatenate([query, query[::-1]])  # twice as many rows: two for each of the keys
    mask = jnp.asarray(np.random.default_rng(2).random((2 * BATCH, 1, QUERIES, KEYS)) < 0.7)
    shared, copied = heads_first(key, value), heads_first(*(jnp.repeat(x, 2, axis=0) for x in (key, value)))
    made = dot_product_attention(queries, [shared], mask=mask, bias=bias)
    assert error(made, dot_product_attention(queries, [copied], mask=mask, bias=bias)) < 1e-6


def test_a_query_that_sees_nothing_gives_the_mean_and_not_nan():
    query, key, value, bias = random_heads(0)
    mask = jnp.ones((BATCH, 1, QUERIES, KEYS), bool).at[:, :, 2].set(False)
    made = dot_product_attention(query, [heads_first(key, value)], mask=mask, bias=bias)
    assert error(made[:, 2], value.mean(axis=1)) < 1e-6


def test_dropped_keys_are_the_same_for_every_query():
    """Values that are unit vectors make the output the attention weights themselves."""
    value = jnp.broadcast_to(jnp.eye(KEYS)[:, None], (BATCH, KEYS, HEADS, KEYS))
    mask = jnp.ones((BATCH, 1, QUERIES, KEYS), bool)
    query, key = jnp.zeros((BATCH, QUERIES, HEADS, KEYS)), jnp.zeros((BATCH, KEYS, HEADS, KEYS))
    weights = dot_product_attention(
        query, [heads_first(key, value)], mask=mask, dropout_rate=0.5, key=jax.random.key(0)
    )
    assert set(np.unique(weights)) == {np.float32(0), np.float32(2 / KEYS)}
    np.testing.assert_array_equal(weights, jnp.broadcast_to(weights[:, :1], weights.shape))
    assert len(np.unique(weights[:, 0].reshape(-1, KEYS), axis=0)) > 1, "rows and heads draw for themselves"


def test_bfloat16_operands_keep_float32_scores():
    """Scores of 10 and 10.02 are one number in bfloat16; the weights 0.495 and 0.505 are two."""
    zeros = jnp.zeros((1, 2, 1, 2), jnp.bfloat16)
    value = jnp.eye(2, dtype=jnp.bfloat16)[None, :, None]
    bias = jnp.asarray([10.0, 10.02])[None, None, None]
    made = dot_product_attention(
        zeros[:, :1], [heads_first(zeros, value)], mask=jnp.ones((1, 1, 1, 2), bool), bias=bias
    )
    assert made.dtype == jnp.bfloat16
    assert error(made.astype(jnp.float32), np.array([0.495, 0.505])[None, None, None]) < 0.004


def test_attention_projects_splits_and_joins_heads_as_t5_does():
    config = tiny.model(num_heads=HEADS, head_dim=WIDTH, emb_dim=10)
    attention = Attention(jax.random.key(0), config)
    x = jax.random.normal(jax.random.key(1), (BATCH, QUERIES, 10))
    context = jax.random.normal(jax.random.key(2), (BATCH, KEYS, 10))
    mask = np.ones((BATCH, 1, QUERIES, KEYS), bool)
    _, _, _, bias = random_heads(0)

    def project(module, source):
        product = np.asarray(source, np.float64) @ np.asarray(module.kernel[...], np.float64)
        return product.reshape(*source.shape[:2], HEADS, WIDTH)

    query, key, value = (
        project(attention.query, x),
        project(attention.key, context),
        project(attention.value, context),
    )
    mixed = reference_attention(query, key, value, mask, bias).reshape(BATCH, QUERIES, HEADS * WIDTH)
    made = attention(x, [attention.keys_values(context, config)], jnp.asarray(mask), bias, config)
    assert error(made, mixed @ np.asarray(attention.out.kernel[...], np.float64)) < 1e-5
