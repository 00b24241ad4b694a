"""What a checkpoint looks like on disk: T5X's parameter names, one array a layer, whatever the model did in memory.

    step
    rng
    params/encoder/layers_0/attention/query/kernel
    opt_state/encoder/layers_0/attention/query/kernel/v_row
    ...

In memory the layers of a stack are one array (`model/transformer.py`). Taking them apart here makes a checkpoint the
same for scanned and unrolled layers, lets a layer be read or replaced alone, and keeps the names people know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from t5x_mini.model.transformer import is_stacked
from t5x_mini.train.param_names import of_layers
from t5x_mini.train.state import TrainState

Tree = dict[str, Any]
State = TrainState | dict[str, Any]  # a dict holds some fields of the state, such as `params` alone


def to_disk(state: State) -> Tree:
    """The nested dict that is saved. Traceable: jit it to take the layers apart on the devices."""
    return _take_apart(state, lambda array, layer: array[layer])


def shapes_on_disk(state: State) -> Tree:
    """`to_disk` for a state of `ShapeDtypeStruct`s that carry `NamedSharding`s; the result carries them too."""

    def one_layer(shape: jax.ShapeDtypeStruct, layer: int) -> jax.ShapeDtypeStruct:
        sharding = NamedSharding(shape.sharding.mesh, PartitionSpec(*shape.sharding.spec[1:]))
        return jax.ShapeDtypeStruct(shape.shape[1:], shape.dtype, sharding=sharding)

    return _take_apart(state, one_layer)


def from_disk(tree: Tree, like: State) -> State:
    """The inverse of `to_disk`; `like` gives the structure and the number of layers. Traceable."""
    flat = flatten(tree)
    named, structure = _named_leaves(like)
    leaves = [
        jnp.stack([flat[layer_name] for layer_name in of_layers(name, leaf)]) if is_stacked(name) else flat[name]
        for name, leaf in named
    ]
    return jax.tree.unflatten(structure, leaves)


def shapes_by_name(state: State) -> dict[str, tuple[int, ...]]:
    """The shape of every array on disk, by its name there; of a state of arrays or of their shapes."""
    return {name: array.shape for name, array in flatten(jax.eval_shape(to_disk, state)).items()}


def names_on_disk(state: State) -> list[tuple[str, ...]]:
    """For each array of the state, in `jax.tree.leaves`' order: its name on disk, or the names of its layers."""
    return [of_layers(name, leaf) for name, leaf in _named_leaves(state)[0]]


def flatten(tree: Tree, prefix: str = "") -> dict[str, Any]:
    """`{'a': {'b': x}}` to `{'a/b': x}`: what is on disk, by the names that people know."""
    flat = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}/") if isinstance(value, dict) else {name: value}
    return flat


def nest(flat: Mapping[str, Any]) -> Tree:
    """The inverse of `flatten`."""
    tree: Tree = {}
    for name, leaf in flat.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def _take_apart(state: State, one_layer: Callable[[Any, int], Any]) -> Tree:
    flat: dict[str, Any] = {}
    for name, leaf in _named_leaves(state)[0]:
        parts = {name: leaf}
        if is_stacked(name):
            parts = {layer_name: one_layer(leaf, i) for i, layer_name in enumerate(of_layers(name, leaf))}
        if flat.keys() & parts.keys():
            raise ValueError(f"two arrays of the state have the name {name}")
        flat |= parts
    return nest(flat)


def _named_leaves(state: State) -> tuple[list[tuple[str, Any]], jax.tree_util.PyTreeDef]:
    leaves, structure = jax.tree_util.tree_flatten_with_path(state)
    return [(_name(path), leaf) for path, leaf in leaves], structure


def _name(path: tuple) -> str:
    """The keys of a path, without positions in optax's chains: they say nothing to a reader."""
    keys = (getattr(entry, "name", getattr(entry, "key", None)) for entry in path)
    return "/".join(str(key) for key in keys if key is not None)
