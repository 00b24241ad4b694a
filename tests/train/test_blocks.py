"""Sizes of blocks against plain numpy, under every optimiser, with and without frozen parameters."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny

from t5x_mini.model import transformer
from t5x_mini.train import blocks, state, step
from t5x_mini.train.config import LossConfig, TrainConfig
from t5x_mini.train.optimizers import Adafactor, AdamW, Muon
from t5x_mini.train.param_names import of_layers
from t5x_mini.train.schedules import Constant

TRAIN = TrainConfig(model_dir="unused", train_steps=1)


def by_block(params):
    """All numbers of each block in one float64 vector, found by the names on disk."""
    found = {}
    for name, array in params.items():
        layers = of_layers(name, array)
        for index, layer in enumerate(layers):
            part = array[index] if len(layers) > 1 or "/layers/" in name else array
            folders = layer.split("/")[:-1]
            found.setdefault("/".join(folders[:2]), []).append(np.asarray(part, np.float64).ravel())
    return {block: np.concatenate(parts) for block, parts in found.items()}


def rms(values):
    return np.sqrt(np.mean(np.square(values)))


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        (
            "encoder_decoder",
            "decoder/decoder_norm decoder/layers_0 decoder/layers_1 decoder/logits_dense decoder/relpos_bias "
            "encoder/encoder_norm encoder/layers_0 encoder/layers_1 encoder/relpos_bias token_embedder",
        ),
        (
            "causal_lm",
            "decoder/decoder_norm decoder/layers_0 decoder/layers_1 decoder/logits_dense decoder/relpos_bias "
            "decoder/token_embedder",
        ),
    ],
)
def test_blocks_are_named_as_on_disk(architecture, expected):
    shapes = transformer.param_shapes(tiny.model(architecture))
    assert blocks.names(shapes) == expected.split()
    assert blocks.names(dict(reversed(shapes.items()))) == expected.split()  # whatever the order of the dict


def test_a_stack_of_one_layer_is_a_stack():
    shapes = transformer.param_shapes(tiny.model("causal_lm", num_decoder_layers=1))
    assert "decoder/layers_0" in blocks.names(shapes)


def test_squares_and_rms_are_numpys():
    params = tiny.params(tiny.model())
    squares, expected = blocks.squares(params), by_block(params)
    names = blocks.names(params)
    assert names == sorted(expected)
    np.testing.assert_allclose(squares, [np.sum(expected[name] ** 2) for name in names], rtol=1e-5)
    np.testing.assert_allclose(blocks.rms(squares, params), [rms(expected[name]) for name in names], rtol=1e-5)


def stepped(optimizer, train=TRAIN):
    """The state before and after one step of a tiny model, and the sums."""
    model = tiny.model("prefix_lm", num_decoder_layers=2)
    update = step.make_train_step(model, LossConfig(), optimizer, Constant(learning_rate=0.01), train)
    before = state.create(model, optimizer, train)
    batch = tiny.batch("prefix_lm", tiny.examples(0, 4))
    return before, *jax.jit(update, compiler_options=tiny.QUICK)(before, batch)


@pytest.mark.parametrize(
    "optimizer",
    [
        Adafactor(min_dim_size_to_factor=8),
        pytest.param(AdamW(weight_decay=0.1), marks=pytest.mark.slow),
        pytest.param(Muon(), marks=pytest.mark.slow),
    ],
    ids=lambda optimizer: type(optimizer).__name__,
)
def test_the_update_is_what_happened_to_the_parameters(optimizer):
    frozen = ("decoder/layers/mlp/.*", "decoder/token_embedder/embedding")
    before, after, sums = stepped(optimizer, dataclasses.replace(TRAIN, frozen=frozen))
    trained = before.opt_state.keys()
    names = blocks.names({name: before.params[name] for name in trained})
    assert "decoder/token_embedder" not in names and "decoder/layers_1" in names
    old, new = (by_block({name: of.params[name] for name in trained}) for of in (before, after))
    expected = [rms(new[name] - old[name]) / rms(new[name]) for name in names]
    assert min(expected) > 1e-4
    np.testing.assert_allclose(sums["update_ratio"], expected, rtol=1e-5)


def test_norms_are_of_the_same_squares():
    before, after, sums = stepped(Adafactor(min_dim_size_to_factor=8))
    sizes = [len(values) for _, values in sorted(by_block(before.params).items())]
    norm = np.sqrt(np.sum(np.array(sizes) * np.square(sums["grad_rms"], dtype=np.float64)))
    assert float(sums["grad_norm"]) == pytest.approx(norm, rel=1e-5)
    norm = np.sqrt(sum(np.sum(values**2) for values in by_block(after.params).values()))
    assert float(sums["param_norm"]) == pytest.approx(norm, rel=1e-5)


def test_without_a_period_nothing_is_computed():
    model, optimizer = tiny.model(), Adafactor()
    update = step.make_train_step(
        model, LossConfig(), optimizer, Constant(), dataclasses.replace(TRAIN, statistics_period=0)
    )
    before = jax.eval_shape(lambda: state.create(model, optimizer, TRAIN))
    _, sums = jax.eval_shape(update, before, tiny.batch("encoder_decoder", tiny.examples(0, 2)))
    assert "grad_norm" in sums and not {"grad_rms", "update_ratio"} & sums.keys()
