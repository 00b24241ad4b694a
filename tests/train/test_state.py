"""The state of a run: what it holds at step 0, its randomness, and names for every axis of every array."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import tiny

from t5x_mini.model import transformer
from t5x_mini.train import state
from t5x_mini.train.config import TrainConfig
from t5x_mini.train.optimizers import Adafactor, AdamW, Muon

TRAIN = TrainConfig(model_dir="unused", train_steps=1, random_seed=3)
MODEL = tiny.model("causal_lm", num_decoder_layers=1)


@functools.cache
def created(optimizer, train=TRAIN):
    return jax.jit(lambda: state.create(MODEL, optimizer, train), compiler_options=tiny.QUICK)()


def test_a_fresh_state_is_at_step_zero_with_every_parameter():
    fresh = created(Adafactor())
    assert int(fresh.step) == 0
    assert fresh.params.keys() == fresh.opt_state.keys() == transformer.param_shapes(MODEL).keys()
    assert all(param.dtype == np.float32 for param in fresh.params.values())


def test_the_seed_decides_everything():
    one, same = created(AdamW()), created.__wrapped__(AdamW())
    other = created(AdamW(), dataclasses.replace(TRAIN, random_seed=4))
    assert all(map(np.array_equal, jax.tree.leaves(one), jax.tree.leaves(same)))
    assert not np.array_equal(one.rng, other.rng)
    assert not np.array_equal(*(s.params["decoder/token_embedder/embedding"] for s in (one, other)))


def test_a_frozen_parameter_has_no_optimiser_state():
    train = dataclasses.replace(TRAIN, frozen=("decoder/layers/.*",))
    shapes = jax.eval_shape(lambda: state.create(MODEL, AdamW(), train))
    assert shapes.params.keys() == transformer.param_shapes(MODEL).keys()
    assert shapes.opt_state.keys() == {name for name in shapes.params if not name.startswith("decoder/layers/")}
    assert state.axes(MODEL, AdamW(), shapes).opt_state.keys() == shapes.opt_state.keys()


@pytest.mark.parametrize("impl, words", [("threefry", 2), ("rbg", 4)])
def test_each_step_has_a_key_of_its_own_of_the_kind_asked_for(impl, words):
    train = dataclasses.replace(TRAIN, prng_impl=impl)
    fresh = created(AdamW(), train)
    assert fresh.rng.shape == (words,) and fresh.rng.dtype == np.uint32
    states = [dataclasses.replace(fresh, step=np.int32(step)) for step in (0, 1, 2, 1)]
    keys = [state.step_key(s, train) for s in states]
    data = [jax.random.key_data(key).tobytes() for key in keys]
    assert len(set(data)) == 3 and data[1] == data[3]
    assert all(impl in str(jax.random.key_impl(key)) for key in keys)


def test_dropout_does_not_draw_from_the_key_of_the_initial_values():
    fresh = created(AdamW())
    assert not np.array_equal(fresh.rng, jax.random.key_data(state.root_key(TRAIN)))


@pytest.mark.parametrize(
    "optimizer", [Adafactor(min_dim_size_to_factor=8), AdamW(), Muon()], ids=lambda o: type(o).__name__
)
def test_axes_name_every_dimension_of_every_array(optimizer):
    shapes = jax.eval_shape(lambda: state.create(MODEL, optimizer, TRAIN))
    axes = state.axes(MODEL, optimizer, shapes)
    named = jax.tree.map(lambda shape, names: len(names) == len(shape.shape), shapes, axes)
    assert all(jax.tree.leaves(named))
    assert axes.params == transformer.param_axes(MODEL)
