"""Cross-entropy with label smoothing and z-loss, as sums over tokens with an explicit normaliser."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from t5x_mini.errors import UserError
from t5x_mini.train.config import LossConfig

NORMALIZERS = ("NUM_REAL_TARGET_TOKENS", "NUM_TOTAL_TARGET_TOKENS", "AVERAGE_PER_SEQUENCE")


class TokenLoss(NamedTuple):
    """Loss of each token in nats; `total` includes `z_loss`."""

    total: Float[Array, "b l"]
    z_loss: Float[Array, "b l"]


def cross_entropy(
    logits: Float[Array, "b l v"], targets: Int[Array, "b l"], *, label_smoothing: float = 0.0, z_loss: float = 0.0
) -> TokenLoss:
    """Cross-entropy of each token, with label smoothing e and z-loss weight z (T5X `losses.py`):

        soft(t) = 1 - e at the target, e / (V - 1) elsewhere
        total   = logsumexp(l) - sum(soft * l) - entropy(soft) + z * logsumexp(l)^2

    The entropy of the soft targets is taken off, so that a perfect prediction costs 0.

    Args:
        logits: unnormalised log-probabilities, float32.
        targets: token ids.
        label_smoothing: e, in [0, 1).
        z_loss: z; T5 trains with 1e-4.
    """
    vocab_size = logits.shape[-1]
    confidence, low = 1.0 - label_smoothing, label_smoothing / (vocab_size - 1)
    log_partition = jax.nn.logsumexp(logits, axis=-1)
    # A masked sum, not a gather: it stays local when the vocabulary is split over devices.
    is_target = jnp.arange(vocab_size) == targets[..., None]
    target_logit = jnp.sum(jnp.where(is_target, logits, 0.0), axis=-1)
    expected_logit = confidence * target_logit
    if label_smoothing:
        expected_logit += low * (jnp.sum(logits, axis=-1) - target_logit)
    entropy = -(confidence * math.log(confidence) + (vocab_size - 1) * low * math.log(low + 1e-20))
    z_term = z_loss * jnp.square(log_partition)
    return TokenLoss(log_partition - expected_logit - entropy + z_term, z_term)


def check_normalizing_factor(factor: float | str | None) -> None:
    """Refuses a name that `weights_and_normalizer` does not know, or a number that is not positive."""
    if isinstance(factor, str) and factor not in NORMALIZERS:
        raise UserError(
            f"LOSS_NORMALIZING_FACTOR is '{factor}'; write one of {', '.join(NORMALIZERS)}, a number, or None (the sum)"
        )
    if isinstance(factor, int | float) and not factor > 0:
        raise UserError(f"LOSS_NORMALIZING_FACTOR is {factor}; write a number above 0, or None for the plain sum")


def weights_and_normalizer(
    batch: Mapping[str, Array], factor: float | str | None
) -> tuple[Float[Array, "b l"], Float[Array, ""]]:
    """Each token's weight, and this batch's share of the normaliser; both add up over microbatches and devices.

    Args:
        batch: `decoder_target_tokens`, `decoder_loss_weights` and, where packed, `decoder_segment_ids`.
        factor: see `LossConfig.normalizing_factor`. A constant contributes nothing here: `normalize` divides by it.
    """
    weights = batch["decoder_loss_weights"].astype(jnp.float32)
    if factor == "NUM_REAL_TARGET_TOKENS":
        return weights, jnp.sum(weights)
    if factor == "NUM_TOTAL_TARGET_TOKENS":
        return weights, jnp.asarray(weights.size, jnp.float32)
    if factor == "AVERAGE_PER_SEQUENCE":
        weights = _each_sequence_sums_to_one(weights, batch.get("decoder_segment_ids"))
        return weights, jnp.sum(weights)
    return weights, jnp.zeros(())


def normalizer(total: Float[Array, ""], config: LossConfig) -> Float[Array, ""]:
    """What the summed loss and its gradients are divided by, once, given the normaliser's sum over all parts."""
    factor = config.normalizing_factor
    if isinstance(factor, str):
        return jnp.maximum(total, 1e-9)  # a batch without a single target has loss 0, not NaN
    return jnp.asarray(1.0 if factor is None else factor, jnp.float32)


def _each_sequence_sums_to_one(
    weights: Float[Array, "b l"], segment_ids: Int[Array, "b l"] | None
) -> Float[Array, "b l"]:
    if segment_ids is None:
        segment_ids = jnp.ones(weights.shape, jnp.int32)
    same = (segment_ids[:, :, None] == segment_ids[:, None, :]).astype(jnp.float32)
    of_sequence = jnp.einsum("bij,bj->bi", same, weights)
    return jnp.where(of_sequence > 0, weights / jnp.maximum(of_sequence, 1e-9), 0.0)
