"""Logical axes to mesh axes: the one table that says how arrays are split over devices."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
from jax.sharding import Mesh, PartitionSpec

# Rows of the batch are split over `data` and `fsdp`; what is split over `model` is what tensor parallelism needs:
# heads, MLP width and vocabulary. `embed` is split over `fsdp` in parameters only: activations carry `batch` there,
# but for what is just looked up in the embedding (`looked_up`).
RULES: dict[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
    "looked_up": ("data",),
    "embed": ("fsdp",),
    "heads": ("model",),
    "joined_kv": ("model",),
    "mlp": ("model",),
    "vocab": ("model",),
    "layers": (),
    "length": (),
    "relpos_buckets": (),
}
# What `fsdp` splits in parameters and optimiser state that have no `embed`, or one that it does not divide.
INSTEAD_OF_EMBED = ("mlp", "joined_kv", "vocab")


def partition_spec(axes: Sequence[str | None], shape: Sequence[int], mesh: Mesh) -> PartitionSpec:
    """How an array with these logical axes is split over `mesh`.

    A dimension that its mesh axes do not divide evenly is left whole: six heads on a mesh of eight stay together.

    Args:
        axes: a logical axis name, or None for a dimension that is never split, for each dimension.
        shape: the array's shape.
        mesh: a mesh with the axes `data`, `fsdp` and `model`.
    """
    if len(axes) != len(shape):
        raise ValueError(f"{len(axes)} axis names {tuple(axes)} for an array of shape {tuple(shape)}")
    return PartitionSpec(*(_mesh_axes(name, size, mesh) for name, size in zip(axes, shape, strict=True)))


def state_spec(axes: Sequence[str | None], shape: Sequence[int], mesh: Mesh) -> PartitionSpec:
    """How a parameter or a part of its optimiser state is split: over `fsdp` too, wherever it has a dimension for it.

    Args:
        axes: see `partition_spec`.
        shape: the array's shape.
        mesh: a mesh with the axes `data`, `fsdp` and `model`.
    """
    parts = [_mesh_axes(name, size, mesh) for name, size in zip(axes, shape, strict=True)]
    if mesh.shape["fsdp"] > 1 and not any("fsdp" in (part or ()) for part in parts):
        for place, (name, size) in enumerate(zip(axes, shape, strict=True)):
            split = (*(parts[place] or ()), "fsdp")
            if name in INSTEAD_OF_EMBED and size % math.prod(mesh.shape[axis] for axis in split) == 0:
                parts[place] = split
                break
    return PartitionSpec(*parts)


def _mesh_axes(name: str | None, size: int, mesh: Mesh) -> tuple[str, ...] | None:
    mesh_axes = tuple(axis for axis in RULES[name] if mesh.shape[axis] > 1) if name else ()
    ways = math.prod(mesh.shape[axis] for axis in mesh_axes)
    return mesh_axes if mesh_axes and size % ways == 0 else None


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Pins the sharding of an activation, where a mesh with our axes is in use; elsewhere returns `x` as it is."""
    mesh = mesh_in_use()
    return x if mesh is None else jax.lax.with_sharding_constraint(x, partition_spec(axes, x.shape, mesh))


def constrain_as_state(x: jax.Array, axes: Sequence[str | None]) -> jax.Array:
    """Pins the sharding of a gradient to that of its parameter, which has these logical axes; see `constrain`."""
    mesh = mesh_in_use()
    return x if mesh is None else jax.lax.with_sharding_constraint(x, state_spec(axes, x.shape, mesh))


def row_ways(rows: int) -> int:
    """Devices that a batch of so many rows is split over, in the mesh in use; 1 without one, or if it isn't split."""
    mesh = mesh_in_use()
    axes = None if mesh is None else _mesh_axes("batch", rows, mesh)
    return math.prod(mesh.shape[axis] for axis in axes) if axes else 1


def platform() -> str:
    """What is compiled for, `cpu`, `gpu` or `tpu`: the platform of the mesh in use; without one, of JAX's devices."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.platform if device else jax.default_backend()


def mesh_in_use() -> jax.sharding.AbstractMesh | None:
    """The mesh that is set while tracing; None where there is none with our axes."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or "fsdp" not in mesh.axis_names else mesh
