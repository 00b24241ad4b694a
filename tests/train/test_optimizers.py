"""Optimisers against references in numpy float64, against optax, and a stacked parameter against its layers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from t5x_mini.errors import UserError
from t5x_mini.train import optimizers
from t5x_mini.train.optimizers import Adafactor, AdamW, Muon

STEPS = 5
SHAPES = {
    "token_embedder/embedding": (160, 128),
    "encoder/layers/attention/query/kernel": (3, 128, 130),
    "encoder/layers/mlp/wo/kernel": (2, 40, 24),
    "encoder/layers/pre_mlp_layer_norm/scale": (3, 16),
    "encoder/relpos_bias/rel_embedding": (4, 32),
    "encoder/encoder_norm/scale": (16,),
    "decoder/logits_dense/kernel": (128, 128),
}
STACKED = [name for name in SHAPES if "/layers/" in name]
OPTIMIZERS = {
    "adafactor": Adafactor(weight_decay=0.1),
    "adafactor_bare": Adafactor(clipping_threshold=None, multiply_by_parameter_scale=False),
    "adamw": AdamW(weight_decay=0.1),
    "adamw_rms": AdamW(weight_decay=0.1, scale_by_parameter_rms=True),
    "muon": Muon(weight_decay=0.1),
}


def random_tree(seed, scale=1.0):
    """One array a parameter, whose layers and rows differ in size."""
    rng = np.random.default_rng(seed)
    return {
        name: (scale * rng.standard_normal(shape) * np.exp(rng.standard_normal((*shape[:-1], 1)))).astype(np.float32)
        for name, shape in SHAPES.items()
    }


PARAMS = random_tree(0, scale=0.5)
GRADS = [random_tree(seed, scale=1e-2 * seed) for seed in range(1, STEPS + 1)]
RATES = [0.01 / (1 + step) for step in range(STEPS)]


def train(optimizer, params=PARAMS, grads=GRADS):
    """Parameters and state after one jitted update for each of `grads`."""
    params = jax.tree.map(jnp.asarray, params)
    state = optimizers.init(optimizer, params)
    step = jax.jit(lambda *args: optimizers.update(optimizer, *args))
    for rate, grad in zip(RATES, grads, strict=False):
        params, state = step(grad, state, params, rate)
    return params, state


def layers_of(name, array):
    return list(array) if name in STACKED else [array]


def assert_trains_like(optimizer, reference):
    """Compares with `reference(name, param, grads)`, which gives a float64 parameter for one layer."""
    trained, _ = train(optimizer)
    for name, param in PARAMS.items():
        grads = zip(*(layers_of(name, grad[name]) for grad in GRADS), strict=True)
        expected = [reference(name, *layer) for layer in zip(layers_of(name, param), grads, strict=True)]
        for layer, layer_expected in zip(layers_of(name, trained[name]), expected, strict=True):
            assert np.abs(layer - layer_expected).max() / np.abs(layer_expected).max() < 1e-6, name


def decay_of(name, rate):
    return 0.0 if name.endswith(("scale", "rel_embedding")) else rate


def rms(x):
    return np.sqrt(np.mean(np.square(x)))


def adafactor_reference(name, param, grads, weight_decay):
    """Shazeer & Stern 2018, algorithm 4 (matrices; rows and columns as means) or 5 (vectors), with d = 1."""
    param, factored = param.astype(np.float64), param.ndim == 2 and min(param.shape) >= 128
    row, column, whole = 0.0, 0.0, 0.0
    for t, (rate, grad) in enumerate(zip(RATES, grads, strict=True), start=1):
        grad = grad.astype(np.float64)
        keep, square = 1 - t**-0.8, np.square(grad) + 1e-30
        row = keep * row + (1 - keep) * square.mean(axis=-1)
        column = keep * column + (1 - keep) * square.mean(axis=0)
        whole = keep * whole + (1 - keep) * square
        direction = grad / np.sqrt(np.outer(row, column) / row.mean() if factored else whole)
        direction = direction / max(1.0, rms(direction)) * max(1e-3, rms(param))
        param = param - rate * (direction + decay_of(name, weight_decay) * param)
    return param


def adamw_rms_reference(name, param, grads, weight_decay):
    """nanoT5's AdamWScale: AdamW whose steps, but not its decay, are multiplied by max(1e-3, RMS(param))."""
    param, mean, square = param.astype(np.float64), 0.0, 0.0
    for t, (rate, grad) in enumerate(zip(RATES, grads, strict=True), start=1):
        grad = grad.astype(np.float64)
        mean, square = 0.9 * mean + 0.1 * grad, 0.999 * square + 0.001 * grad**2
        direction = mean / (1 - 0.9**t) / (np.sqrt(square / (1 - 0.999**t)) + 1e-8) * max(1e-3, rms(param))
        param = param - rate * (direction + decay_of(name, weight_decay) * param)
    return param


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adafactor_is_the_papers(weight_decay):
    optimizer = Adafactor(weight_decay=weight_decay)
    assert_trains_like(optimizer, lambda *layer: adafactor_reference(*layer, weight_decay))


