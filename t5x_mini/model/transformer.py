"""One transformer, three architectures: the encoder is there or not; all else is the mask (`masks.py`).

Parameters are named as in T5X (`encoder/layers/mlp/wo/kernel`), with the layers of a stack on a leading axis. Outside
this module they travel as a flat dict from name to array; `init_params` makes one and `bind` turns it into a model.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from t5x_mini.model.attention import Attention, KeysValues, RelativePositionBias
from t5x_mini.model.config import TransformerConfig
from t5x_mini.model.layers import (
    MLP,
    PRODUCT,
    Dense,
    Embedding,
    RMSNorm,
    dropout,
    fan_in_truncated,
    float32_logits,
    split_key,
)
from t5x_mini.model.masks import Visible, make_masks, make_visible
from t5x_mini.parallel.sharding import constrain

_LAYER_INPUT = "layer_input"
# What the backward pass keeps of a layer, by the names that parts of it have; the rest is computed again.
REMAT_POLICIES = {
    "minimal": jax.checkpoint_policies.save_only_these_names(PRODUCT, _LAYER_INPUT),
    "full": jax.checkpoint_policies.save_only_these_names(_LAYER_INPUT),
    "offload": jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=[PRODUCT, _LAYER_INPUT],
        offload_src="device",
        offload_dst="pinned_host",
    ),
}

Params = dict[str, jax.Array]
Batch = Mapping[str, Array]


class EncoderLayer(nnx.Module):
    """Self-attention and MLP, each normalised before and added after."""

    def __init__(self, key: PRNGKeyArray, config: TransformerConfig):
        attention, mlp = jax.random.split(key)
        _add_own_bias(self, key, config)
        self.pre_attention_layer_norm = RMSNorm(config.emb_dim)
        self.attention = Attention(attention, config)
        self.pre_mlp_layer_norm = RMSNorm(config.emb_dim)
        self.mlp = MLP(mlp, config)

    def __call__(
        self,
        x: Float[Array, "b l e"],
        key: PRNGKeyArray | None,
        *,
        mask: Bool[Array, "b 1 l l"] | Visible,
        bias: Float[Array, "1 h l l"] | Float[Array, "h distances"] | None,
        config: TransformerConfig,
    ) -> Float[Array, "b l e"]:
        """`bias` is None where every layer has one of its own."""
        if bias is None:
            bias = self.relpos_bias.for_mask(mask, x.shape[1], bidirectional=True, config=config)
        sublayers = self.pre_attention_layer_norm, self.attention, self.pre_mlp_layer_norm, self.mlp
        return _encode(*sublayers, x, key, mask=mask, bias=bias, config=config)


class DecoderLayer(nnx.Module):
    """Self-attention, cross-attention where there is an encoder, and MLP."""

    def __init__(self, key: PRNGKeyArray, config: TransformerConfig):
        attention, cross, mlp = jax.random.split(key, 3)
        _add_own_bias(self, key, config)
        self.pre_self_attention_layer_norm = RMSNorm(config.emb_dim)
        self.self_attention = Attention(attention, config)
        if config.has_encoder:
            self.pre_cross_attention_layer_norm = RMSNorm(config.emb_dim)
            self.encoder_decoder_attention = Attention(cross, config)
        self.pre_mlp_layer_norm = RMSNorm(config.emb_dim)
        self.mlp = MLP(mlp, config)

    def __call__(
        self,
        x: Float[Array, "r q e"],
        key: PRNGKeyArray | None = None,
        *,
        mask: Bool[Array, "r 1 #q k"] | Visible,
        bias: Float[Array, "1 h q k"] | Float[Array, "h distances"] | None,
        encoded: Float[Array, "b l e"] | None = None,
        cross: KeysValues | None = None,
        cross_mask: Bool[Array, "r 1 #q l"] | Visible | None = None,
        prompt: KeysValues | None = None,
        cache: KeysValues | None = None,
        place: Int[Array, ""] | None = None,
        config: TransformerConfig,
    ) -> tuple[Float[Array, "r q e"], KeysValues]:
        """The layer's output, and the keys and values that self-attention read, those of the prompt aside.

        Args:
            x: the layer's input.
            key: for dropout; None when not training.
            mask: over all that self-attention reads: `prompt`, then the cache or, without one, `x` itself.
            bias: over the same; None where every layer has one of its own, and `x` alone is read.
            encoded: the encoder's output.
            cross: or its keys and values, where they are known already.
            cross_mask: over the encoder's positions.
            prompt: keys and values of what stands before (`model/cache.py`).
            cache: keys and values of earlier tokens, which those of `x` are written into, at `place`.
            config: the model.
        """
        keys = iter(split_key(key, 6))
        dtype, rate = jnp.dtype(config.dtype), config.dropout_rate
        if bias is None:
            bias = self.relpos_bias.for_mask(mask, x.shape[1], bidirectional=False, config=config)
        y = self.pre_self_attention_layer_norm(x, dtype)
        own = self.self_attention.keys_values(y, config)
        if cache is not None:
            own = jax.tree.map(lambda all_, new: jax.lax.dynamic_update_slice_in_dim(all_, new, place, 2), cache, own)
        parts = [own] if prompt is None else [prompt, own]
        x = x + dropout(self.self_attention(y, parts, mask, bias, config, next(keys)), rate, next(keys), broadcast=1)
        if config.has_encoder:
            y = self.pre_cross_attention_layer_norm(x, dtype)
            cross = cross or self.encoder_decoder_attention.keys_values(encoded, config)
            y = self.encoder_decoder_attention(y, [cross], cross_mask, None, config, next(keys))
            x = x + dropout(y, rate, next(keys), broadcast=1)
        y = self.pre_mlp_layer_norm(x, dtype)
        x = x + dropout(self.mlp(y, config, next(keys)), rate, next(keys), broadcast=1)
        return constrain(x, "batch", "length", None), own

    def encode(
        self,
        x: Float[Array, "b l e"],
        key: PRNGKeyArray | None,
        *,
        mask: Bool[Array, "b 1 l l"] | Visible,
        bias: Float[Array, "1 h l l"] | Float[Array, "h distances"],
        config: TransformerConfig,
    ) -> Float[Array, "b l e"]:
        """What the layer does in the encoder of a model that shares its layers: all but the cross-attention."""
        sublayers = self.pre_self_attention_layer_norm, self.self_attention, self.pre_mlp_layer_norm, self.mlp
        return _encode(*sublayers, x, key, mask=mask, bias=bias, config=config)


def _encode(
    attention_norm: RMSNorm,
    attention: Attention,
    mlp_norm: RMSNorm,
    mlp: MLP,
    x: Float[Array, "b l e"],
    key: PRNGKeyArray | None,
    *,
    mask: Bool[Array, "b 1 l l"] | Visible,
    bias: Float[Array, "1 h l l"] | Float[Array, "h distances"],
    config: TransformerConfig,
) -> Float[Array, "b l e"]:
    """An encoder's layer, made of these parts."""
    keys = iter(split_key(key, 4))
    dtype, rate = jnp.dtype(config.dtype), config.dropout_rate
    y = attention_norm(x, dtype)
    y = attention(y, [attention.keys_values(y, config)], mask, bias, config, next(keys))
    x = x + dropout(y, rate, next(keys), broadcast=1)
    y = mlp_norm(x, dtype)
    x = x + dropout(mlp(y, config, next(keys)), rate, next(keys), broadcast=1)
    return constrain(x, "batch", "length", None)


