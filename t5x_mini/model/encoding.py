"""What a model makes of a text before it writes anything: a vector for each token."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from t5x_mini.model.config import TransformerConfig
from t5x_mini.model.masks import decoder_mask, encoder_mask
from t5x_mini.model.transformer import Params, bind


def encode(params: Params, inputs: Int[Array, "b l"], config: TransformerConfig) -> Float[Array, "b l e"]:
    """The encoder's output; of a decoder-only model, the decoder's output where it reads each token.

    Both are normalised: it is what cross-attention, or the output head, reads. Whatever stands at padding means
    nothing.

    Args:
        params: the model's parameters.
        inputs: ids padded with 0 on the right. A prefix LM sees them whole, as it sees its inputs.
        config: the model.
    """
    model = bind(config, params)
    if config.has_encoder:
        return model.encode(inputs, encoder_mask(inputs))
    bos = jnp.zeros_like(inputs[:, :1])
    real = jnp.concatenate([jnp.ones_like(bos), (inputs > 0).astype(inputs.dtype)], axis=1)
    mask = decoder_mask(config.architecture, real, causal_attention=real)
    embedded = model.embed(jnp.concatenate([bos, inputs], axis=1))
    return model.decoder(embedded, None, mask, None, config, None)[:, 1:]
