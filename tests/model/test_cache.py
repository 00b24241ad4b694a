"""Token by token, the logits are those of one pass over the whole row."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from t5x_mini.model import transformer
from t5x_mini.model.cache import start, step
from t5x_mini.model.config import ARCHITECTURES

INPUTS = np.array([[5, 6, 7, 1], [8, 1, 0, 0], [9, 4, 1, 0]])
ANSWERS = 2
WRITTEN = np.random.default_rng(0).integers(2, tiny.VOCAB, (len(INPUTS) * ANSWERS, 5))


def row_of(config, inputs, forced, written):
    """The features of one row in one pass, and where its first written token stands."""
    inputs = inputs[inputs > 0]
    answer = np.concatenate([forced, written])
    prefix = np.zeros(0, int) if config.has_encoder else inputs
    targets = np.concatenate([prefix, answer])
    batch = {"decoder_target_tokens": targets, "decoder_input_tokens": np.concatenate([[0], targets[:-1]])}
    if config.has_encoder:
        batch["encoder_input_tokens"] = inputs
    else:
        batch["decoder_causal_attention"] = (np.arange(len(targets)) <= len(inputs)).astype(int)
    return {name: jnp.asarray(row[None]) for name, row in batch.items()}, len(prefix) + len(forced)


@pytest.mark.parametrize(
    ("architecture", "scan", "own_bias", "forced"),
    [
        *[(architecture, True, False, False) for architecture in ARCHITECTURES],
        ("encoder_decoder", False, True, True),
        ("prefix_lm", False, False, True),
        ("causal_lm", True, True, True),
    ],
)
def test_logits_are_those_of_one_pass(architecture, scan, own_bias, forced):
    changes = dict(scan_layers=scan, relpos_bias_per_layer=own_bias, relpos_buckets=8, relpos_max_distance=6)
    config = tiny.model(architecture, **changes)
    params = tiny.params(config, 3)
    begin = np.array([[11, 12], [13, 0], [0, 0]]) if forced else np.zeros((len(INPUTS), 0), int)

    def write(params, written):
        model = transformer.bind(config, params)
        context, cache, logits = start(
            model, jnp.asarray(INPUTS), length=5, answers=ANSWERS, forced=jnp.asarray(begin) if forced else None
        )
        all_logits = [jnp.repeat(logits, ANSWERS, axis=0)]
        for token in written.T:
            logits, cache = step(context, cache, token)
            all_logits.append(logits)
        return jnp.stack(all_logits, axis=1)

    made = jax.jit(write, compiler_options=tiny.QUICK)(params, jnp.asarray(WRITTEN))
    full = jax.jit(lambda batch: transformer.bind(config, params)(batch), compiler_options=tiny.QUICK)
    for row, answer in itertools.product(range(len(INPUTS)), range(ANSWERS)):
        place = row * ANSWERS + answer
        known = begin[row][begin[row] > 0]
        batch, first = row_of(config, INPUTS[row], known, WRITTEN[place])
        wanted = full(batch)[0, first:]
        np.testing.assert_allclose(made[place, : len(wanted)], wanted, rtol=2e-5, atol=2e-5)


def test_rows_of_the_cache_can_be_taken_in_another_order():
    config = tiny.model("encoder_decoder")
    params = tiny.params(config, 3)
    order = jnp.asarray([1, 1, 2, 3, 5, 4])

    @functools.partial(jax.jit, compiler_options=tiny.QUICK)
    def write(first, rows, second):
        model = transformer.bind(config, params)
        context, cache, _ = start(model, jnp.asarray(INPUTS), length=3, answers=ANSWERS)
        _, cache = step(context, cache, first)
        return step(context, cache.take(rows), second)[0]

    first, second = jnp.asarray(WRITTEN[:, 0]), jnp.asarray(WRITTEN[:, 1])
    made, wanted = write(first, order, second), write(first[order], jnp.arange(len(order)), second)
    np.testing.assert_allclose(made, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scan", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_many_rows_are_encoded_as_few_are(scan):
    """More rows than a CPU encodes at once."""
    config = tiny.model("encoder_decoder", scan_layers=scan)
    params = tiny.params(config, 3)
    inputs = jnp.asarray(np.random.default_rng(1).integers(2, tiny.VOCAB, (24, 4)))
    first_logits = jax.jit(
        lambda inputs: start(transformer.bind(config, params), inputs, length=2)[2], compiler_options=tiny.QUICK
    )
    made, wanted = first_logits(inputs), [first_logits(inputs[first : first + 8]) for first in (0, 8, 16)]
    np.testing.assert_allclose(made, jnp.concatenate(wanted), rtol=1e-5, atol=1e-5)
