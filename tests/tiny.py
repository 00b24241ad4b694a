"""Models small enough to compile in a second, and batches for them, made by hand."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from t5x_mini.model import transformer
from t5x_mini.model.config import TransformerConfig

VOCAB = 40
# Compiling is what these tests spend their time on: the numbers may be slow to come, once there is a program.
QUICK = {"xla_backend_optimization_level": 0}


def model(architecture="encoder_decoder", **changes) -> TransformerConfig:
    """Two layers a stack, 16 wide, float32."""
    sizes = dict(vocab_size=VOCAB, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=24)
    layers = dict(num_encoder_layers=2, num_decoder_layers=2)
    return TransformerConfig(architecture=architecture, **(sizes | layers | {"dtype": "float32"} | changes))


@functools.cache
def _params(config, seed):
    return jax.jit(lambda key: transformer.init_params(config, key), compiler_options=QUICK)(jax.random.key(seed))


def params(config, seed=0):
    """Fresh parameters, compiled and made once."""
    return dict(_params(config, seed))


def batch(architecture, examples, *, inputs=6, targets=6, pack=False):
    """What SeqIO's feature converters make of `examples`, pairs of input tokens and target tokens without EOS.

    Args:
        architecture: decoder-only architectures get inputs ++ targets in one row of `inputs + targets` tokens.
        examples: one a row, or all in one row with `pack`.
        inputs: length of the inputs.
        targets: length of the targets.
        pack: put all examples in the first row.
    """
    examples = [([*i, 1], [*t, 1]) for i, t in examples]
    rows = [examples] if pack else [[example] for example in examples]
    made = [_encoder_decoder(row, inputs, targets) for row in rows]
    if architecture != "encoder_decoder":
        made = [_decoder_only(row, inputs + targets) for row in rows]
    names = [name for name in made[0] if pack or not name.endswith("segment_ids")]
    return {name: jnp.asarray([row[name] for row in made], jnp.int32) for name in names}


def examples(seed, count, longest=5):
    """Pairs of random inputs and targets of 2 to `longest` tokens."""
    rng = np.random.default_rng(seed)
    return [
        tuple(rng.integers(2, VOCAB, rng.integers(2, longest + 1)).tolist() for _ in range(2)) for _ in range(count)
    ]


def _encoder_decoder(row, inputs, targets):
    numbers = range(1, len(row) + 1)
    return {
        "encoder_input_tokens": _padded([token for i, _ in row for token in i], inputs),
        "encoder_segment_ids": _padded([n for n, (i, _) in zip(numbers, row, strict=True) for _ in i], inputs),
        "decoder_target_tokens": _padded([token for _, t in row for token in t], targets),
        "decoder_input_tokens": _padded([token for _, t in row for token in [0, *t[:-1]]], targets),
        "decoder_loss_weights": _padded([1 for _, t in row for _ in t], targets),
        "decoder_segment_ids": _padded([n for n, (_, t) in zip(numbers, row, strict=True) for _ in t], targets),
    }


def _decoder_only(row, length):
    joined = [(n, i, [*i, *t]) for n, (i, t) in enumerate(row, start=1)]
    return {
        "decoder_target_tokens": _padded([token for _, _, both in joined for token in both], length),
        "decoder_input_tokens": _padded([token for _, _, both in joined for token in [0, *both[:-1]]], length),
        "decoder_loss_weights": _padded([int(k >= len(i)) for _, i, both in joined for k in range(len(both))], length),
        "decoder_causal_attention": _padded(
            [int(k <= len(i)) for _, i, both in joined for k in range(len(both))], length
        ),
        "decoder_segment_ids": _padded([n for n, _, both in joined for _ in both], length),
    }


def _padded(values, length):
    assert len(values) <= length, "an example is longer than its row"
    return [*values, *[0] * (length - len(values))]
