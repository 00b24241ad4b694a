"""The largest of many logits: exact, and cheap on a CPU too.

XLA's `argmax` takes a CPU longer than the rest of a step of a small model, and `top_k` as long for many rows. A
vocabulary is therefore looked through in blocks: the largest of each is found by a plain maximum.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

BLOCK = 128


def argmax(x: Float[Array, "r v"]) -> Int[Array, " r"]:
    """The place of each row's largest value; the first of equal ones."""
    count = x.shape[-1]
    is_largest = x == jnp.max(x, axis=-1, keepdims=True)
    first = jnp.min(jnp.where(is_largest, jnp.arange(count), count), axis=-1)
    return jnp.minimum(first, count - 1)  # a row of NaN has no largest value


def top_k(x: Float[Array, "r v"], k: int) -> tuple[Float[Array, "r k"], Int[Array, "r k"]]:
    """The `k` largest values of each row, the largest first, and their places; of equal ones the first.

    They stand in the `k` blocks with the largest maxima: each of these has a value at least as large as any elsewhere.
    """
    in_blocks = blocks(x)
    if k > x.shape[-1] or k >= in_blocks.shape[1]:
        return tuple(jax.lax.top_k(x, k))
    _, chosen = jax.lax.top_k(jnp.max(in_blocks, axis=-1), k)
    chosen = jnp.sort(chosen, axis=-1)  # so that of equal values the first goes first
    found = jnp.take_along_axis(in_blocks, chosen[..., None], axis=1)
    values, places = jax.lax.top_k(found.reshape(len(x), -1), k)
    return values, jnp.take_along_axis(chosen, places // BLOCK, axis=1) * BLOCK + places % BLOCK


def blocks(x: Float[Array, "r v"]) -> Float[Array, "r n block"]:
    """Each row in blocks, the last filled up with -inf."""
    padded = jnp.pad(x, ((0, 0), (0, -x.shape[-1] % BLOCK)), constant_values=-jnp.inf)
    return padded.reshape(len(x), -1, BLOCK)
