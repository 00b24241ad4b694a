"""What training carries from one step to the next."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray, UInt32

from t5x_mini.model import transformer
from t5x_mini.model.config import TransformerConfig
from t5x_mini.train import optimizers, param_names
from t5x_mini.train.config import TrainConfig

PRNG_IMPLS = {"threefry": "threefry2x32", "rbg": "rbg"}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Step, parameters, optimiser state and the key of all randomness.

    Attributes:
        step: updates made so far.
        params: name to array, float32 (`model/transformer.py`).
        opt_state: name to the state of that parameter's optimiser (`train/optimizers.py`). A frozen parameter has
            none, which is how the step knows it.
        rng: raw key data; step k draws from `fold_in(rng, k)`, so that a resumed run draws the same numbers.
    """

    step: Int[Array, ""]
    params: dict[str, Array]
    opt_state: dict[str, Any]
    rng: UInt32[Array, " words"]


def root_key(config: TrainConfig) -> PRNGKeyArray:
    """The key that `random_seed` and `prng_impl` stand for."""
    return jax.random.key(config.random_seed, impl=PRNG_IMPLS[config.prng_impl])


def create(model: TransformerConfig, optimizer: optimizers.Optimizer, train: TrainConfig) -> TrainState:
    """A fresh state at step 0.

    Raises:
        UserError: for a regex of `train.frozen` that matches nothing, or some layers of a stack only.
    """
    init_key, step_key = jax.random.split(root_key(train))
    params = transformer.init_params(model, init_key)
    frozen = param_names.frozen(params, train.frozen)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizers.init(optimizer, {name: params[name] for name in params if name not in frozen}),
        rng=jax.random.key_data(step_key),
    )


def step_key(state: TrainState, config: TrainConfig) -> PRNGKeyArray:
    """The key of this step's dropout."""
    return jax.random.fold_in(jax.random.wrap_key_data(state.rng, impl=PRNG_IMPLS[config.prng_impl]), state.step)


def axes(model: TransformerConfig, optimizer: optimizers.Optimizer, state: TrainState) -> TrainState:
    """The logical axes of every array of a state (or of its shapes): a tuple of names in place of each array."""
    param_axes = transformer.param_axes(model)
    return TrainState(
        step=(),
        params=param_axes,
        opt_state={
            name: optimizers.state_axes(name, state.params[name].shape, param_axes[name], leaf_state)
            for name, leaf_state in state.opt_state.items()
        },
        rng=(None,),
    )