def test_adamw_rms_is_nanot5s():
    optimizer = AdamW(weight_decay=0.1, scale_by_parameter_rms=True)
    assert_trains_like(optimizer, lambda *layer: adamw_rms_reference(*layer, 0.1))


def test_adafactor_factors_large_matrices_only():
    state = jax.eval_shape(lambda: optimizers.init(Adafactor(), PARAMS))
    factored = {name for name, chain in state.items() if chain[0].v.size < PARAMS[name].size}
    assert factored == {
        "token_embedder/embedding",
        "encoder/layers/attention/query/kernel",
        "decoder/logits_dense/kernel",
    }


@pytest.mark.parametrize(
    "ours, theirs",
    [
        (Adafactor(), lambda rate: optax.adafactor(rate)),
        (AdamW(), lambda rate: optax.adamw(rate, weight_decay=0.0)),
        (
            AdamW(b1=0.8, b2=0.95, eps=1e-6, weight_decay=0.1),
            lambda rate: optax.adamw(
                rate, b1=0.8, b2=0.95, eps=1e-6, weight_decay=0.1, mask={"kernel": True, "scale": False}
            ),
        ),
    ],
    ids=["adafactor", "adam", "adamw"],
)
def test_unstacked_parameters_train_as_with_optax(ours, theirs):
    short = {"decoder/logits_dense/kernel": "kernel", "encoder/encoder_norm/scale": "scale"}
    grads = [{name: grad[name] for name in short} for grad in GRADS]
    trained, _ = train(ours, {name: PARAMS[name] for name in short}, grads)

    params = {key: jnp.asarray(PARAMS[name]) for name, key in short.items()}
    state = theirs(RATES[0]).init(params)
    for rate, grad in zip(RATES, grads, strict=True):
        updates, state = theirs(rate).update({key: grad[name] for name, key in short.items()}, state, params)
        params = optax.apply_updates(params, updates)
    for name, key in short.items():
        np.testing.assert_allclose(trained[name], params[key], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("name", STACKED)
def test_stacked_layers_train_as_if_alone(optimizer, name):
    trained, _ = train(optimizer, {name: PARAMS[name]}, [{name: grad[name]} for grad in GRADS])
    transform = optimizer.transform(name)
    for layer, expected in enumerate(trained[name]):
        param = jnp.asarray(PARAMS[name][layer])
        state = transform.init(param)
        for rate, grad in zip(RATES, GRADS, strict=True):
            direction, state = jax.jit(transform.update)(grad[name][layer], state, param)
            param = param - rate * direction
        np.testing.assert_allclose(param, expected, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_decay_is_the_learning_rates_and_spares_scales_and_position_biases(optimizer):
    zeros = [jax.tree.map(jnp.zeros_like, PARAMS)]
    trained, _ = train(optimizer, grads=zeros)
    for name, param in PARAMS.items():
        rate = RATES[0] * decay_of(name, decay_rate(optimizer, name))
        np.testing.assert_allclose(trained[name], param * (1 - rate), rtol=1e-6)


def decay_rate(optimizer, name):
    if isinstance(optimizer, Muon) and not (name in STACKED and name.endswith("kernel")):
        return optimizer.adamw.weight_decay
    return optimizer.weight_decay


@pytest.mark.parametrize("shape", [(2, 96, 40), (2, 40, 96), (2, 64, 64)])
def test_muon_evens_out_singular_values_and_keeps_singular_vectors(shape):
    name, rng, rank = "encoder/layers/mlp/wo/kernel", np.random.default_rng(0), min(shape[1:])
    left = np.linalg.qr(rng.standard_normal((2, shape[1], rank)))[0]
    right = np.linalg.qr(rng.standard_normal((2, shape[2], rank)))[0].swapaxes(1, 2)
    grad = left * np.geomspace(0.1, 1.0, rank) @ right * [[[1.0]], [[1e-3]]]
    trained, _ = train(Muon(), {name: np.zeros(shape, np.float32)}, [{name: grad.astype(np.float32)}])
    direction = -np.asarray(trained[name]) / RATES[0]

    values = left.swapaxes(1, 2) @ direction @ right.swapaxes(1, 2) / (0.2 * np.sqrt(max(shape)))
    diagonal = np.diagonal(values, axis1=1, axis2=2)
    # The tuned polynomial leaves singular values in a band about 1, not at 1 (Jordan 2024).
    assert diagonal.min() > 0.6 and diagonal.max() < 1.25
    assert np.abs(values - np.eye(rank) * values).max() < 1e-3
    for layer in direction:
        assert rms(layer) == pytest.approx(0.2, rel=0.2)


def test_muon_leaves_all_but_layers_kernels_to_adamw():
    adamw = AdamW(b2=0.95, weight_decay=0.2)
    trained, _ = train(Muon(adamw=adamw), grads=GRADS[:1])
    expected, _ = train(adamw, grads=GRADS[:1])
    kernels = {name for name in STACKED if name.endswith("kernel")}
    same = {name for name in SHAPES if np.array_equal(trained[name], expected[name])}
    assert same == SHAPES.keys() - kernels


AXES = {
    "token_embedder/embedding": ("vocab", "embed"),
    "encoder/layers/attention/query/kernel": ("layers", "embed", "heads"),
    "encoder/layers/mlp/wo/kernel": ("layers", "mlp", "embed"),
    "encoder/layers/pre_mlp_layer_norm/scale": ("layers", "embed"),
    "encoder/relpos_bias/rel_embedding": ("heads", None),
    "encoder/encoder_norm/scale": ("embed",),
    "decoder/logits_dense/kernel": ("embed", "vocab"),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_state_axes_have_the_sizes_of_the_parameters_axes(optimizer):
    state = jax.eval_shape(lambda: optimizers.init(optimizer, PARAMS))
    for name, param_axes in AXES.items():
        sizes = dict(zip(param_axes, SHAPES[name], strict=True))
        axes = optimizers.state_axes(name, SHAPES[name], param_axes, state[name])

        def check(leaf, leaf_axes, sizes=sizes):
            assert isinstance(leaf_axes, tuple) and len(leaf_axes) == leaf.ndim
            assert all(axis is None or sizes[axis] == size for axis, size in zip(leaf_axes, leaf.shape, strict=True))
            return any(leaf_axes)

        split = jax.tree.map(check, state[name], axes)
        assert any(jax.tree.leaves(split)), name


@pytest.mark.parametrize("shape", [(128, 128), (160, 128), (128, 160), (2, 128, 128), (2, 160, 128), (2, 128, 160)])
def test_state_axes_of_factored_moments_name_the_axis_that_is_left(shape):
    stack, name = ("layers",)[: len(shape) - 2], "layers/kernel" if len(shape) == 3 else "kernel"
    # The squared gradient of the matrix varies along `embed` alone, so that only a mean over the other axis shows it.
    grad = np.broadcast_to(np.arange(1.0, shape[-2] + 1, dtype=np.float32)[:, None], shape)
    _, state = train(Adafactor(), {name: np.ones(shape, np.float32)}, [{name: grad}])
    moments = state[name][0]
    axes = optimizers.state_axes(name, shape, (*stack, "embed", "mlp"), state[name])[0]
    for moment, moment_axes in ((moments.v_row, axes.v_row), (moments.v_col, axes.v_col)):
        varies = bool(np.ptp(np.asarray(moment), axis=-1).max() > 1)
        assert moment_axes == (*stack, "embed" if varies else "mlp")
    assert axes.count == (None,) * len(stack) and axes.v == (None,) * (len(stack) + 1)


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_updates_keep_shapes_dtypes_and_structure(optimizer):
    state = jax.eval_shape(lambda: optimizers.init(optimizer, PARAMS))
    params = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, PARAMS))
    rate = jax.ShapeDtypeStruct((), jnp.float32)
    after = jax.eval_shape(lambda *args: optimizers.update(optimizer, *args), params, state, params, rate)
    assert after == (params, state)


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_state_of_a_stacked_parameter_has_layers_first(optimizer):
    state = jax.eval_shape(lambda: optimizers.init(optimizer, PARAMS))
    for name in STACKED:
        assert {leaf.shape[0] for leaf in jax.tree.leaves(state[name])} == {SHAPES[name][0]}


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Adafactor(decay_rate=0.0), "Adafactor.decay_rate is 0.0: write a number above 0"),
        (lambda: Adafactor(clipping_threshold=0.0), "Adafactor.clipping_threshold is 0.0: .* above 0, or None"),
        (lambda: Adafactor(min_dim_size_to_factor=0), "Adafactor.min_dim_size_to_factor is 0: .* at least 1"),
        (lambda: Adafactor(weight_decay=-0.1), "Adafactor.weight_decay is -0.1: write a number of at least 0"),
        (lambda: AdamW(b1=1.0), "AdamW.b1 is 1.0: write a number of at least 0 and below 1"),
        (lambda: AdamW(b2=-0.5), "AdamW.b2 is -0.5: write a number of at least 0 and below 1"),
        (lambda: AdamW(eps=0.0), "AdamW.eps is 0.0: write a number above 0"),
        (lambda: AdamW(weight_decay=float("nan")), "AdamW.weight_decay is nan: write a number of at least 0"),
        (lambda: Muon(beta=1.5), "Muon.beta is 1.5: write a number of at least 0 and below 1"),
        (lambda: Muon(ns_steps=0), "Muon.ns_steps is 0: write a number of at least 1"),
        (lambda: Muon(update_rms=0.0), "Muon.update_rms is 0.0: write a number above 0"),
        (lambda: Muon(weight_decay=-1.0), "Muon.weight_decay is -1.0: write a number of at least 0"),
    ],
)
def test_value_out_of_range_is_refused(make, words):
    with pytest.raises(UserError, match=words):
        make()
