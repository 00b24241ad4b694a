"""Softmax attention of each row's queries to its own keys, with a gradient written by hand.

Autodiff keeps the weights and sums `d weights * weights` over the keys once more. Here the backward pass takes that sum
from the output (Dao et al. 2022, "FlashAttention", section 3.1: `sum_k dP P = dO . O`), and may compute the weights
again from queries and keys, so that nothing of size queries x keys is kept.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from t5x_mini.model import products
from t5x_mini.parallel.sharding import row_ways

MASKED = -1e10  # T5X's; a row with nothing to see becomes uniform rather than NaN
_SLICES = 16  # of the rows, that are added up at once


class _Kept(NamedTuple):
    """What the backward pass reads."""

    query: Array
    keys: Array
    values: Array
    bias: Array | None
    mask: Array
    mixed: Array
    weights: tuple[Array, Array] | None  # exponentials and their sum, where they are kept


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def softmax_attention(
    query: Float[Array, "b q h d"],
    keys: Float[Array, "b h k d"],
    values: Float[Array, "b h k d"],
    bias: Float[Array, "1 h q k"] | None,
    mask: Bool[Array, "b 1 #q k"],
    keep_weights: bool = False,
) -> Float[Array, "b q h d"]:
    """Values mixed by the softmax of `query . keys + bias` over the keys that `mask` shows.

    The softmax is in float32; products are of the operands' dtype. The exponentials are mixed first and divided by
    their sum afterwards, which is as many divisions as the result has numbers.

    Args:
        query: of each row.
        keys: of the same row.
        values: of the same row.
        bias: added to the scores; None: nothing is.
        mask: True is read.
        keep_weights: keep them for the backward pass, in the operands' dtype: a batch's weights take more memory than
            all else in a layer. Within `jax.checkpoint` it costs nothing: they are made again there anyway.
    """
    exponentials, total = _exponentials(query, keys, bias, mask)
    return _mixed(exponentials, total, values)


def _forward(query, keys, values, bias, mask, keep_weights):
    # The barrier lets the TPU's compiler make exponentials and their sum in one go with the product, and write them
    # in the operands' dtype.
    exponentials, total = jax.lax.optimization_barrier(_exponentials(query, keys, bias, mask))
    mixed = _mixed(exponentials, total, values)
    return mixed, _Kept(query, keys, values, bias, mask, mixed, (exponentials, total) if keep_weights else None)


def _backward(keep_weights: bool, kept: _Kept, gradient: Float[Array, "b q h d"]):
    if not keep_weights:  # the barrier: else XLA would take those of the forward pass, kept all the while
        kept, gradient = jax.lax.optimization_barrier((kept, gradient))
    query, keys, values, bias, mask, mixed, weights = kept
    dtype = query.dtype
    exponentials, total = weights or jax.lax.optimization_barrier(_exponentials(query, keys, bias, mask))
    # Divided by the sum here, of length d, rather than all weights of length k.
    scaled = gradient.astype(jnp.float32) / total.swapaxes(1, 2)
    # The scores of a query that sees nothing are constants.
    of_scores = jnp.where(jnp.any(mask, axis=-1).swapaxes(1, 2)[..., None], scaled, 0.0)
    scaled, of_scores = jax.lax.optimization_barrier((scaled.astype(dtype), of_scores.astype(dtype)))
    correction = jnp.einsum("bqhd,bqhd->bhq", mixed.astype(jnp.float32), of_scores.astype(jnp.float32))[..., None]
    d_values = products.mix_queries(exponentials, scaled)
    d_weights = products.scores(of_scores, values)
    d_scores = exponentials.astype(jnp.float32) * (d_weights.astype(jnp.float32) - correction)
    d_scores = jax.lax.optimization_barrier(d_scores.astype(dtype))
    d_bias = None if bias is None else sum_over_rows(d_scores)
    d_query = products.mix(d_scores, keys).swapaxes(1, 2)
    return d_query, products.mix_queries(d_scores, query), d_values, d_bias, None


softmax_attention.defvjp(_forward, _backward)


def _exponentials(query, keys, bias, mask) -> tuple[Float[Array, "b h q k"], Float[Array, "b h q 1"]]:
    """The exponentials of the scores over their row's highest, in the operands' dtype, and their sum in float32."""
    scores = products.scores(query, keys).astype(jnp.float32)
    if bias is not None:
        scores = scores + bias
    scores = jnp.where(mask, scores, MASKED)
    exponentials = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
    return exponentials.astype(query.dtype), jnp.sum(exponentials, axis=-1, keepdims=True)


def _mixed(exponentials, total, values) -> Float[Array, "b q h d"]:
    return (products.mix(exponentials, values, jnp.dtype(jnp.float32)) / total).astype(values.dtype).swapaxes(1, 2)


def sum_over_rows(x: Float[Array, "b h q k"]) -> Float[Array, "1 h q k"]:
    """The sum over the rows of a batch, in float32.

    As additions of slices: the TPU's compiler estimates its own reduction at six times as much. Slices are taken of
    the rows that one device has.
    """
    ways = row_ways(x.shape[0])
    local = x.shape[0] // ways
    slices = next(count for count in range(min(local, _SLICES), 0, -1) if local % count == 0)
    parts = x.reshape(ways, slices, local // slices, *x.shape[1:])
    added = functools.reduce(jnp.add, [parts[:, i].astype(jnp.float32) for i in range(slices)])
    return jnp.sum(added, axis=(0, 1))[None]
