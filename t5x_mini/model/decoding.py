"""From a model to text: the most likely next token, again and again."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from t5x_mini.model.config import TransformerConfig
from t5x_mini.model.masks import make_masks
from t5x_mini.model.transformer import Params, bind

EOS_ID = 1


def greedy(params: Params, batch: Mapping[str, Array], config: TransformerConfig) -> Int[Array, "b l"]:
    """The targets that the model writes for the inputs of a batch, each token the most likely after those before it.

    Every token costs a pass of the decoder over the whole row (the encoder runs once): for a look at a model, not for
    decoding a corpus.

    Args:
        params: the model's parameters.
        batch: unpacked features as for training. The targets in them are not read: only their length is. For the
            decoder-only architectures the row begins with the inputs, which `decoder_causal_attention` marks.
        config: the model.

    Returns:
        Tokens from the start of each row, 0 after the first EOS and, for the decoder-only architectures, after as many
        as the row has room for behind its inputs.
    """
    model = bind(config, params)
    rows, length = batch["decoder_input_tokens"].shape
    prefix = _prefix_lengths(batch)
    # Positions to be written count as real, so that the masks let the decoder see what it has written so far.
    batch = {**batch, "decoder_target_tokens": jnp.ones((rows, length), jnp.int32)}
    masks = make_masks(config.architecture, batch)
    encoded = model.encode(batch, masks) if config.has_encoder else None
    known = batch["decoder_input_tokens"][:, 1:]  # inputs are targets one place to the right
    tokens = jnp.pad(jnp.where(jnp.arange(length - 1) < prefix[:, None], known, 0), ((0, 0), (0, 1)))

    def write(position, carry):
        tokens, ended = carry
        inputs = jnp.pad(tokens, ((0, 0), (1, 0)))[:, :length]
        logits = model.decode({**batch, "decoder_input_tokens": inputs}, masks, encoded)
        choice = jnp.argmax(jax.lax.dynamic_index_in_dim(logits, position, 1, keepdims=False), axis=-1)
        is_input = position < prefix
        token = jnp.where(is_input, tokens[:, position], jnp.where(ended, 0, choice)).astype(jnp.int32)
        return tokens.at[:, position].set(token), ended | (~is_input & (token == EOS_ID))

    tokens, _ = jax.lax.fori_loop(jnp.min(prefix), length, write, (tokens, jnp.zeros(rows, bool)))
    behind_inputs = jnp.arange(length) + prefix[:, None]
    return jnp.take_along_axis(tokens, behind_inputs, axis=1, mode="fill", fill_value=0)


def _prefix_lengths(batch: Mapping[str, Array]) -> Int[Array, " b"]:
    """Input tokens at the start of each decoder row; the marked prefix is one longer (`masks.decoder_mask`)."""
    marked = batch.get("decoder_causal_attention")
    if marked is None:
        return jnp.zeros(batch["decoder_input_tokens"].shape[0], jnp.int32)
    return jnp.maximum(jnp.sum(marked, axis=1) - 1, 0)
