"""Cross-entropy with label smoothing and z-loss, as sums over tokens with an explicit normaliser."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from t5x_mini.errors import UserError
from t5x_mini.parallel.sharding import constrain
from t5x_mini.train.config import LossConfig

NORMALIZERS = ("NUM_REAL_TARGET_TOKENS", "NUM_TOTAL_TARGET_TOKENS", "AVERAGE_PER_SEQUENCE")


class TokenLoss(NamedTuple):
    """Loss of each token in nats; `total` includes `z_loss`."""

    total: Float[Array, "b l"]
    z_loss: Float[Array, "b l"]


class LogitSums(NamedTuple):
    """All that the loss and the accuracy ask of the logits, over the whole vocabulary or a block of it."""

    log_partition: Float[Array, "*blocks b l"]  # logsumexp of the logits
    target: Float[Array, "*blocks b l"]  # the target's logit; 0 where the target is in another block
    total: Float[Array, "*blocks b l"]  # the logits' sum
    highest: Float[Array, "*blocks b l"]
    likeliest: Int[Array, "*blocks b l"]  # the token with the highest logit; of several, the first


def logit_sums(
    logits: Float[Array, "b l v"], targets: Int[Array, "b l"], tokens: Int[Array, " v"] | None = None
) -> LogitSums:
    """The sums over logits that are those of `tokens`, in ascending order (None: of the whole vocabulary)."""
    tokens = jnp.arange(logits.shape[-1]) if tokens is None else tokens
    # A masked sum, not a gather: it stays local when the vocabulary is split over devices.
    is_target = tokens == targets[..., None]
    fixed = jax.lax.stop_gradient(logits)
    highest = jnp.max(fixed, axis=-1)
    # Not argmax, which CPUs take six times as long for.
    is_highest = fixed == highest[..., None]
    return LogitSums(
        log_partition=jax.nn.logsumexp(logits, axis=-1),
        target=jnp.sum(jnp.where(is_target, logits, 0.0), axis=-1),
        total=jnp.sum(logits, axis=-1),
        highest=highest,
        likeliest=jnp.min(jnp.where(is_highest, tokens, jnp.iinfo(tokens.dtype).max), axis=-1),
    )


def blockwise_logit_sums(
    logits: Callable[[Array, Array], Array],
    decoded: Float[Array, "b l e"],
    head: Float[Array, "e v"],
    targets: Int[Array, "b l"],
    blocks: int,
) -> LogitSums:
    """`logit_sums(logits(decoded, head), targets)` with the logits of one block of the vocabulary at a time.

    The backward pass computes them again, which costs as much as they did in the forward pass.

    Args:
        logits: of the decoder's output and some columns of the head.
        decoded: the decoder's output.
        head: the output head; its columns are a multiple of `blocks`.
        targets: token ids.
        blocks: as many blocks, each taking every `blocks`-th token. Devices hold contiguous runs of the vocabulary:
            strided blocks leave each column where it is, and all devices have a share of each block.
    """
    if blocks == 1:
        return logit_sums(logits(decoded, head), targets)
    width, vocab_size = head.shape
    heads = jnp.moveaxis(head.reshape(width, vocab_size // blocks, blocks), -1, 0)
    heads = constrain(heads, None, "embed", "vocab")
    tokens = jnp.arange(vocab_size).reshape(-1, blocks).T
    decoded = decoded.astype(jnp.float32)  # so that the blocks' shares of its gradient are added up in float32

    @jax.checkpoint
    def sums_of_block(block: tuple[Array, Array]) -> LogitSums:
        return logit_sums(logits(decoded, block[0]), targets, block[1])

    parts = jax.lax.map(sums_of_block, (heads, tokens))
    highest = jnp.max(parts.highest, axis=0)
    return LogitSums(
        log_partition=jax.nn.logsumexp(parts.log_partition, axis=0),
        target=jnp.sum(parts.target, axis=0),
        total=jnp.sum(parts.total, axis=0),
        highest=highest,
        likeliest=jnp.min(jnp.where(parts.highest == highest, parts.likeliest, vocab_size), axis=0),
    )


def cross_entropy(
    logits: Float[Array, "b l v"], targets: Int[Array, "b l"], *, label_smoothing: float = 0.0, z_loss: float = 0.0
) -> TokenLoss:
    """Cross-entropy of each token (`loss_of_sums`).

    Args:
        logits: unnormalised log-probabilities, float32.
        targets: token ids.
        label_smoothing: e, in [0, 1).
        z_loss: z; T5 trains with 1e-4.
    """
    return loss_of_sums(logit_sums(logits, targets), logits.shape[-1], label_smoothing=label_smoothing, z_loss=z_loss)


def loss_of_sums(sums: LogitSums, vocab_size: int, *, label_smoothing: float = 0.0, z_loss: float = 0.0) -> TokenLoss:
    """Cross-entropy of each token, with label smoothing e and z-loss weight z (T5X `losses.py`):

        soft(t) = 1 - e at the target, e / (V - 1) elsewhere
        total   = logsumexp(l) - sum(soft * l) - entropy(soft) + z * logsumexp(l)^2

    The entropy of the soft targets is taken off, so that a perfect prediction costs 0.
    """
    confidence, low = _soft_target(vocab_size, label_smoothing)
    expected_logit = confidence * sums.target
    if label_smoothing:
        expected_logit += low * (sums.total - sums.target)
    z_term = z_loss * jnp.square(sums.log_partition)
    return TokenLoss(
        sums.log_partition - expected_logit - soft_target_entropy(vocab_size, label_smoothing) + z_term, z_term
    )


def soft_target_entropy(vocab_size: int, label_smoothing: float) -> float:
    """Nats of entropy in a target that label smoothing spreads over the vocabulary: what no prediction can win."""
    confidence, low = _soft_target(vocab_size, label_smoothing)
    return -(confidence * math.log(confidence) + (vocab_size - 1) * low * math.log(low + 1e-20))


def _soft_target(vocab_size: int, label_smoothing: float) -> tuple[float, float]:
    """The share of the target, and of each other token."""
    return 1.0 - label_smoothing, label_smoothing / (vocab_size - 1)


def check_vocab_blocks(vocab_size: int, blocks: int, ways: int) -> None:
    """Refuses blocks that the vocabulary does not divide into, each evenly over `ways` devices.

    Raises:
        UserError: naming the nearest number of blocks that does.
    """
    if blocks == 1 or vocab_size % (blocks * ways) == 0:
        return
    fitting = [count for count in range(1, blocks) if vocab_size % (count * ways) == 0]
    over = f" on each of {ways} devices along `model`" if ways > 1 else ""
    raise UserError(
        f"LOSS_BLOCKS is {blocks}, but a vocabulary of {vocab_size} is not {blocks} equal blocks{over}; write "
        f"--gin.LOSS_BLOCKS={max(fitting, default=1)}"
    )


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
