"""Greedy decoding: T5X's tokens, and what each row owes to its inputs alone."""

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from t5x_mini.model import transformer
from t5x_mini.model.config import ARCHITECTURES
from t5x_mini.model.decoding import greedy


def decode(params, batch, config):
    return jax.jit(greedy, static_argnums=2, compiler_options=tiny.QUICK)(params, batch, config)


@pytest.mark.parametrize("name", goldens.DECODED)
def test_tokens_are_t5xs(name):
    golden = goldens.load(name)
    np.testing.assert_array_equal(decode(golden.params, golden.batch, golden.model), golden.greedy_tokens)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def decoded(request):
    """A model, its batch, and what it writes."""
    config = tiny.model(request.param)
    params = tiny.params(config, 4)
    batch = tiny.batch(request.param, tiny.examples(1, 8), inputs=6, targets=8)
    return config, params, batch, np.asarray(decode(params, batch, config))


def test_each_token_is_the_most_likely_after_those_before(decoded):
    """The decoded tokens, fed as targets, are the argmax of the logits at every position that was written."""
    config, params, batch, tokens = decoded
    rows, length = tokens.shape
    prefix = np.zeros(rows, int)
    if config.architecture != "encoder_decoder":
        prefix = np.asarray(batch["decoder_causal_attention"]).sum(1) - 1
    targets = np.array(batch["decoder_target_tokens"])
    for row in range(rows):
        targets[row, prefix[row] :] = tokens[row, : length - prefix[row]]
    inputs = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
    # An untrained model writes 0 too; it is no padding here.
    forced = dict(batch, decoder_target_tokens=jnp.ones_like(targets), decoder_input_tokens=jnp.asarray(inputs))
    most_likely = np.asarray(transformer.bind(config, params)(forced).argmax(-1))
    for row in range(rows):
        ends = np.flatnonzero(tokens[row] == 1)
        written = ends[0] + 1 if ends.size else length - prefix[row]
        here = slice(prefix[row], prefix[row] + written)
        np.testing.assert_array_equal(most_likely[row, here], tokens[row, :written], err_msg=str(row))


def test_nothing_follows_eos_or_the_end_of_the_row(decoded):
    config, _, batch, tokens = decoded
    room = np.full(len(tokens), tokens.shape[1])
    if config.architecture != "encoder_decoder":
        room -= np.asarray(batch["decoder_causal_attention"]).sum(1) - 1
    for row, limit in zip(tokens, room, strict=True):
        assert not row[limit:].any()
        ends = np.flatnonzero(row == 1)
        assert not ends.size or not row[ends[0] + 1 :].any()


def test_targets_in_the_batch_are_not_read(decoded):
    config, params, batch, tokens = decoded
    is_target = batch["decoder_loss_weights"] > 0
    blind = dict(batch, decoder_target_tokens=jnp.where(is_target, 17, batch["decoder_target_tokens"]))
    reads_target = jnp.pad(is_target, ((0, 0), (1, 0)))[:, :-1]
    blind["decoder_input_tokens"] = jnp.where(reads_target, 17, batch["decoder_input_tokens"])
    np.testing.assert_array_equal(decode(params, blind, config), tokens)


def test_eos_stops_its_row_and_no_other():
    """The token that the first row begins with is made to be EOS, by swapping two columns of the output head."""
    config = tiny.model()
    params = tiny.params(config)
    batch = tiny.batch("encoder_decoder", tiny.examples(2, 6))
    first = np.asarray(decode(params, batch, config))[:, 0]
    swap = np.arange(tiny.VOCAB)
    swap[[1, first[0]]] = first[0], 1
    params["decoder/logits_dense/kernel"] = params["decoder/logits_dense/kernel"][:, swap]
    tokens = np.asarray(decode(params, batch, config))
    assert first[0] != 1 and tokens[0].tolist() == [1, 0, 0, 0, 0, 0]
    others = first != first[0]
    assert others.any() and (tokens[others] != 0).sum(1).min() > 1