class Encoder(nnx.Module):
    """The encoder; with `share_layers` its layers are the decoder's, and it only has a norm and a bias of its own."""

    def __init__(self, key: PRNGKeyArray, config: TransformerConfig):
        layers, bias = jax.random.split(key)
        if not config.share_layers:
            self.layers = _stack(EncoderLayer, layers, config, config.num_encoder_layers)
        if not config.relpos_bias_per_layer:
            self.relpos_bias = RelativePositionBias(bias, config)
        self.encoder_norm = RMSNorm(config.emb_dim)

    def __call__(
        self,
        embedded: Float[Array, "b l e"],
        mask: Bool[Array, "b 1 l l"] | Visible,
        config: TransformerConfig,
        key: PRNGKeyArray | None,
        decoder_layers: DecoderLayer | None = None,
    ) -> Float[Array, "b l e"]:
        """`decoder_layers`: the decoder's stack, where it is the encoder's too."""
        embed_key, layers_key, out_key = split_key(key, 3)
        bias = _shared_bias(self, mask, embedded.shape[1], bidirectional=True, config=config)
        shared = config.share_layers
        call, layers = (DecoderLayer.encode, decoder_layers) if shared else (EncoderLayer.__call__, self.layers)
        layer = functools.partial(call, mask=mask, bias=bias, config=config)
        x = dropout(embedded, config.dropout_rate, embed_key, broadcast=1)
        x = _run_stack(layer, layers, x, config, layers_key)
        x = self.encoder_norm(x, jnp.dtype(config.dtype))
        return dropout(x, config.dropout_rate, out_key)  # T5X shares no draw along the length just here


