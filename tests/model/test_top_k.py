"""The largest values and their places are those of a plain sort, equal values in the order they stand in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from t5x_mini.model import top_k


def rows(kind, count):
    rng = np.random.default_rng(count)
    made = {
        "random": rng.normal(size=(3, count)),
        "ties": rng.integers(0, 4, (3, count)),
        "sorted": np.tile(np.arange(count), (3, 1)),
        "mostly -inf": np.where(rng.random((3, count)) < 0.99, -np.inf, rng.normal(size=(3, count))),
    }
    return made[kind].astype(np.float32)


@pytest.mark.parametrize("kind", ["random", "ties", "sorted", "mostly -inf"])
@pytest.mark.parametrize(("count", "k"), [(5, 5), (300, 2), (300, 8), (2000, 8)])
def test_top_k(kind, count, k):
    x = rows(kind, count)
    values, places = jax.jit(top_k.top_k, static_argnums=1, compiler_options=tiny.QUICK)(x, k)
    wanted = np.argsort(-x, axis=-1, kind="stable")[:, :k]
    np.testing.assert_array_equal(values, np.take_along_axis(x, wanted, -1))
    is_finite = np.isfinite(values)
    np.testing.assert_array_equal(np.where(is_finite, places, 0), np.where(is_finite, wanted, 0))


@pytest.mark.parametrize("kind", ["random", "ties", "mostly -inf"])
def test_argmax(kind):
    x = rows(kind, 300)
    x[0, [7, 9]] = 5.0
    np.testing.assert_array_equal(top_k.argmax(jnp.asarray(x)), x.argmax(-1))


def test_argmax_of_nan_is_an_id():
    assert top_k.argmax(jnp.full((1, 10), jnp.nan)).tolist() == [9]
