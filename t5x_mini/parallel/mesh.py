"""The device mesh: `data`, `fsdp` and `model`, over the chips of a slice (ICI) and over several slices (DCN).

Chips of a TPU slice are joined by fast links of their own (ICI), slices by the data centre's network (DCN), which is
tens of times slower. So slices lie along `data`, where only gradients are added up, once a step; along `fsdp` only if
`data` has no room; and never along `model`, which talks in every layer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

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


def slices_along(shape: tuple[int, int, int], slices: int) -> tuple[int, int, int]:
    """How many slices lie along `data`, `fsdp` and `model` of a mesh of this shape; their product is `slices`.

    Raises:
        UserError: where some would have to lie along `model`.
    """
    data, fsdp, model = shape
    along_data = math.gcd(data, slices)
    along_fsdp = math.gcd(fsdp, slices // along_data)
    if along_data * along_fsdp != slices:
        raise UserError(
            f"{slices} slices cannot lie along data={data} and fsdp={fsdp}, and model={model} must not reach from one "
            f"slice into another, over a network that is far too slow for it; write MESH_DATA = {slices}, "
            "MESH_FSDP = -1 and a MESH_MODEL that divides the devices of one slice"
        )
    return along_data, along_fsdp, 1


def slice_count(devices: Sequence[jax.Device]) -> int:
    """TPU slices that the devices belong to. GPUs and CPUs count as one: the order of their list keeps neighbours."""
    if devices[0].platform != "tpu":
        return 1
    return len({getattr(device, "slice_index", 0) for device in devices})  # one slice has no index


def make_mesh(config: PartitioningConfig, devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh over all devices of all hosts and slices, laid out so that `model` neighbours are physical neighbours.

    Raises:
        UserError: for sizes that cannot be, or that would split `model` over slices.
    """
    devices = jax.devices() if devices is None else devices
    shape = mesh_shape(config, len(devices))
    slices = slice_count(devices)
    if slices == 1:
        grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    else:
        dcn = slices_along(shape, slices)
        ici = tuple(size // across for size, across in zip(shape, dcn, strict=True))
        grid = mesh_utils.create_hybrid_device_mesh(ici, dcn, devices, allow_split_physical_axes=True)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def describe(mesh: Mesh) -> str:
    """Devices, processes, slices and axes in one line, such as `8 device(s) (cpu) of 2 processes: data 4 x fsdp 2 x
    model 1`."""
    devices = mesh.devices.ravel()
    processes, slices = len({device.process_index for device in devices}), slice_count(devices)
    axes = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    where = f" of {processes} processes" if processes > 1 else ""
    if slices > 1:
        where += f" in {slices} slices"
        along = zip(mesh.shape, slices_along(tuple(mesh.shape.get(axis, 1) for axis in AXES), slices), strict=False)
        axes += f" (slices: {' x '.join(f'{axis} {count}' for axis, count in along if count > 1)})"
    return f"{devices.size} device(s) ({devices[0].device_kind}){where}: {axes}"
