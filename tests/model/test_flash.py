"""Flash attention against the plain path: values and every gradient. On a CPU the kernels are emulated."""

import dataclasses
import functools

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from goldens import error

from t5x_mini.model import transformer
from t5x_mini.model.attention import KeysValues, RelativePositionBias, dot_product_attention
from t5x_mini.model.flash import flash_attention
from t5x_mini.model.masks import make_masks, make_visible
from t5x_mini.parallel.config import PartitioningConfig
from t5x_mini.parallel.mesh import make_mesh
from t5x_mini.train.loss import cross_entropy

ROWS, HEADS = 2, 4


def jit(function):
    return jax.jit(function, compiler_options=tiny.QUICK)


def batch(targets, inputs):
    """Two packed examples in each row, each with a prefix, and padding at the end of it."""

    def features(length, seed):
        tokens = np.random.default_rng(seed).integers(1, 30, (ROWS, length))
        tokens[0, -length // 5 :] = 0
        first = np.arange(length) < length // 3
        prefix = np.where(first, np.arange(length), np.arange(length) - length // 3) < length // 4
        return tokens, np.tile(np.where(first, 1, 2), (ROWS, 1)), np.tile(prefix.astype(int), (ROWS, 1))

    names = ("target_tokens", "segment_ids", "causal_attention"), ("input_tokens", "segment_ids", "unused")
    made = {f"decoder_{name}": values for name, values in zip(names[0], features(targets, 0), strict=True)}
    made |= {f"encoder_{name}": values for name, values in zip(names[1], features(inputs, 1), strict=True)}
    return {name: jnp.asarray(values, jnp.int32) for name, values in made.items()}


# What attends to what, in which architecture; lengths of targets and inputs; heads' width.
CASES = {
    "causal": ("causal_lm", "decoder", 300, 4, 64),
    "prefix": ("prefix_lm", "decoder", 300, 4, 64),
    "both_ways": ("encoder_decoder", "encoder", 4, 600, 64),
    "one_block": ("encoder_decoder", "encoder", 4, 60, 24),
    "cross": ("encoder_decoder", "cross", 130, 300, 64),
}


SLOW = ("prefix", "one_block")


@pytest.mark.parametrize("case", [pytest.param(case, marks=[pytest.mark.slow] * (case in SLOW)) for case in CASES])
def test_values_and_every_gradient_are_the_plain_ones(case):
    architecture, which, targets, inputs, width = CASES[case]
    features = batch(targets, inputs)
    mask = getattr(make_masks(architecture, features), which)
    visible = getattr(make_visible(architecture, features), which)
    queries, keys = mask.shape[2:]
    config = tiny.model(num_heads=HEADS, head_dim=width)
    shapes = [(ROWS, queries, HEADS, width), *[(ROWS, keys, HEADS, width)] * 2, (ROWS, queries, HEADS, width)]
    drawn = [jax.random.normal(jax.random.key(seed), shape) for seed, shape in enumerate(shapes)]
    *arrays, weights = drawn[0] / np.sqrt(width), *drawn[1:]
    bias = RelativePositionBias(jax.random.key(4), config)
    sees = jnp.any(mask, axis=-1)[:, 0, :, None, None]

    def of(attend, kind):
        def weighted(query, keys, values, bias):
            at = None
            if which != "cross":
                at = bias.for_mask(kind, queries, bidirectional=which == "encoder", config=config)
            mixed = jnp.where(sees, attend(query, keys, values, kind, at), 0.0)
            return jnp.sum(mixed * weights), mixed

        given = range(3 if which == "cross" else 4)
        (_, mixed), grads = jit(jax.value_and_grad(weighted, given, has_aux=True))(*arrays, bias)
        return mixed, jax.tree.leaves(grads)

    def plain(query, keys, values, mask, bias):
        parts = [KeysValues(keys.swapaxes(1, 2), values.swapaxes(1, 2))]
        return dot_product_attention(query, parts, mask=mask, bias=bias)

    (mixed, grads), (expected, expected_grads) = of(flash_attention, visible), of(plain, mask)
    assert error(mixed, expected) < 1e-5
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        assert np.abs(grad).max() > 0 and error(grad, expected_grad) < 1e-5
    assert len(grads) == (3 if which == "cross" else 4)  # the bucket table's is the last


def test_bfloat16_rounds_no_more_than_the_plain_path():
    config, features = tiny.model(), tiny.batch("encoder_decoder", tiny.examples(0, 8))
    real = features["decoder_target_tokens"][..., None] > 0

    def logits(**changes):
        changed = dataclasses.replace(config, **changes)
        return jnp.where(real, jit(transformer.bind(changed, tiny.params(config)))(features), 0)

    exact, plain, flash = logits(), logits(dtype="bfloat16"), logits(dtype="bfloat16", attention="flash")
    assert 1e-4 < error(flash, exact) < 1.2 * error(plain, exact)


@pytest.mark.parametrize(
    "name",
    [
        "encdec_t5_1_1_packed",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("causal_lm", "prefix_lm_packed")),
    ],
)
def test_logits_and_gradients_are_t5xs(name):
    golden = goldens.load(name)
    config = dataclasses.replace(golden.model, attention="flash")
    smoothing, z_loss = golden.loss_config.label_smoothing, golden.loss_config.z_loss
    real = golden.batch["decoder_loss_weights"][..., None] > 0

    def loss(params, batch):
        logits = transformer.bind(config, params)(batch)
        tokens = cross_entropy(logits, batch["decoder_target_tokens"], label_smoothing=smoothing, z_loss=z_loss)
        return jnp.sum(batch["decoder_loss_weights"] * tokens.total), logits

    (summed, logits), grads = jit(jax.value_and_grad(loss, has_aux=True))(golden.params, golden.batch)
    assert error(jnp.where(real, logits, 0), jnp.where(real, golden.logits, 0)) < 1e-5
    assert error(summed, golden.loss) < 1e-5
    for parameter, grad in grads.items():
        assert error(grad, golden.grads[parameter]) < 1e-4, parameter


EXAMPLES = tiny.examples(0, 8)


def gradients(config, mesh=None):
    features = tiny.batch(config.architecture, EXAMPLES)
    params, real = tiny.params(dataclasses.replace(config, attention="plain")), features["decoder_target_tokens"] > 0

    def objective(params, batch, key):
        logits = transformer.bind(config, params)(batch, key)
        return jnp.sum(jnp.sin(logits) * real[..., None])

    with jax.set_mesh(mesh) if mesh else jax.set_mesh(make_mesh(PartitioningConfig(), jax.devices()[:1])):
        return jit(jax.grad(objective))(params, features, jax.random.key(3))


@functools.cache
def plain_gradients(**changes):
    return gradients(tiny.model("prefix_lm", dropout_rate=0.2, **changes))


OTHERS = [{}, {"scan_layers": False, "relpos_bias_per_layer": True}]


@pytest.mark.parametrize(
    "changes", [{"remat": "minimal"}, *(pytest.param(one, marks=pytest.mark.slow) for one in OTHERS)], ids=str
)
def test_dropout_scan_and_remat_are_those_of_the_plain_path(changes):
    config = tiny.model("prefix_lm", dropout_rate=0.2, attention="flash", **changes)
    expected = plain_gradients(**{"relpos_bias_per_layer": config.relpos_bias_per_layer})
    for name, grad in gradients(config).items():
        assert error(grad, expected[name]) < 1e-5, name


@pytest.mark.parametrize("sizes", [(2, 2, 2), pytest.param((1, 8, 1), marks=pytest.mark.slow)], ids=str)
def test_a_mesh_changes_no_gradient(sizes):
    """Rows and heads are split over devices: the gradient to the bucket table is a sum over all of them."""
    mesh = make_mesh(PartitioningConfig(data=sizes[0], fsdp=sizes[1], model=sizes[2]))
    config = tiny.model("prefix_lm", dropout_rate=0.2, attention="flash")
    for name, grad in gradients(config, mesh).items():
        assert error(grad, plain_gradients(relpos_bias_per_layer=False)[name]) < 1e-5, name
