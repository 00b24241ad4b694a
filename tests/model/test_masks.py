"""Masks: the docstrings' examples as they stand there, and every pair of positions against the definition."""

import inspect
import re

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from t5x_mini.model.config import ARCHITECTURES
from t5x_mini.model.masks import cross_mask, decoder_mask, encoder_mask, make_masks, make_visible

INPUTS, TARGETS = 5, 6


def row(*tokens):
    return jnp.asarray([tokens], jnp.int32)


def drawn(function):
    """The matrices of a docstring, in reading order."""
    blocks = re.findall(r"(?:^ *[01][01 ]*\n?){4}", inspect.getdoc(function), flags=re.M)
    lines = [[re.split(r" {3,}", line.strip()) for line in block.strip("\n").split("\n")] for block in blocks]
    return [[side.split() for side in matrix] for block in lines for matrix in zip(*block, strict=True)]


EXAMPLES = {
    encoder_mask: [encoder_mask(row(7, 8, 9, 0)), encoder_mask(row(7, 8, 9, 6), row(1, 1, 2, 2))],
    decoder_mask: [
        decoder_mask("causal_lm", row(5, 6, 7, 1)),
        decoder_mask("prefix_lm", row(5, 6, 7, 1), row(1, 1, 0, 0)),
        decoder_mask("encoder_decoder", row(5, 6, 1, 0)),
        decoder_mask("causal_lm", row(5, 1, 7, 1), segment_ids=row(1, 1, 2, 2)),
    ],
    cross_mask: [cross_mask(row(5, 6, 1, 0), row(7, 8, 9, 0))],
}


@pytest.mark.parametrize("function", EXAMPLES, ids=lambda function: function.__name__)
def test_the_docstring_draws_what_the_function_makes(function):
    made = [np.asarray(mask[0, 0]).astype(int).astype(str).tolist() for mask in EXAMPLES[function]]
    assert drawn(function) == made


def test_prefix_lm_sees_the_inputs_and_the_position_that_reads_the_last_of_them():
    """T5X's example: inputs [9, 4, 6, 1], targets [3, 9, 1]."""
    batch = {
        "decoder_target_tokens": row(9, 4, 6, 1, 3, 9, 1, 0, 0),
        "decoder_input_tokens": row(0, 9, 4, 6, 1, 3, 9, 1, 0),
        "decoder_causal_attention": row(1, 1, 1, 1, 1, 0, 0, 0, 0),
    }
    expected = np.tri(9, dtype=bool)
    expected[:5, :5] = True
    expected[7:] = expected[:, 7:] = False
    masks = make_masks("prefix_lm", batch)
    np.testing.assert_array_equal(masks.decoder[0, 0], expected)
    assert masks.encoder is None and masks.cross is None


def tokens(length, largest):
    return arrays.arrays(np.int32, (2, length), elements=st.integers(0, largest))


@st.composite
def batches(draw):
    """Any padding, prefix and segments, whether or not a feed would make them."""
    batch = {"encoder_input_tokens": draw(tokens(INPUTS, 3)), "decoder_target_tokens": draw(tokens(TARGETS, 3))}
    if draw(st.booleans()):
        batch["decoder_causal_attention"] = draw(tokens(TARGETS, 1))
    if draw(st.booleans()):
        batch["encoder_segment_ids"] = draw(tokens(INPUTS, 2))
        batch["decoder_segment_ids"] = draw(tokens(TARGETS, 2))
    return batch


def each_pair(batch, queries, keys, visible):
    """A mask written out: `visible(b, q, k)`, where both are text and of one segment."""

    def side(name, kind):
        feature = {"tokens": "input_tokens" if name == "encoder" else "target_tokens", "segments": "segment_ids"}[kind]
        return batch.get(f"{name}_{feature}")

    query_tokens, key_tokens = side(queries, "tokens"), side(keys, "tokens")
    query_segments, key_segments = side(queries, "segments"), side(keys, "segments")
    mask = np.zeros((query_tokens.shape[0], 1, query_tokens.shape[1], key_tokens.shape[1]), bool)
    for b, _, q, k in np.ndindex(mask.shape):
        text = query_tokens[b, q] != 0 and key_tokens[b, k] != 0
        together = query_segments is None or query_segments[b, q] == key_segments[b, k]
        mask[b, 0, q, k] = visible(b, q, k) and text and together
    return mask


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@settings(max_examples=60, deadline=None)
@given(batch=batches())
def test_every_pair_is_as_defined(architecture, batch):
    prefix = batch.get("decoder_causal_attention")

    def in_prefix(b, q, k):
        return architecture == "prefix_lm" and prefix is not None and prefix[b, q] == 1 and prefix[b, k] == 1

    masks = make_masks(architecture, {name: jnp.asarray(feature) for name, feature in batch.items()})
    expected = each_pair(batch, "decoder", "decoder", lambda b, q, k: k <= q or in_prefix(b, q, k))
    np.testing.assert_array_equal(masks.decoder, expected)
    if architecture != "encoder_decoder":
        assert masks.encoder is None and masks.cross is None
        return
    np.testing.assert_array_equal(masks.encoder, each_pair(batch, "encoder", "encoder", lambda b, q, k: True))
    np.testing.assert_array_equal(masks.cross, each_pair(batch, "decoder", "encoder", lambda b, q, k: True))


def written_out(visible):
    """The mask that `Visible` stands for, by its docstring."""
    if visible is None:
        return None
    queries, keys = visible.queries[:, None, :, None], visible.keys[:, None, None, :]
    mask = queries // 2 == keys // 2
    if visible.causal:
        before = np.tri(queries.shape[2], keys.shape[3], dtype=bool)
        mask &= (before | ((queries % 2 == 1) & (keys % 2 == 1))) if visible.prefix else before
    return mask


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@settings(max_examples=60, deadline=None)
@given(batch=batches())
def test_what_is_visible_is_what_the_masks_say(architecture, batch):
    batch = {name: jnp.asarray(feature) for name, feature in batch.items()}
    for mask, visible in zip(make_masks(architecture, batch), make_visible(architecture, batch), strict=True):
        np.testing.assert_array_equal(mask, written_out(visible))


def test_a_wrong_shape_is_refused_while_the_tests_run():
    """The annotations are checked here: without that, this would give a mask of one row for two."""
    with pytest.raises(TypeError, match="encoder_tokens"):
        cross_mask(jnp.ones((2, TARGETS), jnp.int32), jnp.ones((1, INPUTS), jnp.int32))
