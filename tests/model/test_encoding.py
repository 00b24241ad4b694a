"""A vector for each token: those that the model's own layers read."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from t5x_mini.model import transformer
from t5x_mini.model.config import ARCHITECTURES
from t5x_mini.model.encoding import encode
from t5x_mini.model.masks import make_masks

INPUTS = jnp.asarray([[5, 6, 7, 1], [8, 1, 0, 0]])


def quick(function):
    return jax.jit(function, compiler_options=tiny.QUICK)


def vectors(config, inputs):
    return quick(functools.partial(encode, config=config))(tiny.params(config), inputs)


def test_an_encoders_are_what_cross_attention_reads():
    config = tiny.model()
    batch = tiny.batch("encoder_decoder", [([5, 6, 7], [8]), ([8], [9])], inputs=4)

    def expected(params):
        return transformer.bind(config, params).encode(
            batch["encoder_input_tokens"], make_masks(config.architecture, batch).encoder
        )

    np.testing.assert_allclose(vectors(config, INPUTS), quick(expected)(tiny.params(config)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("architecture", ARCHITECTURES[1:])
def test_a_decoders_are_what_the_output_head_reads(architecture):
    config = tiny.model(architecture)
    batch = tiny.batch(architecture, [([5, 6, 7], [9]), ([8], [9])], inputs=4, targets=2)

    def both(params):
        model = transformer.bind(config, params)
        return model.logits(encode(params, INPUTS, config)), model(batch)

    logits, expected = quick(both)(tiny.params(config))
    for row, length in enumerate((4, 2)):  # position 0 reads BOS, position 1 the first token
        np.testing.assert_allclose(logits[row, :length], expected[row, 1 : length + 1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_padding_changes_nothing(architecture):
    config = tiny.model(architecture)
    alone = vectors(config, INPUTS[1:, :2])
    np.testing.assert_allclose(vectors(config, INPUTS)[1:, :2], alone, rtol=1e-5, atol=1e-6)
