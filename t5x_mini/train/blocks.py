"""How large gradients, updates and parameters are, block by block: where a model learns, and where it doesn't.

A block is what a checkpoint keeps in one folder, and has its name: a layer (`encoder/layers_0`), the embedding
(`token_embedder`), the output head (`decoder/logits_dense`), a stack's last norm or its relative position bias. The
layers of a stack are one array in memory, and one reduction gives a number for each of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from t5x_mini.model.transformer import is_stacked
from t5x_mini.train.param_names import of_layers


def names(params: Mapping[str, Any]) -> list[str]:
    """The blocks of these parameters (arrays or their shapes), in the order of the vectors below."""
    return list(_sizes(params))


def squares(arrays: Mapping[str, Float[Array, "..."]]) -> Float[Array, " blocks"]:
    """The sum of squares of each block."""
    sums: dict[str, Array] = {}
    for name in sorted(arrays):
        array = arrays[name]
        of_array = jnp.sum(jnp.square(array), axis=tuple(range(is_stacked(name), array.ndim)))
        sums[_block(name)] = sums.get(_block(name), 0.0) + of_array
    return jnp.concatenate([jnp.atleast_1d(of_block) for of_block in sums.values()])


def rms(squares: Float[Array, " blocks"], params: Mapping[str, Any]) -> Float[Array, " blocks"]:
    """The root mean square of each block, from its sum of squares."""
    return jnp.sqrt(squares / np.array(list(_sizes(params).values()), np.float32))


def _sizes(params: Mapping[str, Any]) -> dict[str, int]:
    """How many numbers each block has."""
    sizes: dict[str, int] = {}
    for name in sorted(params):
        layers = of_layers(name, params[name])
        for layer in layers:
            sizes[_block(layer)] = sizes.get(_block(layer), 0) + params[name].size // len(layers)
    return sizes


def _block(name: str) -> str:
    """`encoder/layers_0` of `encoder/layers_0/mlp/wo/kernel`; `token_embedder` of `token_embedder/embedding`."""
    return "/".join(name.split("/")[:-1][:2])
