"""The device mesh: `data`, `fsdp` and `model`."""

from __future__ import annotations

import math

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from t5x_mini.errors import UserError
from t5x_mini.parallel.config import PartitioningConfig

AXES = ("data", "fsdp", "model")


def mesh_shape(config: PartitioningConfig, device_count: int) -> tuple[int, int, int]:
    """Devices along `data`, `fsdp` and `model`, with the -1 filled in.

    Raises:
        UserError: where the product cannot be `device_count`.
    """
    sizes = [config.data, config.fsdp, config.model]
    asked = f"the mesh asks for data={config.data}, fsdp={config.fsdp}, model={config.model}"
    if sizes.count(-1) > 1 or any(size == 0 or size < -1 for size in sizes):
        raise UserError(f"{asked}; write positive numbers, and -1 (all that are left) for at most one")
    if -1 in sizes:
        known = math.prod(size for size in sizes if size != -1)
        sizes[sizes.index(-1)] = max(device_count // known, 1)
    if math.prod(sizes) != device_count:
        raise UserError(f"{asked}, but there are {device_count} devices; the product must be {device_count}")
    return tuple(sizes)


def make_mesh(config: PartitioningConfig, devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh over all devices of all hosts, laid out so that `model` neighbours are physical neighbours."""
    devices = jax.devices() if devices is None else devices
    shape = mesh_shape(config, len(devices))
    grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))
