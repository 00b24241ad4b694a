"""The parts of a transformer layer: dense, norm, embedding, MLP, dropout. Plain functions of arrays on NNX modules.

Modules are pytrees of parameters and nothing more: no stored random state, no mutable cache. Each parameter carries
the logical names of its axes (`parallel/sharding.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int, PRNGKeyArray

from t5x_mini.model import products
from t5x_mini.model.config import TransformerConfig
from t5x_mini.parallel.sharding import constrain, platform

fan_in_normal = jax.nn.initializers.variance_scaling(1.0, "fan_in", "normal")
fan_in_truncated = jax.nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=True),  # the tanh form, as in every public T5 1.1
    "linear": lambda x: x,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


PRODUCT = "product"  # what `Dense` gives, by which remat chooses what to keep (`transformer.REMAT_POLICIES`)


class Dense(nnx.Module):
    """A matrix product without bias: `[..., in] -> [..., out]`."""

    def __init__(
        self, key: PRNGKeyArray, shape: tuple[int, int], axes: tuple[str, str], init: Callable = fan_in_normal
    ):
        self.kernel = nnx.Param(init(key, shape, jnp.float32), axes=axes)

    def __call__(self, x: Float[Array, "... a"], dtype: jnp.dtype) -> Float[Array, "... b"]:
        return checkpoint_name(products.dense(x, self.kernel[...], dtype, dtype), PRODUCT)


class RMSNorm(nnx.Module):
    """T5's layer norm: no mean, no bias; computed in float32."""

    EPSILON = 1e-6

    def __init__(self, width: int):
        self.scale = nnx.Param(jnp.ones(width), axes=("embed",))

    def __call__(self, x: Float[Array, "... e"], dtype: jnp.dtype) -> Float[Array, "... e"]:
        def normed(x: Array, scale: Array) -> Array:
            x = x.astype(jnp.float32)
            x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + self.EPSILON)
            return (x * scale).astype(dtype)

        return _made_again_on_cpus(normed)(x, self.scale[...])


class Embedding(nnx.Module):
    """Token embeddings, read by gather. (T5X multiplies by a one-hot matrix: 41 % of a small model's forward FLOPs.)"""

    def __init__(self, key: PRNGKeyArray, vocab_size: int, width: int):
        self.embedding = nnx.Param(jax.random.normal(key, (vocab_size, width)), axes=("vocab", "embed"))

    def __call__(self, tokens: Int[Array, "b l"], dtype: jnp.dtype) -> Float[Array, "b l e"]:
        # Every device looks up its columns for the rows of all devices along `fsdp`, and trades them for all columns of
        # its own rows: the table is never gathered, nor is its gradient.
        tokens = constrain(tokens, "looked_up", None)
        columns = jnp.take(self.embedding[...], tokens, axis=0).astype(dtype)
        return constrain(columns, "looked_up", None, "embed")


def float32_logits(x: Float[Array, "b l e"], kernel: Float[Array, "e v"], dtype: jnp.dtype) -> Float[Array, "b l v"]:
    """Products in `dtype`, sums and result in float32."""
    return constrain(products.dense(x, kernel, dtype, jnp.dtype(jnp.float32)), "batch", "length", "vocab")


class MLP(nnx.Module):
    """The feed-forward block; two activations make it gated: `gelu(x wi_0) * (x wi_1)`."""

    def __init__(self, key: PRNGKeyArray, config: TransformerConfig):
        *in_keys, out_key = jax.random.split(key, len(config.mlp_activations) + 1)
        shape = (config.emb_dim, config.mlp_dim)
        for name, in_key in zip(self.input_names(config), in_keys, strict=True):
            setattr(self, name, Dense(in_key, shape, ("embed", "mlp"), fan_in_truncated))
        self.wo = Dense(out_key, shape[::-1], ("mlp", "embed"), fan_in_truncated)

    @staticmethod
    def input_names(config: TransformerConfig) -> list[str]:
        count = len(config.mlp_activations)
        return ["wi"] if count == 1 else [f"wi_{i}" for i in range(count)]

    def __call__(
        self, x: Float[Array, "b l e"], config: TransformerConfig, key: PRNGKeyArray | None
    ) -> Float[Array, "b l e"]:
        dtype = jnp.dtype(config.dtype)
        # Rounding after each operation takes CPUs longer than the operations do.
        inside = jnp.dtype(jnp.float32) if platform() == "cpu" else dtype

        def gated(parts: list[Array]) -> Array:
            activations = [ACTIVATIONS[name] for name in config.mlp_activations]
            return math.prod(f(part.astype(inside)) for f, part in zip(activations, parts, strict=True)).astype(dtype)

        hidden = _made_again_on_cpus(gated)([getattr(self, name)(x, dtype) for name in self.input_names(config)])
        hidden = dropout(constrain(hidden, "batch", "length", "mlp"), config.dropout_rate, key, broadcast=1)
        return self.wo(hidden, dtype)


def _made_again_on_cpus(elementwise: Callable) -> Callable:
    """A function that CPUs compute again in the backward pass, which takes them less time than to keep its parts.

    TPUs' compiler weighs that by itself, and better.
    """
    return jax.checkpoint(elementwise) if platform() == "cpu" else elementwise


def dropout(
    x: Float[Array, "..."], rate: float, key: PRNGKeyArray | None, broadcast: int | None = None
) -> Float[Array, "..."]:
    """Drops entries with probability `rate` and scales the rest; without a key, or at rate 0, does nothing.

    Args:
        x: any float array.
        rate: probability that an entry is dropped.
        key: a PRNG key, or None when not training.
        broadcast: a dimension along which one draw is shared. T5X shares along the length in hidden layers, and
            along the queries in attention: the same drawn positions for the whole row, and fewer random numbers.
    """
    if key is None or rate == 0.0:
        return x
    shape = [1 if axis == broadcast else size for axis, size in enumerate(x.shape)]
    keep = jax.random.bernoulli(key, 1.0 - rate, shape)
    return x * (keep.astype(x.dtype) / jnp.asarray(1.0 - rate, x.dtype))


def split_key(key: PRNGKeyArray | None, count: int) -> list[PRNGKeyArray | None]:
    """`count` keys from one, or as many Nones from None (not training)."""
    return [None] * count if key is None else list(jax.random.split(key, count))
