"""The log-probability of targets that are given."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from t5x_mini.model import cache
from t5x_mini.model.answers import log_partition
from t5x_mini.model.config import TransformerConfig
from t5x_mini.model.transformer import Params, bind


def score(params: Params, batch: Mapping[str, Array], config: TransformerConfig) -> Float[Array, "b l"]:
    """The log-probability in nats of each target token, given the inputs and the targets before it.

    It is multiplied by the token's loss weight, so that padding and a decoder-only row's inputs count 0: the sum over a
    row is T5X's score of its targets.

    Args:
        params: the model's parameters.
        batch: features as for training; packed or not.
        config: the model.
    """
    logits = bind(config, params)(batch)
    return _log_probabilities(logits, batch["decoder_target_tokens"]) * batch["decoder_loss_weights"]


def score_choices(
    params: Params, inputs: Int[Array, "b l"], choices: Int[Array, "b c t"], config: TransformerConfig
) -> Float[Array, "b c"]:
    """The log-probability in nats of each of several targets to one input: the sum of its tokens', as of `score`.

    All choices of a row share what was computed of its inputs, whichever stack reads them.

    Args:
        params: the model's parameters.
        inputs: ids padded with 0 on the right.
        choices: ids of the targets padded with 0 on the right; what is all padding has the log-probability 0.
        config: the model.
    """
    rows, count, length = choices.shape
    tokens = choices.reshape(rows * count, length)
    context, written, logits = cache.start(bind(config, params), inputs, length=max(length - 1, 1), answers=count)
    first = _log_probabilities(logits[:, None], choices[:, :, 0])

    def read_token(written: cache.Cache, pair: Int[Array, "2 r"]) -> tuple[cache.Cache, Float[Array, " r"]]:
        logits, written = cache.step(context, written, pair[0])
        return written, _log_probabilities(logits, pair[1])

    pairs = jnp.stack([tokens[:, :-1], tokens[:, 1:]]).transpose(2, 0, 1)
    _, others = jax.lax.scan(read_token, written, pairs)
    return (first + jnp.sum(others, axis=0).reshape(rows, count)).astype(jnp.float32)


def _log_probabilities(logits: Float[Array, "*#rows v"], targets: Int[Array, "*rows"]) -> Float[Array, "*rows"]:
    """Of the targets; 0 for padding."""
    # A masked sum, not a gather: it stays local when the vocabulary is split over devices.
    is_target = jnp.arange(logits.shape[-1]) == targets[..., None]
    log_probs = jnp.sum(jnp.where(is_target, logits, 0.0), axis=-1) - log_partition(logits)
    return jnp.where(targets > 0, log_probs, 0.0)
