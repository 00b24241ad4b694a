"""Writing an answer token by token without computing anything twice.

What an answer is written from is fixed: the encoder's output as each layer's cross-attention reads it, and the prompt
that the decoder starts from. It is computed once (`start`) and shared by all answers to one input. What grows is the
cache: each layer's keys and values of the tokens written so far. Both are plain pytrees. `step` takes the newest token
of every answer and gives the logits of the next one:

    context, cache, logits = start(model, inputs, length=64, answers=4)    # logits [b, v]: of each first token
    logits, cache = step(context, cache, tokens)                           # tokens [b * 4], logits [b * 4, v]

The decoder's rows are laid out `[prompt | written]`. Prompts are padded on the left, so that what follows stands in the
same place in every row; T5 knows only distances between positions, which don't change by that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from t5x_mini.model.attention import KeysValues, along_diagonals
from t5x_mini.model.masks import cross_mask, decoder_mask, encoder_mask
from t5x_mini.model.transformer import DecoderLayer, Transformer
from t5x_mini.parallel.sharding import constrain

BOS_ID = 0  # what T5's decoder reads first
# A CPU encodes more rows than this in turns: 64 rows of 512 tokens took 1.7 times as long at once, as what passes from
# layer to layer was out of its caches.
_CPU_ROWS = 8


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Fixed:
    """What one layer reads and never changes.

    Attributes:
        layer: its parameters.
        bias: its position bias at the distances -n ... n - 1, for rows of n places.
        cross: keys and values of the encoder's output; None without an encoder.
        prompt: keys and values of the prompt; None until it is read.
    """

    layer: DecoderLayer
    bias: Float[Array, "h distances"]
    cross: KeysValues | None
    prompt: KeysValues | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Context:
    """What all answers to a batch of inputs are written from.

    Attributes:
        model: parameters in the compute dtype.
        layers: a `Fixed` for each layer; where layers are scanned, one for all of them, stacked.
        prompt_mask: the prompt's real tokens, for each row of the cache.
        cross_mask: the encoder's, for each row of the cache; None without an encoder.
    """

    model: Transformer
    layers: list[Fixed] | Fixed
    prompt_mask: Bool[Array, "r p"]
    cross_mask: Bool[Array, "r 1 1 l"] | None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
    """What was written so far.

    Attributes:
        layers: keys and values `[r, h, length, d]` of each layer; where layers are scanned, `[layers, r, ...]`.
        written: tokens in it, as many in every row.
    """

    layers: list[KeysValues] | KeysValues
    written: Int[Array, ""]

    @property
    def length(self) -> int:
        """Tokens that it has room for."""
        return jax.tree.leaves(self.layers)[0].shape[-2]

    def take(self, rows: Int[Array, " r"]) -> Cache:
        """The cache of these rows, in this order."""
        axis = 0 if isinstance(self.layers, list) else 1
        return dataclasses.replace(
            self, layers=jax.tree.map(lambda a: jnp.take(a, rows, axis=axis, mode="clip"), self.layers)
        )


def start(
    model: Transformer,
    inputs: Int[Array, "b l"],
    *,
    length: int,
    answers: int = 1,
    forced: Int[Array, "b f"] | None = None,
) -> tuple[Context, Cache, Float[Array, "b v"]]:
    """Reads the inputs, and the decoder's prompt in one pass.

    Args:
        model: any of the three architectures.
        inputs: ids padded with 0 on the right. The encoder reads them; without one they are the prompt.
        length: tokens that `step` is given at most.
        answers: rows of the cache for each row of inputs.
        forced: how each answer begins, ids padded with 0 on the right: part of the prompt.

    Returns:
        The context, an empty cache of `b * answers` rows, and the logits of the first token to be written.
    """
    config, model = model.config, _in_compute_dtype(model)
    across = cross_mask(jnp.ones_like(inputs[:, :1]), inputs) if config.has_encoder else None
    prompt, real, visible = _prompt(inputs, forced, config.has_encoder)
    mask = decoder_mask(config.architecture, real.astype(jnp.int32), visible.astype(jnp.int32))
    count = prompt.shape[1]

    def read_prompt(fixed: Fixed, x: Array) -> tuple[Array, Fixed]:
        bias = along_diagonals(_bias(fixed, length, 2 * count), count, count)[None]
        x, own = fixed.layer(x, mask=mask, bias=bias, cross=fixed.cross, cross_mask=across, config=config)
        return x, dataclasses.replace(fixed, prompt=own)

    x, layers = _through(_fixed_layers(model, inputs, count + length), model.embed(prompt), read_prompt)
    real, across = jax.tree.map(lambda a: jnp.repeat(a, answers, axis=0), (real, across))
    cache = _empty_cache(layers, len(inputs) * answers, length)
    return Context(model, layers, real, across), cache, _logits(model, x[:, -1:])


def step(context: Context, cache: Cache, tokens: Int[Array, " r"]) -> tuple[Float[Array, "r v"], Cache]:
    """Reads the newest token of each row.

    Args:
        context: from `start`.
        cache: with all tokens before these.
        tokens: one a row.

    Returns:
        The logits of each row's next token, and the cache with these tokens in it.
    """
    model, place, length = context.model, cache.written, cache.length
    written = jnp.broadcast_to(jnp.arange(length) <= place, (len(tokens), length))
    mask = jnp.concatenate([context.prompt_mask, written], axis=1)[:, None, None]

    def read_token(layer: tuple[Fixed, KeysValues], x: Array) -> tuple[Array, KeysValues]:
        fixed, own = layer
        bias = _bias(fixed, length - place, mask.shape[-1])[None, :, None]
        earlier = dict(prompt=fixed.prompt, cache=own, place=place)
        across = dict(cross=fixed.cross, cross_mask=context.cross_mask)
        return fixed.layer(x, mask=mask, bias=bias, **earlier, **across, config=model.config)

    is_list = isinstance(context.layers, list)
    both = list(zip(context.layers, cache.layers, strict=True)) if is_list else (context.layers, cache.layers)
    x, layers = _through(both, model.embed(tokens[:, None]), read_token)
    return _logits(model, x), Cache(layers, place + 1)


def _in_compute_dtype(model: Transformer) -> Transformer:
    """Casts once what every token would cast again; position biases are added in float32."""

    def cast(path: tuple, array: Array) -> Array:
        is_bias = any(getattr(entry, "name", None) == "rel_embedding" for entry in path)
        return array if is_bias else array.astype(model.config.dtype)

    return jax.tree_util.tree_map_with_path(cast, model)


def _prompt(
    inputs: Int[Array, "b l"], forced: Int[Array, "b f"] | None, has_encoder: bool
) -> tuple[Int[Array, "b p"], Bool[Array, "b p"], Bool[Array, "b p"]]:
    """What the decoder starts from, padded on the left: tokens, which are real, and which a prefix LM sees whole."""
    bos = jnp.full_like(inputs[:, :1], BOS_ID)
    prefix = bos if has_encoder else jnp.concatenate([bos, inputs], axis=1)
    forced = inputs[:, :0] if forced is None else forced
    tokens = jnp.concatenate([prefix, forced], axis=1)
    real = (tokens > 0).at[:, 0].set(True)
    visible = real & (jnp.arange(tokens.shape[1]) < prefix.shape[1])
    to_the_right = jnp.argsort(real, axis=1, stable=True)
    return tuple(jnp.take_along_axis(array, to_the_right, axis=1) for array in (tokens, real, visible))


def _fixed_layers(model: Transformer, inputs: Int[Array, "b l"], places: int) -> list[Fixed] | Fixed:
    """What each layer reads but the prompt."""
    config, decoder = model.config, model.decoder
    layers: list[DecoderLayer] | DecoderLayer = decoder.layers
    if not config.scan_layers:
        # Taken apart here, once: slices of the stack would otherwise be copied for every token.
        layers = [jax.tree.map(lambda array, i=i: array[i], layers) for i in range(config.num_decoder_layers)]

    def fix(layer: DecoderLayer, cross: KeysValues | None) -> Fixed:
        relpos_bias = layer.relpos_bias if config.relpos_bias_per_layer else decoder.relpos_bias
        return Fixed(layer, relpos_bias.by_distance(places, places, bidirectional=False, config=config), cross)

    cross = _cross(model, layers, inputs) if config.has_encoder else None
    if config.scan_layers:
        return jax.vmap(fix)(layers, cross)
    return [fix(*both) for both in zip(layers, cross or [None] * len(layers), strict=True)]


def _cross(
    model: Transformer, layers: list[DecoderLayer] | DecoderLayer, inputs: Int[Array, "b l"]
) -> list[KeysValues] | KeysValues:
    """The encoder's output as each layer's cross-attention reads it, `[b, ...]` or `[layers, b, ...]`."""

    def read(inputs: Int[Array, "b l"]) -> list[KeysValues] | KeysValues:
        # Written out, the encoder is no faster, for it passes each layer once; and it takes as long again to compile.
        encoded = model.encode(inputs, encoder_mask(inputs), scan_layers=True)

        def keys_values(layer: DecoderLayer) -> KeysValues:
            return layer.encoder_decoder_attention.keys_values(encoded, model.config)

        return [keys_values(layer) for layer in layers] if isinstance(layers, list) else jax.vmap(keys_values)(layers)

    rows, length = inputs.shape
    if rows % _CPU_ROWS or rows == _CPU_ROWS or jax.default_backend() != "cpu" or _is_split():
        return read(inputs)
    in_turns = jax.lax.map(read, inputs.reshape(-1, _CPU_ROWS, length))
    axis = 0 if isinstance(layers, list) else 1

    def join(turns: Float[Array, "turns *stack b h k d"]) -> Float[Array, "*stack b h k d"]:
        moved = jnp.moveaxis(turns, 0, axis)
        return moved.reshape(*moved.shape[:axis], rows, *moved.shape[axis + 2 :])

    return jax.tree.map(join, in_turns)


def _is_split() -> bool:
    """Whether several devices share the work: each then has its own rows, and taking turns would undo that."""
    mesh = jax.sharding.get_abstract_mesh()
    return not mesh.empty and mesh.size > 1


def _through(layers: Any, x: Array, read: Callable[[Any, Array], tuple[Array, Any]]) -> tuple[Array, Any]:
    """`x` after all layers, and what each gave besides, in a list or stacked, as the layers are."""
    if not isinstance(layers, list):
        return jax.lax.scan(lambda x, layer: read(layer, x), x, layers)
    given = []
    for layer in layers:
        x, more = read(layer, x)
        given.append(more)
    return x, given


def _bias(fixed: Fixed, start: Int[Array, ""] | int, size: int) -> Float[Array, "h size"]:
    return jax.lax.dynamic_slice_in_dim(fixed.bias, start, size, axis=1)


def _empty_cache(layers: list[Fixed] | Fixed, rows: int, length: int) -> Cache:
    def empty(prompt: Float[Array, "*layers b h p d"]) -> Float[Array, "*layers r h length d"]:
        *stack, _, heads, _, width = prompt.shape
        zeros = jnp.zeros((*stack, rows, heads, length, width), prompt.dtype)
        return constrain(zeros, *(["layers"] if stack else []), "batch", "heads", "length", None)

    prompts = [fixed.prompt for fixed in layers] if isinstance(layers, list) else layers.prompt
    return Cache(jax.tree.map(empty, prompts), jnp.zeros((), jnp.int32))


def _logits(model: Transformer, x: Float[Array, "r 1 e"]) -> Float[Array, "r v"]:
    normed = model.decoder.decoder_norm(x, jnp.dtype(model.config.dtype))
    return model.logits(normed)[:, 0]