class Decoder(nnx.Module):
    """The decoder, or the only stack of a decoder-only model, which then owns the embedding too."""

    def __init__(self, key: PRNGKeyArray, config: TransformerConfig):
        layers, bias, head, embedding = jax.random.split(key, 4)
        if not config.has_encoder:
            self.token_embedder = Embedding(embedding, config.vocab_size, config.emb_dim)
        self.layers = _stack(DecoderLayer, layers, config, config.num_decoder_layers)
        if not config.relpos_bias_per_layer:
            self.relpos_bias = RelativePositionBias(bias, config)
        self.decoder_norm = RMSNorm(config.emb_dim)
        if not config.logits_via_embedding:
            shape = (config.emb_dim, config.vocab_size)
            self.logits_dense = Dense(head, shape, ("embed", "vocab"), fan_in_truncated)

    def __call__(
        self,
        embedded: Float[Array, "b l e"],
        encoded: Float[Array, "b k e"] | None,
        mask: Bool[Array, "b 1 l l"] | Visible,
        cross_mask: Bool[Array, "b 1 l k"] | Visible | None,
        config: TransformerConfig,
        key: PRNGKeyArray | None,
    ) -> Float[Array, "b l e"]:
        embed_key, layers_key, out_key = split_key(key, 3)
        bias = _shared_bias(self, mask, embedded.shape[1], bidirectional=False, config=config)

        def layer(layer: DecoderLayer, x: Array, key: PRNGKeyArray | None) -> Array:
            return layer(x, key, mask=mask, bias=bias, encoded=encoded, cross_mask=cross_mask, config=config)[0]

        y = dropout(embedded, config.dropout_rate, embed_key, broadcast=1)
        y = _run_stack(layer, self.layers, y, config, layers_key)
        y = self.decoder_norm(y, jnp.dtype(config.dtype))
        return dropout(y, config.dropout_rate, out_key, broadcast=1)


class Transformer(nnx.Module):
    """An encoder-decoder, a prefix language model or a causal language model: `config.architecture` says which."""

    def __init__(self, key: PRNGKeyArray, config: TransformerConfig):
        embedding, encoder, decoder = jax.random.split(key, 3)
        if config.has_encoder:
            self.token_embedder = Embedding(embedding, config.vocab_size, config.emb_dim)
            self.encoder = Encoder(encoder, config)
        self.decoder = Decoder(decoder, config)
        self.config = config

    def __call__(self, batch: Batch, dropout_key: PRNGKeyArray | None = None) -> Float[Array, "b l v"]:
        """Logits of the decoder's targets, in float32.

        Args:
            batch: SeqIO's features: `decoder_target_tokens` and `decoder_input_tokens` `[batch, length]`;
                `encoder_input_tokens` where there is an encoder; `decoder_causal_attention` (the prefix) for a prefix
                LM; `*_segment_ids` where rows are packed.
            dropout_key: a PRNG key to train with dropout; None switches dropout off.
        """
        return self.logits(self.decoded(batch, dropout_key))

    def decoded(self, batch: Batch, dropout_key: PRNGKeyArray | None = None) -> Float[Array, "b l e"]:
        """What the output head makes logits of; the arguments are those of a call."""
        make = make_visible if self.config.attention == "flash" else make_masks
        masks = make(self.config.architecture, batch)
        encoder_key, decoder_key = split_key(dropout_key, 2)
        encoded = None
        if self.config.has_encoder:
            encoded = self.encode(batch["encoder_input_tokens"], masks.encoder, encoder_key)
        embedded = self.embed(batch["decoder_input_tokens"])
        return self.decoder(embedded, encoded, masks.decoder, masks.cross, self.config, decoder_key)

    def encode(
        self,
        tokens: Int[Array, "b l"],
        mask: Bool[Array, "b 1 l l"] | Visible,
        key: PRNGKeyArray | None = None,
        *,
        scan_layers: bool | None = None,
    ) -> Float[Array, "b l e"]:
        """The encoder's output for its tokens; `scan_layers` in place of the configuration's, where it is given."""
        config = self.config
        if scan_layers is not None:
            config = dataclasses.replace(config, scan_layers=scan_layers)
        shared = self.decoder.layers if config.share_layers else None
        return self.encoder(self.embed(tokens), mask, config, key, shared)

    @property
    def _embedder(self) -> Embedding:
        return self.token_embedder if self.config.has_encoder else self.decoder.token_embedder

    def embed(self, tokens: Int[Array, "b l"]) -> Float[Array, "b l e"]:
        """What either stack takes for these tokens."""
        return constrain(self._embedder(tokens, jnp.dtype(self.config.dtype)), "batch", "length", None)

    @property
    def head(self) -> Float[Array, "e v"]:
        """The output head's kernel: the embedding's transpose where the two are tied."""
        if self.config.logits_via_embedding:
            return self._embedder.embedding[...].T
        return self.decoder.logits_dense.kernel[...]

    def logits(self, decoded: Float[Array, "b l e"], head: Float[Array, "e v"] | None = None) -> Float[Array, "b l v"]:
        """Logits in float32; those of a tied head are scaled by 1/sqrt(emb_dim), as T5 does.

        Args:
            decoded: the decoder's output.
            head: some columns of the head, to have only their logits; None: all.
        """
        logits = float32_logits(decoded, self.head if head is None else head, jnp.dtype(self.config.dtype))
        return logits / math.sqrt(self.config.emb_dim) if self.config.logits_via_embedding else logits


