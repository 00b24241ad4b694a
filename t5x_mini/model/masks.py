"""The attention-mask factory: the one place where the three architectures differ.

A mask says which keys (columns, what is read) each query (rows, what is written) may attend to. Every mask is built
from three ideas and two facts of the batch:

    fully visible               every query sees every key
    causal                      query i sees keys 0..i
    causal with visible prefix  causal, and the prefix sees itself in both directions
    padding                     a padding token is not seen and sees nothing
    segments                    in a packed row, an example sees only itself

| architecture      | encoder       | decoder                    | cross         |
|-------------------|---------------|----------------------------|---------------|
| `encoder_decoder` | fully visible | causal                     | fully visible |
| `prefix_lm`       | -             | causal with visible prefix | -             |
| `causal_lm`       | -             | causal                     | -             |

Padding is judged on tokens that are read as text: the encoder's inputs and the decoder's *targets*. The decoder's
inputs are of no use for it, because they start with BOS, which is 0 as padding is.

All masks are boolean, `[batch, 1, queries, keys]`; the 1 stands for the heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from t5x_mini.model.config import Architecture

Tokens = Int[Array, "batch length"]
Queries = Int[Array, "batch queries"]
Keys = Int[Array, "batch keys"]
Mask = Bool[Array, "batch 1 queries keys"]

_PADDING_QUERY, _PADDING_KEY = -2, -4  # codes of `Visible`: of different segments, so that neither sees the other


class Visible(NamedTuple):
    """A mask that is not written out: who sees whom follows from a number for each query and each key.

    A token's code is twice its segment, and one more where it is of the prefix; negative and even where it is padding.
    A query sees a key of its own segment, and if `causal`, none after it, but for a prefix, which sees itself.
    """

    queries: Queries
    keys: Keys
    causal: bool = False
    prefix: bool = False


class Masks(NamedTuple):
    """The masks of one batch; `encoder` and `cross` are None without an encoder."""

    encoder: Mask | Visible | None
    decoder: Mask | Visible
    cross: Mask | Visible | None


def make_masks(architecture: Architecture, batch: Mapping[str, Array]) -> Masks:
    """All masks that `architecture` needs for a batch with SeqIO's feature names."""
    targets, target_segments = batch["decoder_target_tokens"], batch.get("decoder_segment_ids")
    decoder = decoder_mask(architecture, targets, batch.get("decoder_causal_attention"), target_segments)
    if architecture != "encoder_decoder":
        return Masks(None, decoder, None)
    inputs, input_segments = batch["encoder_input_tokens"], batch.get("encoder_segment_ids")
    return Masks(
        encoder_mask(inputs, input_segments), decoder, cross_mask(targets, inputs, target_segments, input_segments)
    )


def make_visible(architecture: Architecture, batch: Mapping[str, Array]) -> Masks:
    """What `make_masks` gives, not written out: no number for each pair."""
    targets, target_segments = batch["decoder_target_tokens"], batch.get("decoder_segment_ids")
    prefix = batch.get("decoder_causal_attention") if architecture == "prefix_lm" else None
    decoder = _visible(targets, targets, target_segments, target_segments, causal=True, prefix=prefix)
    if architecture != "encoder_decoder":
        return Masks(None, decoder, None)
    inputs, input_segments = batch["encoder_input_tokens"], batch.get("encoder_segment_ids")
    encoder = _visible(inputs, inputs, input_segments, input_segments)
    return Masks(encoder, decoder, _visible(targets, inputs, target_segments, input_segments))


def encoder_mask(tokens: Tokens, segment_ids: Tokens | None = None) -> Mask:
    """Fully visible: inputs see each other in both directions.

    The row `[7, 8, 9, 0]` (one padding token), and two packed examples `[7, 8, 9, 6]` of segments `[1, 1, 2, 2]`:

        1 1 1 0     1 1 0 0
        1 1 1 0     1 1 0 0
        1 1 1 0     0 0 1 1
        0 0 0 0     0 0 1 1
    """
    return _real_pairs(tokens, tokens) & _same_segment(segment_ids, segment_ids)


def decoder_mask(
    architecture: Architecture,
    target_tokens: Tokens,
    causal_attention: Tokens | None = None,
    segment_ids: Tokens | None = None,
) -> Mask:
    """Causal, or for a prefix LM causal with a visible prefix.

    Args:
        architecture: only `prefix_lm` reads `causal_attention`.
        target_tokens: the decoder's targets; 0 is padding.
        causal_attention: SeqIO's `decoder_causal_attention`: 1 on the prefix. The prefix is one longer than the
            inputs, because the position that reads the last input token predicts the first target.
        segment_ids: of packed rows.

    Four tokens; causal, and with a prefix of two (`causal_attention = [1, 1, 0, 0]`):

        1 0 0 0     1 1 0 0
        1 1 0 0     1 1 0 0
        1 1 1 0     1 1 1 0
        1 1 1 1     1 1 1 1

    Causal with one padding token, and packed with segments `[1, 1, 2, 2]`:

        1 0 0 0     1 0 0 0
        1 1 0 0     1 1 0 0
        1 1 1 0     0 0 1 0
        0 0 0 0     0 0 1 1
    """
    visible = _causal(target_tokens.shape[-1])
    if architecture == "prefix_lm" and causal_attention is not None:
        visible = visible | _real_pairs(causal_attention, causal_attention)
    return visible & _real_pairs(target_tokens, target_tokens) & _same_segment(segment_ids, segment_ids)


def cross_mask(
    target_tokens: Queries,
    encoder_tokens: Keys,
    target_segment_ids: Queries | None = None,
    encoder_segment_ids: Keys | None = None,
) -> Mask:
    """Fully visible: each target sees all inputs of its own example.

    Targets `[5, 6, 1, 0]` over inputs `[7, 8, 9, 0]`:

        1 1 1 0
        1 1 1 0
        1 1 1 0
        0 0 0 0
    """
    return _real_pairs(target_tokens, encoder_tokens) & _same_segment(target_segment_ids, encoder_segment_ids)


def _visible(
    query_tokens: Queries,
    key_tokens: Keys,
    query_segments: Queries | None,
    key_segments: Keys | None,
    causal: bool = False,
    prefix: Tokens | None = None,
) -> Visible:
    if query_segments is None or key_segments is None:  # as in `_same_segment`
        query_segments = key_segments = None
    queries = _codes(query_tokens, query_segments, prefix, _PADDING_QUERY)
    return Visible(queries, _codes(key_tokens, key_segments, prefix, _PADDING_KEY), causal, prefix is not None)


def _codes(tokens: Tokens, segments: Tokens | None, prefix: Tokens | None, padding: int) -> Int[Array, "batch length"]:
    codes = jnp.full_like(tokens, 2) if segments is None else 2 * segments
    if prefix is not None:
        codes = codes + (prefix > 0)
    return jnp.where(tokens > 0, codes, padding).astype(jnp.int32)


def _causal(length: int) -> Bool[Array, "1 1 length length"]:
    positions = jnp.arange(length)
    return (positions[:, None] >= positions[None, :])[None, None]


def _real_pairs(queries: Queries, keys: Keys) -> Mask:
    return (queries > 0)[:, None, :, None] & (keys > 0)[:, None, None, :]


def _same_segment(queries: Queries | None, keys: Keys | None) -> Mask | bool:
    if queries is None or keys is None:
        return True
    return queries[:, None, :, None] == keys[:, None, None, :]
