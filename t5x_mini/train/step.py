"""One training step, from batch to update, and one evaluation step.

Losses and gradients are summed over tokens, microbatches and devices, and divided by one normaliser: that of the whole
batch. Dividing each part by its own and adding up, as T5X did, multiplies the loss by the number of parts.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from t5x_mini.model import transformer
from t5x_mini.model.config import TransformerConfig
from t5x_mini.parallel.sharding import constrain_as_state
from t5x_mini.train import blocks, optimizers
from t5x_mini.train import loss as losses
from t5x_mini.train.config import LossConfig, TrainConfig
from t5x_mini.train.metrics import SKIPPED
from t5x_mini.train.schedules import Schedule
from t5x_mini.train.state import TrainState, step_key

Batch = Mapping[str, Array]
Sums = dict[str, Float[Array, "..."]]
Step = Callable[..., tuple[TrainState, Sums]]


def make_train_step(
    model: TransformerConfig,
    loss: LossConfig,
    optimizer: optimizers.Optimizer,
    schedule: Schedule,
    train: TrainConfig,
    axis_name: str | None = None,
) -> Step:
    """The update of one batch: `(state, batch) -> (state, sums)`, to be jitted by the partitioner.

    Where `train.on_divergence` is `skip` it is `(state, batch, limit) -> (state, sums)`: if the loss is not below the
    limit, a float32, or the gradient is not finite, nothing of the state changes but its step, and `skipped_update` of
    the sums is 1.

    The sums are those of `batch_sums`, and `grad_norm` (before clipping), `param_norm` (after the update) and
    `learning_rate`; and, unless `train.statistics_period` is 0, a vector each with a number for every block that is
    trained (`train/blocks.py`): `grad_rms`, of the gradient before clipping, and `update_ratio`, the RMS of the update
    over that of the new parameters.

    Args:
        axis_name: under pmap, the axis over which sums and gradients are added up; None where jit sees all devices.
    """

    axes = transformer.param_axes(model)

    def train_step(state: TrainState, batch: Batch, *limit: Float[Array, ""]) -> tuple[TrainState, Sums]:
        key = step_key(state, train) if model.dropout_rate > 0 else None
        if key is not None and axis_name:
            key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))

        trained = {name: state.params[name] for name in state.opt_state}  # the others are frozen, and get no gradient
        _, share = losses.weights_and_normalizer(batch, loss.normalizing_factor)
        normalizer = losses.normalizer(jax.lax.psum(share, axis_name) if axis_name else share, loss)

        def objective(trained, part, part_key):
            sums = batch_sums(state.params | trained, part, model, loss, part_key)
            return sums["objective"] / normalizer, sums  # divided here, once a token, and not once a parameter

        grads, sums = summed_gradients(objective, trained, axes, batch, key, train.num_microbatches)
        if axis_name:
            grads, sums = jax.lax.psum((grads, sums), axis_name)
        sums["normalizer"] = normalizer
        squares = blocks.squares(grads)
        sums["grad_norm"] = jnp.sqrt(jnp.sum(squares))
        if train.statistics_period:
            sums["grad_rms"] = blocks.rms(squares, grads)
        if train.clip_global_norm is not None:
            grads = _clip(grads, sums["grad_norm"], train.clip_global_norm)

        sums["learning_rate"] = schedule(state.step)
        update = functools.partial(optimizers.update, optimizer, grads, learning_rate=sums["learning_rate"])
        if limit:
            good = jnp.isfinite(sums["grad_norm"]) & (sums["objective"] / sums["normalizer"] < limit[0])
            sums[SKIPPED] = 1.0 - good
            # To choose between two finished states would take memory for both.
            new, opt_state = jax.lax.cond(good, update, lambda old, params: (params, old), state.opt_state, trained)
        else:
            new, opt_state = update(state.opt_state, trained)
        params = state.params | new  # of their norms, those of the new ones are reported: a checkpoint holds these
        sums["param_norm"] = jnp.sqrt(jnp.sum(blocks.squares(params)))
        if train.statistics_period:
            updates = jax.tree.map(jnp.subtract, new, trained)
            sums["update_ratio"] = jnp.sqrt(blocks.squares(updates) / blocks.squares(new))
        return TrainState(state.step + 1, params, opt_state, state.rng), sums

    return train_step


def make_eval_step(
    model: TransformerConfig, loss: LossConfig, axis_name: str | None = None, num_microbatches: int = 1
) -> Callable:
    """Sums over one held-out batch, without dropout: `(params, batch) -> sums`."""

    def eval_step(params: transformer.Params, batch: Batch) -> Sums:
        sums = _over_microbatches(
            lambda part, _: batch_sums(params, part, model, loss, key=None), batch, num_microbatches
        )
        return jax.lax.psum(sums, axis_name) if axis_name else sums

    return eval_step


def batch_sums(
    params: transformer.Params, batch: Batch, model: TransformerConfig, loss: LossConfig, key: PRNGKeyArray | None
) -> Sums:
    """Forward pass, and everything about it that can be added up over batches and devices.

    Returns:
        `objective`: what is minimised, times `normalizer`; `loss` and `z_loss`: over tokens, in nats, weighted as
        the batch says; `correct`: weighted tokens whose most likely token is the target; `weights`: their sum;
        counts of `seqs`, `target_tokens` (decoder positions), `all_tokens` (encoder and decoder positions) and
        `nonpadding_tokens`.
    """
    bound, targets = transformer.bind(model, params), batch["decoder_target_tokens"]
    decoded, head = bound.decoded(batch, key), bound.head
    sums = losses.blockwise_logit_sums(bound.logits, decoded, head, targets, loss.blocks)
    token_loss = losses.loss_of_sums(sums, head.shape[-1], label_smoothing=loss.label_smoothing, z_loss=loss.z_loss)
    objective_weights, normalizer = losses.weights_and_normalizer(batch, loss.normalizing_factor)
    weights = batch["decoder_loss_weights"].astype(jnp.float32)
    read = [targets, batch["encoder_input_tokens"]] if model.has_encoder else [targets]
    return {
        "objective": jnp.sum(objective_weights * token_loss.total),
        "normalizer": normalizer,
        "loss": jnp.sum(weights * token_loss.total),
        "z_loss": jnp.sum(weights * token_loss.z_loss),
        "correct": jnp.sum(weights * (sums.likeliest == targets)),
        "weights": jnp.sum(weights),
        "seqs": jnp.asarray(targets.shape[0], jnp.float32),
        "target_tokens": jnp.asarray(targets.size, jnp.float32),
        "all_tokens": jnp.asarray(sum(tokens.size for tokens in read), jnp.float32),
        "nonpadding_tokens": sum(jnp.sum(tokens > 0) for tokens in read).astype(jnp.float32),
    }


def summed_gradients(
    objective: Callable,
    params: transformer.Params,
    axes: Mapping[str, Sequence[str | None]],
    batch: Batch,
    key: PRNGKeyArray | None,
    num_microbatches: int,
) -> tuple[transformer.Params, Sums]:
    """Gradients and sums of `objective(params, part, key)`, added up over the microbatches of a batch.

    `axes` are the logical axes of the parameters: gradients are split as these are, from each microbatch on.
    """
    gradients = jax.grad(objective, has_aux=True)

    def of_part(part: Batch, index: Array | None):
        part_key = key if key is None or index is None else jax.random.fold_in(key, index)
        grads, sums = gradients(params, part, part_key)
        return {name: constrain_as_state(grad, axes[name]) for name, grad in grads.items()}, sums

    return _over_microbatches(of_part, batch, num_microbatches)


def _over_microbatches(function: Callable, batch: Batch, num_microbatches: int):
    """`function(part, index)` summed over the microbatches of a batch; the index is None where there is only one."""
    if num_microbatches == 1:
        return function(batch, None)

    def add(total, part_and_index):
        return jax.tree.map(jnp.add, total, function(*part_and_index)), None

    parts = jax.tree.map(lambda x: _split_rows(x, num_microbatches), batch)
    first = jax.tree.map(lambda x: x[0], parts)
    zeros = jax.tree.map(
        lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(function, first, jax.ShapeDtypeStruct((), jnp.int32))
    )
    return jax.lax.scan(add, zeros, (parts, jnp.arange(num_microbatches)))[0]


def _split_rows(x: Array, parts: int) -> Array:
    """`[rows, ...] -> [parts, rows / parts, ...]`, each part taking every parts-th row.

    Rows are split over devices in contiguous runs; strided parts keep each device's rows where they are.
    """
    return x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)


def _clip(grads: transformer.Params, norm: Float[Array, ""], max_norm: float) -> transformer.Params:
    scale = jnp.minimum(1.0, max_norm / jnp.maximum(norm, 1e-12))
    return jax.tree.map(lambda g: g * scale, grads)
