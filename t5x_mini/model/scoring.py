"""The log-probability of targets that are given."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Float

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
    targets = batch["decoder_target_tokens"]
    # A masked sum, not a gather: it stays local when the vocabulary is split over devices.
    is_target = jnp.arange(logits.shape[-1]) == targets[..., None]
    log_probs = jnp.sum(jnp.where(is_target, logits, 0.0), axis=-1) - log_partition(logits)
    return log_probs * batch["decoder_loss_weights"]
