"""What is drawn from: transformers' top-k and top-p, the probabilities that are left, and each row for itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from t5x_mini.model import sampling
from t5x_mini.model.config import DecodingConfig

quick = functools.partial(jax.jit, compiler_options=tiny.QUICK)


def random_logits(rows, vocab, seed=0, scale=2.0):
    return np.random.default_rng(seed).normal(0, scale, (rows, vocab)).astype(np.float32)


def warped(logits, *warpers):
    torch = pytest.importorskip("torch")
    made = torch.from_numpy(logits)
    for warper in warpers:
        made = warper(None, made)
    return made.numpy()


@pytest.mark.parametrize("k", [1, 2, 40, 300, 1000])
def test_top_k_is_transformers(k):
    transformers = pytest.importorskip("transformers")
    logits = random_logits(6, 300)
    logits[0, :50] = logits[0].max()  # more equal ones than k: all stay
    ours = quick(sampling.keep_top_k, static_argnums=1)(logits, k)
    np.testing.assert_array_equal(ours, warped(logits, transformers.TopKLogitsWarper(k)))


@pytest.mark.parametrize("p", [0.001, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("scale", [0.1, 2.0, 30.0])
def test_top_p_is_transformers(p, scale):
    transformers = pytest.importorskip("transformers")
    logits = random_logits(20, 300, scale=scale)
    ours = quick(sampling.keep_top_p, static_argnums=1)(logits, p)
    np.testing.assert_array_equal(ours, warped(logits, transformers.TopPLogitsWarper(p)))


def test_top_p_is_of_what_top_k_left():
    transformers = pytest.importorskip("transformers")
    logits = random_logits(20, 300)
    ours = quick(lambda x: sampling.keep_top_p(sampling.keep_top_k(x, 10), 0.7))(logits)
    wanted = warped(logits, transformers.TopKLogitsWarper(10), transformers.TopPLogitsWarper(0.7))
    np.testing.assert_array_equal(ours, wanted)
    assert (np.isfinite(ours).sum(1) < 10).all()


def test_tokens_are_drawn_by_their_probability():
    """20,000 draws from 300 tokens in three blocks: chi-squared with as many degrees of freedom as tokens, less one."""
    logits = random_logits(1, 300, scale=1.0)
    logits[0, 5] = -np.inf
    draws = 20_000
    keys = jax.random.split(jax.random.key(0), draws)
    drawn = quick(sampling.draw)(keys, jnp.broadcast_to(jnp.asarray(logits), (draws, 300)))
    wanted = draws * np.asarray(jax.nn.softmax(logits))[0]
    counts = np.bincount(drawn, minlength=300)
    assert counts[5] == 0 and len(counts) == 300
    possible = wanted > 0
    chi_squared = ((counts - wanted)[possible] ** 2 / wanted[possible]).sum()
    assert abs(chi_squared - 298) < 4 * np.sqrt(2 * 298)


@functools.partial(quick, static_argnums=0)
def _choose(config, logits, keys, temperature, place):
    return sampling.sampler(config, keys, temperature)(logits, jnp.full(len(logits), place))


def choose(config, logits, keys, temperature, place=0):
    return np.asarray(_choose(config, logits, keys, jnp.asarray(temperature, jnp.float32), place))


SAMPLE = DecodingConfig(method="sample")


def test_each_row_has_its_temperature():
    count = 400
    logits = np.repeat(random_logits(1, 50, scale=1.0), 3 * count, axis=0)
    keys = jax.random.split(jax.random.key(1), 3 * count)
    temperature = np.repeat([1e-5, 0.3, 100.0], count)
    cold, cool, hot = choose(SAMPLE, logits, keys, temperature).reshape(3, count)
    assert set(cold) == {logits[0].argmax()}
    assert (hot == logits[0].argmax()).mean() < 0.05 and len(set(hot)) == 50
    wanted = np.asarray(jax.nn.softmax(logits[0] / 0.3)).max()
    assert abs((cool == logits[0].argmax()).mean() - wanted) < 4 * np.sqrt(wanted * (1 - wanted) / count)


def test_temperature_goes_before_top_p():
    """At a high temperature more tokens are needed for the same probability."""
    config = DecodingConfig(method="sample", top_p=0.5)
    logits = np.repeat(random_logits(1, 50), 500, axis=0)
    keys = jax.random.split(jax.random.key(1), 500)
    keep = quick(lambda x: sampling.keep_top_p(x, 0.5))
    kept = {t: set(np.flatnonzero(np.isfinite(np.asarray(keep(logits[:1] / t))[0]))) for t in (1.0, 5.0)}
    assert len(kept[5.0]) > 2 * len(kept[1.0])
    for t, tokens in kept.items():
        assert set(choose(config, logits, keys, np.full(500, t))) == tokens


def test_a_row_draws_the_same_in_any_company():
    logits = random_logits(8, 50)
    keys = jax.random.split(jax.random.key(2), 8)
    together = choose(SAMPLE, logits, keys, np.ones(8))
    some = np.array([6, 1, 3])
    np.testing.assert_array_equal(choose(SAMPLE, logits[some], keys[some], np.ones(3)), together[some])
    places = [choose(SAMPLE, logits, keys, np.ones(8), place).tolist() for place in range(4)]
    assert len(set(map(tuple, places))) == 4
