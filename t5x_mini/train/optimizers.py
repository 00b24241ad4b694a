"""Optimisers: how gradients become new parameters, one parameter at a time.

Parameters, gradients and state are flat dicts by name. A parameter with `layers` in its name stacks one tensor a layer
on axis 0; each layer is then updated as if it were a parameter of its own, and so are its norms, its factored
moments and its clipping (T5X's unscanned network does the same). All leaves of its state have `layers` on axis 0
too, step counts included, so that a state can be taken apart into layers wherever its parameters can.

An optimiser's `transform(name)` gives the direction of one parameter's step; the step is
`param - learning_rate * direction`. Weight decay is decoupled (Loshchilov & Hutter 2019): it adds
`weight_decay * param` to the direction, whatever that was scaled by, and spares norm scales and relative position
biases: pulling a scale towards 0 weakens its whole layer, and both are too few to overfit.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import jax
import numpy as np
import optax
from jaxtyping import Array, Float

from t5x_mini.model.transformer import is_stacked
from t5x_mini.train.ranges import require

Params = dict[str, Float[Array, "..."]]
State = dict[str, optax.OptState]
Rate = Float[Array, ""] | float
Axes = tuple[str | None, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adafactor:
    """Adafactor with T5's settings (Shazeer & Stern 2018, algorithms 4 and 5, without momentum).

    The direction is `grad / sqrt(v)`, clipped by its RMS, times `max(1e-3, RMS(param))`. `v` is the running mean of
    squared gradients, for large matrices kept as row and column means. Same numbers as T5X's and `optax.adafactor`.

    Attributes:
        decay_rate: the running mean keeps `1 - t^-decay_rate` of itself at update t = 1, 2, ...
        clipping_threshold: the largest RMS of `grad / sqrt(v)`; None does not clip.
        min_dim_size_to_factor: matrices with a smaller side keep `v` whole.
        multiply_by_parameter_scale: False leaves out the factor `max(1e-3, RMS(param))`.
        weight_decay: see the module's text.
    """

    decay_rate: float = 0.8
    clipping_threshold: float | None = 1.0
    min_dim_size_to_factor: int = 128
    multiply_by_parameter_scale: bool = True
    weight_decay: float = 0.0

    def __post_init__(self):
        require(self, "decay_rate", self.decay_rate > 0, "a number above 0")
        clips = self.clipping_threshold is not None
        require(self, "clipping_threshold", not clips or self.clipping_threshold > 0, "a number above 0, or None")
        require(self, "min_dim_size_to_factor", self.min_dim_size_to_factor >= 1, "a number of at least 1")
        require(self, "weight_decay", self.weight_decay >= 0, "a number of at least 0")

    def transform(self, name: str) -> optax.GradientTransformation:
        """Direction of the step of the parameter `name`, one layer's."""
        clips = self.clipping_threshold is not None
        return optax.chain(
            optax.scale_by_factored_rms(
                decay_rate=self.decay_rate, min_dim_size_to_factor=self.min_dim_size_to_factor, epsilon=1e-30
            ),
            optax.clip_by_block_rms(self.clipping_threshold) if clips else optax.identity(),
            optax.scale_by_param_block_rms(1e-3) if self.multiply_by_parameter_scale else optax.identity(),
            _decay(name, self.weight_decay),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019); the numbers of `optax.adamw`.

    Attributes:
        b1: share that the running mean of gradients keeps at each update.
        b2: share that the running mean of squared gradients keeps.
        eps: added to the root of the squared gradients' mean (nanoT5 takes 1e-6).
        weight_decay: see the module's text.
        scale_by_parameter_rms: multiply the direction by `max(1e-3, RMS(param))`, Adafactor's rule, as nanoT5's
            AdamWScale does: T5's initialisation gives its parameters very different sizes, and plain AdamW, which
            moves all by the same amount, diverges there (nanoT5's README).
    """

    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    scale_by_parameter_rms: bool = False

    def __post_init__(self):
        require(self, "b1", 0 <= self.b1 < 1, "a number of at least 0 and below 1")
        require(self, "b2", 0 <= self.b2 < 1, "a number of at least 0 and below 1")
        require(self, "eps", self.eps > 0, "a number above 0")
        require(self, "weight_decay", self.weight_decay >= 0, "a number of at least 0")

    def transform(self, name: str) -> optax.GradientTransformation:
        """Direction of the step of the parameter `name`, one layer's."""
        return optax.chain(
            optax.scale_by_adam(b1=self.b1, b2=self.b2, eps=self.eps),
            optax.scale_by_param_block_rms(1e-3) if self.scale_by_parameter_rms else optax.identity(),
            _decay(name, self.weight_decay),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Muon:
    """Muon for the kernels inside the layers, AdamW for all else: embeddings, output head, norms, position biases.

    Muon's direction is the momentum with its singular values brought near 1 by Newton-Schulz iterations (Jordan
    2024), times `update_rms * sqrt(max(rows, columns))`, which makes its RMS close to `update_rms` whatever the
    shape (Liu et al. 2025, "Muon is Scalable for LLM Training", section 2.2). 0.2 is what they measured for AdamW,
    so that one learning rate and one weight decay serve both groups.

    Attributes:
        beta: share that the momentum keeps at each update.
        nesterov: look one gradient ahead.
        ns_steps: Newton-Schulz iterations.
        update_rms: RMS of the direction of a full-rank kernel.
        weight_decay: of the kernels; `adamw.weight_decay` is that of the rest.
        adamw: what updates the rest, at the same learning rate.
    """

    beta: float = 0.95
    nesterov: bool = True
    ns_steps: int = 5
    update_rms: float = 0.2
    weight_decay: float = 0.0
    adamw: AdamW = AdamW()

    def __post_init__(self):
        require(self, "beta", 0 <= self.beta < 1, "a number of at least 0 and below 1")
        require(self, "ns_steps", self.ns_steps >= 1, "a number of at least 1")
        require(self, "update_rms", self.update_rms > 0, "a number above 0")
        require(self, "weight_decay", self.weight_decay >= 0, "a number of at least 0")

    def transform(self, name: str) -> optax.GradientTransformation:
        """Direction of the step of the parameter `name`, one layer's."""
        if not (is_stacked(name) and name.endswith("/kernel")):
            return self.adamw.transform(name)
        return optax.chain(
            optax.contrib.scale_by_muon(beta=self.beta, nesterov=self.nesterov, ns_steps=self.ns_steps),
            optax.stateless_with_tree_map(lambda update, _: self.update_rms * math.sqrt(max(update.shape)) * update),
            _decay(name, self.weight_decay),
        )


Optimizer = Adafactor | AdamW | Muon


def init(optimizer: Optimizer, params: Params) -> State:
    """State before the first update, one optax state a parameter."""
    return {name: _per_layer(name, optimizer.transform(name).init)(param) for name, param in params.items()}


def update(
    optimizer: Optimizer, grads: Params, state: State, params: Params, learning_rate: Rate
) -> tuple[Params, State]:
    """One step: `(params, state)` after it."""
    new_params, new_state = {}, {}
    for name, param in params.items():
        direct = _per_layer(name, optimizer.transform(name).update)
        direction, new_state[name] = direct(grads[name], state[name], param)
        new_params[name] = param - learning_rate * direction
    return new_params, new_state


def state_axes(name: str, param_shape: tuple[int, ...], param_axes: Axes, state: optax.OptState) -> optax.OptState:
    """Logical axes of every leaf of one parameter's state, in a tree like `state` with tuples for arrays.

    What has the parameter's shape is split as the parameter is. Adafactor's row and column means take its axes but the
    one they are a mean over. Counts, constants and placeholders are not split.

    Args:
        name: of the parameter.
        param_shape: its shape, stacked layers included.
        param_axes: a logical axis or None for each of its dimensions.
        state: its state, as arrays or `jax.ShapeDtypeStruct`s.
    """

    def axes_of_array(leaf) -> Axes:
        return tuple(param_axes) if leaf.shape == tuple(param_shape) else (None,) * leaf.ndim

    def axes_of_node(node):
        axes = jax.tree.map(axes_of_array, node)
        if not isinstance(node, optax.FactoredState) or node.v.shape == tuple(param_shape):
            return axes
        # Row and column means of a square matrix have the same shape: only optax's rule tells which axis each lost.
        second_largest, largest = np.argsort(param_shape[1:] if is_stacked(name) else param_shape)[-2:]
        first = int(is_stacked(name))
        return axes._replace(
            v_row=_without(param_axes, first + largest), v_col=_without(param_axes, first + second_largest)
        )

    return jax.tree.map(axes_of_node, state, is_leaf=lambda node: isinstance(node, optax.FactoredState))


def _per_layer(name: str, function: Callable) -> Callable:
    return jax.vmap(function) if is_stacked(name) else function


def _without(axes: Axes, index: int) -> Axes:
    return tuple(axes[:index]) + tuple(axes[index + 1 :])


def _decay(name: str, rate: float) -> optax.GradientTransformation:
    """Adds `rate * param`, where the parameter is one that decays."""
    spared = name.rsplit("/", 1)[-1] in ("scale", "rel_embedding")
    return optax.identity() if spared or not rate else optax.add_decayed_weights(rate)
