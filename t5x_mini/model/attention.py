"""Multi-head attention with T5's relative position bias.

Bias and mask stay apart: the bias is learned, shared by a whole stack and the same for every row; the mask is a fact
of the batch.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from t5x_mini.model import products
from t5x_mini.model.config import TransformerConfig
from t5x_mini.model.layers import Dense, dropout, fan_in_normal
from t5x_mini.model.masks import Visible
from t5x_mini.model.softmax_attention import MASKED, softmax_attention
from t5x_mini.parallel.sharding import constrain, platform


class KeysValues(NamedTuple):
    """What attention reads; heads before positions, so that a cache of them is read in the order of its memory."""

    keys: Float[Array, "b h k d"]
    values: Float[Array, "b h k d"]


class Attention(nnx.Module):
    """Queries from `x`, keys and values from a context. T5 does not scale by 1/sqrt(head_dim): its initialiser does."""

    def __init__(self, key: PRNGKeyArray, config: TransformerConfig):
        width, joined = config.emb_dim, config.num_heads * config.head_dim
        query, key_, value, out = jax.random.split(key, 4)

        def scaled_init(*args):
            return fan_in_normal(*args) / math.sqrt(config.head_dim)

        self.query = Dense(query, (width, joined), ("embed", "joined_kv"), scaled_init)
        self.key = Dense(key_, (width, joined), ("embed", "joined_kv"))
        self.value = Dense(value, (width, joined), ("embed", "joined_kv"))
        self.out = Dense(out, (joined, width), ("joined_kv", "embed"))

    def __call__(
        self,
        x: Float[Array, "r q e"],
        parts: Sequence[KeysValues],
        mask: Bool[Array, "r 1 #q k"] | Visible,
        bias: Float[Array, "1 h q k"] | Float[Array, "h distances"] | None,
        config: TransformerConfig,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "r q e"]:
        """What `x` reads from keys and values, which stand in one or several parts (`dot_product_attention`)."""
        query = self._heads(self.query, x, config)
        if isinstance(mask, Visible):
            from t5x_mini.model.flash import flash_attention  # not all have to wait for Pallas to be imported

            (part,) = parts
            # The draw is shared by the queries: a weight that is dropped is a value that is.
            values = dropout(part.values, config.dropout_rate, key, broadcast=3)
            mixed = flash_attention(query, part.keys.swapaxes(1, 2), values.swapaxes(1, 2), mask, bias)
        else:
            # Under remat the backward pass has made the layer again, weights and all; CPUs have more memory than speed.
            keeps = dict(keep_weights=config.remat != "none" or platform() == "cpu")
            drops = dict(dropout_rate=config.dropout_rate, key=key)
            mixed = dot_product_attention(query, parts, mask=mask, bias=bias, **drops, **keeps)
        return self.out(mixed.reshape(*x.shape[:2], -1), jnp.dtype(config.dtype))

    def keys_values(self, context: Float[Array, "b k e"], config: TransformerConfig) -> KeysValues:
        """What there is to read in `context`."""
        keys, values = (self._heads(projection, context, config) for projection in (self.key, self.value))
        return KeysValues(keys.swapaxes(1, 2), values.swapaxes(1, 2))

    def _heads(self, projection: Dense, x: Float[Array, "b l e"], config: TransformerConfig) -> Array:
        split = projection(x, jnp.dtype(config.dtype)).reshape(*x.shape[:2], config.num_heads, config.head_dim)
        return constrain(split, "batch", "length", "heads", None)


def dot_product_attention(
    query: Float[Array, "r q h d"],
    parts: Sequence[KeysValues],
    *,
    mask: Bool[Array, "r 1 #q k"],
    bias: Float[Array, "1 h q k"] | None = None,
    dropout_rate: float = 0.0,
    key: PRNGKeyArray | None = None,
    keep_weights: bool = False,
) -> Float[Array, "r q h d"]:
    """Softmax attention; the softmax is in float32, the products in the operands' dtype.

    Args:
        query: of `r` rows.
        parts: keys and values, in one part or in several that are read as one, in this order. A part of `b` rows
            serves `r / b` rows of queries in turn: several answers to one input share what is read of it.
        mask: over the keys of all parts; True is read. So is `bias`.
        bias: added to the scores.
        dropout_rate: of the weights.
        key: a PRNG key, or None when not training.
        keep_weights: for the backward pass (`softmax_attention`).
    """
    if len(parts) == 1 and len(parts[0].keys) == len(query):
        keys, values = parts[0]
        values = dropout(values, dropout_rate, key, broadcast=3)  # as in `Attention`
        return softmax_attention(query, keys, values, bias, mask, keep_weights)
    scores = jnp.concatenate([_scores(query, part.keys) for part in parts], axis=-1).astype(jnp.float32)
    if bias is not None:
        scores = scores + bias
    weights = jax.nn.softmax(jnp.where(mask, scores, MASKED), axis=-1).astype(query.dtype)
    weights = dropout(weights, dropout_rate, key, broadcast=2)
    ends = np.cumsum([part.keys.shape[2] for part in parts])[:-1]
    mixed = [_mix(share, part.values) for share, part in zip(jnp.split(weights, ends, axis=-1), parts, strict=True)]
    return functools.reduce(jnp.add, mixed)


def _scores(query: Float[Array, "r q h d"], keys: Float[Array, "b h k d"]) -> Float[Array, "r h q k"]:
    rows, (count, length, heads, width) = keys.shape[0], query.shape
    folded = query.reshape(rows, -1, heads, width)  # the queries that share keys side by side: the keys are read once
    scores = products.scores(folded, keys)
    unfolded = scores.reshape(rows, heads, count // rows, length, -1).swapaxes(1, 2)
    return unfolded.reshape(count, heads, length, -1)


def _mix(weights: Float[Array, "r h q k"], values: Float[Array, "b h k d"]) -> Float[Array, "r q h d"]:
    rows, (count, heads, length, keys) = values.shape[0], weights.shape
    folded = weights.reshape(rows, count // rows, heads, length, keys).swapaxes(1, 2)
    mixed = products.mix(folded.reshape(rows, heads, -1, keys), values).swapaxes(1, 2)
    return mixed.reshape(count, length, heads, -1)


class RelativePositionBias(nnx.Module):
    """A learned bias for each head and bucket of relative distance (T5 paper, section 2.1)."""

    def __init__(self, key: PRNGKeyArray, config: TransformerConfig):
        init = jax.nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
        shape = (config.num_heads, config.relpos_buckets)
        self.rel_embedding = nnx.Param(init(key, shape, jnp.float32), axes=("heads", "relpos_buckets"))

    def __call__(
        self, queries: int, keys: int, *, bidirectional: bool, config: TransformerConfig
    ) -> Float[Array, "1 h q k"]:
        """The bias of every (query, key) pair, in float32.

        It depends on `key - query` alone, so one value a distance is looked up and laid out along the diagonals: the
        gradient is then a sum along diagonals rather than a scatter of queries x keys entries.
        """
        by_distance = self.by_distance(queries, keys, bidirectional=bidirectional, config=config)
        return constrain(along_diagonals(by_distance, queries, keys)[None], None, "heads", "length", "length")

    def for_mask(
        self, mask: Array | Visible, length: int, *, bidirectional: bool, config: TransformerConfig
    ) -> Float[Array, "1 h l l"] | Float[Array, "h distances"]:
        """The bias as attention wants it beside such a mask: of every pair, or at every distance that differs."""
        if isinstance(mask, Visible):
            from t5x_mini.model.flash import bias_span

            span = bias_span(length, length, config.relpos_max_distance)
            return self.by_distance(span, span, bidirectional=bidirectional, config=config)
        return self(length, length, bidirectional=bidirectional, config=config)

    def by_distance(
        self, behind: int, ahead: int, *, bidirectional: bool, config: TransformerConfig
    ) -> Float[Array, "h distances"]:
        """The bias at the distances `key - query` from `-behind` to `ahead - 1`, in float32."""
        buckets = relative_position_bucket(
            np.arange(-behind, ahead),
            bidirectional=bidirectional,
            buckets=config.relpos_buckets,
            max_distance=config.relpos_max_distance,
        )
        # A product with a constant one-hot matrix, not a gather: 32 x (q + k) numbers, and a dense gradient.
        one_hot = np.equal(np.arange(config.relpos_buckets)[:, None], buckets[None, :]).astype(np.float32)
        return jnp.dot(self.rel_embedding[...], one_hot, precision=jax.lax.Precision.HIGHEST)


def along_diagonals(values: Float[Array, "h distances"], queries: int, keys: int) -> Float[Array, "h q k"]:
    """`out[h, q, k] = values[h, k - q + queries]`, for values at distances -queries ... keys - 1.

    Repeating a row of n values and cutting it into rows of n - 1 shifts each row by one place: no gather is needed.
    """
    heads, n = values.shape
    rolled = jnp.roll(values, -queries, axis=1)  # distance 0 first, so that row q starts q places earlier
    tiled = jnp.broadcast_to(rolled[:, None], (heads, queries, n)).reshape(heads, queries * n)
    return tiled[:, : queries * (n - 1)].reshape(heads, queries, n - 1)[:, :, :keys]


def relative_position_bucket(
    distance: Int[np.ndarray, "..."], *, bidirectional: bool, buckets: int, max_distance: int
) -> Int[np.ndarray, "..."]:
    """The bucket of each distance `key - query`: exact when near, logarithmic when far (T5X `layers.py`).

    Args:
        distance: key position minus query position.
        bidirectional: half of the buckets for keys after the query (encoder); False: such keys count as distance 0.
        buckets: number of buckets.
        max_distance: distances from here on share the last bucket.
    """
    offset = np.zeros_like(distance)
    if bidirectional:
        buckets //= 2
        offset = np.where(distance > 0, buckets, 0)
        distance = np.abs(distance)
    else:
        distance = np.maximum(-distance, 0)
    exact = buckets // 2
    # float32 as in T5X: the rounding decides on which side of a border a distance falls.
    ratio = np.log(distance.astype(np.float32) / exact + np.finfo(np.float32).eps) / np.log(max_distance / exact)
    far = exact + (ratio * (buckets - exact)).astype(np.int32)
    return offset + np.where(distance < exact, distance, np.minimum(far, buckets - 1))
