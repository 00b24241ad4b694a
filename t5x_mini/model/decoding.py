"""From a model to answers: greedy decoding, sampling and beam search, over one cache (`model/cache.py`)."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from t5x_mini.errors import UserError
from t5x_mini.model import answers, beam_search, sampling
from t5x_mini.model.answers import PAD_ID, Change
from t5x_mini.model.cache import start, step
from t5x_mini.model.config import DecodingConfig, TransformerConfig
from t5x_mini.model.transformer import Params, bind


class Decoded(NamedTuple):
    """Answers to a batch of inputs, those to one input side by side, the best first.

    Attributes:
        tokens: 0 behind EOS.
        scores: the log-probability of the tokens that were written, EOS included; of `beam`, over its length penalty.
    """

    tokens: Int[Array, "b n length"]
    scores: Float[Array, "b n"]


def decode(
    params: Params,
    inputs: Int[Array, "b l"],
    config: TransformerConfig,
    decoding: DecodingConfig,
    *,
    length: int,
    key: Key[Array, ""] | None = None,
    temperature: Float[Array, " b"] | None = None,
    forced: Int[Array, "b f"] | None = None,
    logit_callback: Change | None = None,
) -> Decoded:
    """The answers of a model to its inputs; stops when all have ended.

    The probabilities in the scores are the model's own, whatever temperature, `top_k`, `top_p` and `min_length` did to
    the choice. Ids behind the vocabulary's last, which round its size up, are not ruled out (nor does T5X).

    Args:
        params: the model's parameters.
        inputs: ids padded with 0 on the right: what the encoder reads, or a decoder-only model's prompt.
        config: the model.
        decoding: how to decode. Its `max_length` is not read: `length` is.
        length: tokens of an answer, EOS and what is forced included.
        key: what `sample` draws from; None: `decoding.seed`. A row's draws depend on its number in the batch and on
            nothing else in the batch.
        temperature: of each row for `sample`, instead of `decoding.temperature`.
        forced: how each row's answers begin, ids padded with 0 on the right: part of the answer, not of its score.
        logit_callback: (logits `[r, v]`, tokens so far `[r, length]`, how many they are `[r]`) -> the logits to choose
            from, for any method. -inf rules a token out. What it adds to a logit counts in the score; the other
            tokens' probabilities are not scaled to make up for it.

    Raises:
        UserError: more tokens are forced than the answer has; a temperature for another method than `sample`.
    """
    _check(decoding, length, temperature, forced)
    rows, count = len(inputs), decoding.num_decodes
    # The newest token of an answer is never read; a cache needs room for one all the same.
    context, cache, logits = start(
        bind(config, params), inputs, length=max(length - 1, 1), answers=count, forced=forced
    )
    begun = answers.begin(rows, length, forced)
    change = answers.changed_by(logit_callback, decoding.min_length)
    write_on = functools.partial(step, context)
    if decoding.method == "beam":
        return Decoded(
            *beam_search.search(
                write_on,
                cache,
                logits,
                begun,
                beams=count,
                length_penalty=decoding.length_penalty,
                prompt_lengths=jnp.sum(inputs != PAD_ID, axis=1) * (not config.has_encoder),
                change=change,
            )
        )
    logits, begun = jax.tree.map(lambda array: jnp.repeat(array, count, axis=0), (logits, begun))
    choose = sampling.most_likely
    if decoding.method == "sample":
        key = jax.random.key(decoding.seed) if key is None else key
        temperature = jnp.full(rows, decoding.temperature) if temperature is None else temperature
        choose = sampling.sampler(decoding, _key_of_each(key, rows, count), jnp.repeat(temperature, count))
    tokens, scores = sampling.write(write_on, cache, logits, begun, choose=choose, change=change)
    return _best_first(tokens.reshape(rows, count, -1), scores.reshape(rows, count))


def greedy(params: Params, batch: Mapping[str, Array], config: TransformerConfig) -> Int[Array, "b l"]:
    """The targets that the model writes for the inputs of a batch of features, the most likely token each time.

    Args:
        params: the model's parameters.
        batch: unpacked features as for training. The targets in them are not read: only their length is.
        config: the model.

    Returns:
        Tokens from the start of each row, 0 after the first EOS and, for the decoder-only architectures, after as many
        as the row has room for behind its inputs.
    """
    inputs, length = inputs_of(batch, config), batch["decoder_target_tokens"].shape[1]
    tokens = decode(params, inputs, config, DecodingConfig(), length=length).tokens[:, 0]
    if config.has_encoder:
        return tokens
    room = length - jnp.sum(inputs != PAD_ID, axis=1, keepdims=True)
    return jnp.where(jnp.arange(length) < room, tokens, PAD_ID)


def inputs_of(batch: Mapping[str, Array], config: TransformerConfig) -> Int[Array, "b l"]:
    """What `decode` takes of an unpacked batch of features: padded with 0 on the right.

    A decoder-only row begins with its inputs, which `decoder_causal_attention` marks, and one position more
    (`masks.decoder_mask`); a batch without that mark has targets alone, and an empty prompt.
    """
    if config.has_encoder:
        return batch["encoder_input_tokens"]
    tokens = batch["decoder_target_tokens"]
    marked = batch.get("decoder_causal_attention", jnp.zeros_like(tokens))
    is_input = jnp.arange(tokens.shape[1]) < jnp.sum(marked, axis=1, keepdims=True) - 1
    return jnp.where(is_input, tokens, PAD_ID)


def _key_of_each(key: Key[Array, ""], rows: int, count: int) -> Key[Array, " r"]:
    """A key for each answer of each row; more rows, or more answers, don't change those of the first."""

    def of_row(row: Int[Array, ""]) -> Key[Array, " n"]:
        return jax.vmap(functools.partial(jax.random.fold_in, jax.random.fold_in(key, row)))(jnp.arange(count))

    return jax.vmap(of_row)(jnp.arange(rows)).reshape(rows * count)


def _best_first(tokens: Int[Array, "b n length"], scores: Float[Array, "b n"]) -> Decoded:
    order = jnp.argsort(-scores, axis=1, stable=True)
    return Decoded(jnp.take_along_axis(tokens, order[..., None], axis=1), jnp.take_along_axis(scores, order, axis=1))


def _check(decoding: DecodingConfig, length: int, temperature: Array | None, forced: Int[Array, "b f"] | None) -> None:
    if temperature is not None and decoding.method != "sample":
        raise UserError(
            f"A temperature for each row is for the decoding method 'sample', and the method is {decoding.method!r}: "
            "write DecodingConfig(method='sample'), or no temperature."
        )
    if forced is not None and forced.shape[1] > length:
        raise UserError(
            f"Answers of up to {length} tokens can't begin with {forced.shape[1]} forced ones: write a larger length, "
            "or force fewer."
        )
