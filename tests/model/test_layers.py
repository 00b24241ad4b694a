"""Dense, norm, embedding, MLP and dropout against their formulas in numpy float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from goldens import error
from hypothesis import given, settings
from hypothesis import strategies as st

from t5x_mini.model.layers import MLP, Dense, Embedding, RMSNorm, dropout, float32_logits, split_key

X = jax.random.normal(jax.random.key(0), (3, 5, 16)) * 2.0
F32 = jnp.dtype("float32")
BF16 = jnp.dtype("bfloat16")


def f64(x):
    return np.asarray(x, np.float64)


ACTIVATIONS = {
    "gelu": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
}


def test_dense_is_a_product_without_bias():
    dense = Dense(jax.random.key(1), (16, 7), ("embed", "mlp"))
    assert error(dense(X, F32), f64(X) @ f64(dense.kernel[...])) < 1e-6
    assert dense(X, BF16).dtype == BF16 and dense.kernel[...].dtype == F32


def test_norm_divides_by_the_root_mean_square_and_keeps_the_mean():
    norm = RMSNorm(16)
    norm.scale[...] = jnp.linspace(0.5, 1.5, 16)
    x = X + 3.0
    expected = f64(x) / np.sqrt(np.mean(f64(x) ** 2, axis=-1, keepdims=True) + 1e-6) * np.linspace(0.5, 1.5, 16)
    assert error(norm(x, F32), expected) < 1e-6
    assert not np.asarray(norm(jnp.zeros((2, 16)), F32)).any()


def test_norm_of_bfloat16_takes_its_statistics_in_float32():
    """A sum of 4096 squares near 1 stops growing at 256 in bfloat16."""
    x = jnp.ones((1, 4096), BF16)
    made = RMSNorm(4096)(x, BF16)
    assert made.dtype == BF16
    assert error(made, np.ones((1, 4096))) < 0.01


@pytest.mark.parametrize("activations", [("gelu", "linear"), ("relu",), ("silu", "linear"), ("gelu",)])
def test_mlp_multiplies_its_activations(activations):
    config = tiny.model(mlp_activations=activations)
    mlp = MLP(jax.random.key(1), config)
    names = ["wi"] if len(activations) == 1 else ["wi_0", "wi_1"]
    assert set(vars(mlp)) >= {*names, "wo"}
    hidden = 1.0
    for name, activation in zip(names, activations, strict=True):
        hidden = hidden * ACTIVATIONS[activation](f64(X) @ f64(getattr(mlp, name).kernel[...]))
    assert error(mlp(X, config, None), hidden @ f64(mlp.wo.kernel[...])) < 1e-5


def test_embedding_looks_up_rows():
    embedding = Embedding(jax.random.key(1), 40, 16)
    table = f64(embedding.embedding[...])
    tokens = jnp.asarray([[3, 0, 39], [7, 7, 1]])
    np.testing.assert_array_equal(embedding(tokens, F32), table[np.asarray(tokens)].astype(np.float32))
    assert embedding(tokens, BF16).dtype == BF16


def test_logits_are_summed_in_float32_whatever_the_operands_are():
    kernel = jax.random.normal(jax.random.key(1), (16, 40))
    made = float32_logits(X, kernel, BF16)
    exact = f64(X.astype(BF16)) @ f64(kernel.astype(BF16))
    assert made.dtype == F32
    assert error(made, exact) < 1e-5, "rounded to bfloat16, they would be off by 1e-3"


def test_dropout_without_key_or_rate_does_nothing():
    assert dropout(X, 0.5, None) is X
    assert dropout(X, 0.0, jax.random.key(0)) is X


@settings(max_examples=15, deadline=None)
@given(rate=st.sampled_from([0.1, 0.5, 0.9]), seed=st.integers(0, 2**16), broadcast=st.sampled_from([None, 0, 1, 2]))
def test_dropout_drops_or_rescales_and_shares_its_draw_along_one_dimension(rate, seed, broadcast):
    ones = jnp.ones((4, 5, 6))
    made = np.asarray(dropout(ones, rate, jax.random.key(seed), broadcast))
    assert set(np.unique(made)) <= {np.float32(0), np.float32(1) / np.float32(1 - rate)}
    np.testing.assert_array_equal(made, dropout(ones, rate, jax.random.key(seed), broadcast))
    if broadcast is not None:
        np.testing.assert_array_equal(made, np.broadcast_to(made.take([0], axis=broadcast), made.shape))


@pytest.mark.parametrize("broadcast", [None, 1])
@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_keeps_the_expectation(rate, broadcast):
    """The mean of n draws of 0 or 1/(1 - rate) has the standard deviation sqrt(rate / (1 - rate) / n)."""
    made = dropout(jnp.ones((200, 3, 100)), rate, jax.random.key(0), broadcast)
    draws = made.size if broadcast is None else made.size / 3
    assert abs(float(made.mean()) - 1.0) < 4 * np.sqrt(rate / (1 - rate) / draws)
    assert abs(float((made == 0).mean()) - rate) < 4 * np.sqrt(rate * (1 - rate) / draws)


def test_draws_differ_between_keys_rows_and_features():
    made = np.asarray(dropout(jnp.ones((8, 3, 64)), 0.5, jax.random.key(0), broadcast=1))
    assert len(np.unique(made[:, 0], axis=0)) == 8
    assert not np.array_equal(made, dropout(jnp.ones((8, 3, 64)), 0.5, jax.random.key(1), broadcast=1))


def test_split_key_passes_none_on():
    assert split_key(None, 3) == [None, None, None]
    assert len({jax.random.key_data(key).tobytes() for key in split_key(jax.random.key(0), 3)}) == 3