def _add_own_bias(layer: nnx.Module, key: PRNGKeyArray, config: TransformerConfig) -> None:
    if config.relpos_bias_per_layer:
        layer.relpos_bias = RelativePositionBias(jax.random.fold_in(key, 0), config)


def _shared_bias(
    stack: Encoder | Decoder, mask: Array | Visible, length: int, *, bidirectional: bool, config: TransformerConfig
) -> Float[Array, "1 h l l"] | Float[Array, "h distances"] | None:
    """The bias that all layers of a stack share, computed once; None where each has its own."""
    if config.relpos_bias_per_layer:
        return None
    return stack.relpos_bias.for_mask(mask, length, bidirectional=bidirectional, config=config)


def _stack(layer: Callable, key: PRNGKeyArray, config: TransformerConfig, count: int) -> nnx.Module:
    """`count` layers as one module whose parameters have the layers on a leading axis."""
    return jax.vmap(lambda layer_key: layer(layer_key, config))(jax.random.split(key, count))


def _checkpointed(layer: Callable, config: TransformerConfig) -> Callable:
    """The layer, of which the backward pass keeps what `config.remat` says.

    XLA would undo the recomputation by merging it with the forward pass in unrolled code, hence `prevent_cse` there.
    """

    def with_named_input(stack: nnx.Module, x: Array, key: PRNGKeyArray | None) -> Array:
        return layer(stack, checkpoint_name(x, _LAYER_INPUT), key)

    policy = REMAT_POLICIES[config.remat]
    return jax.checkpoint(with_named_input, policy=policy, prevent_cse=not config.scan_layers)


def _run_stack(
    layer: Callable, stack: nnx.Module, x: Array, config: TransformerConfig, key: PRNGKeyArray | None
) -> Array:
    """Applies the layers of a stack in turn; unrolled, the loop is written out when compiling."""
    if config.remat != "none":
        layer = _checkpointed(layer, config)
    count = jax.tree.leaves(stack)[0].shape[0]
    keys = None if key is None else jax.random.split(key, count)

    def step(x, layer_and_key):
        return layer(layer_and_key[0], x, layer_and_key[1]), None

    return jax.lax.scan(step, x, (stack, keys), unroll=1 if config.scan_layers else count)[0]


# ---------------------------------------------------------------------------------------------- parameters by name


@functools.cache
def _structure(
    config: TransformerConfig,
) -> tuple[list[str], list[jax.ShapeDtypeStruct], list, jax.tree_util.PyTreeDef]:
    """Names, shapes, logical axes and tree structure of a model's parameters, without making one."""
    model = jax.eval_shape(lambda key: Transformer(key, config), jax.random.key(0))
    variables, _ = jax.tree_util.tree_flatten_with_path(model, is_leaf=lambda node: isinstance(node, nnx.Param))
    shapes, tree = jax.tree.flatten(model)
    names = ["/".join(entry.name for entry in path) for path, _ in variables]
    axes = [
        ("layers", *param.get_metadata()["axes"]) if is_stacked(name) else param.get_metadata()["axes"]
        for name, (_, param) in zip(names, variables, strict=True)
    ]
    return names, shapes, axes, tree


def is_stacked(name: str) -> bool:
    """Whether the parameter of this name has the layers of a stack on its leading axis."""
    return "layers" in name.split("/")


def init_params(config: TransformerConfig, key: PRNGKeyArray) -> Params:
    """Fresh parameters, float32, with T5's initialisers."""
    return dict(zip(_structure(config)[0], jax.tree.leaves(Transformer(key, config)), strict=True))


def bind(config: TransformerConfig, params: Params) -> Transformer:
    """The model with these parameters."""
    names, _, _, tree = _structure(config)
    return jax.tree.unflatten(tree, [params[name] for name in names])


def param_shapes(config: TransformerConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and dtype of every parameter."""
    names, shapes, _, _ = _structure(config)
    return dict(zip(names, shapes, strict=True))


def param_axes(config: TransformerConfig) -> dict[str, tuple[str | None, ...]]:
    """The logical axes of every parameter (`parallel/sharding.py`)."""
    names, _, axes, _ = _structure(config)
    return dict(zip(names, axes, strict=True))


def param_count(config: TransformerConfig) -> int:
    """Number of parameters."""
    return sum(shape.size for shape in param_shapes(config).values())
