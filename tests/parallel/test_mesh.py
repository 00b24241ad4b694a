import dataclasses

import jax
import numpy as np
import pytest

from t5x_mini.errors import UserError
from t5x_mini.parallel.config import PartitioningConfig
from t5x_mini.parallel.mesh import AXES, describe, make_mesh, mesh_shape, slices_along


@pytest.mark.parametrize(
    ("asked", "devices", "shape"),
    [
        ((-1, 1, 1), 8, (8, 1, 1)),
        ((-1, 2, 2), 8, (2, 2, 2)),
        ((2, -1, 1), 8, (2, 4, 1)),
        ((1, 1, -1), 8, (1, 1, 8)),
        ((2, 2, 2), 8, (2, 2, 2)),
        ((-1, 1, 1), 1, (1, 1, 1)),
    ],
)
def test_minus_one_takes_the_devices_that_are_left(asked, devices, shape):
    data, fsdp, model = asked
    assert mesh_shape(PartitioningConfig(data=data, fsdp=fsdp, model=model), devices) == shape


@pytest.mark.parametrize(("data", "fsdp", "model"), [(-1, -1, 1), (0, 1, 1), (8, 1, -2)])
def test_sizes_that_mean_nothing_are_refused(data, fsdp, model):
    with pytest.raises(UserError) as error:
        mesh_shape(PartitioningConfig(data=data, fsdp=fsdp, model=model), 8)
    assert str(error.value) == (
        f"the mesh asks for data={data}, fsdp={fsdp}, model={model}; write positive numbers, and -1 (all that are "
        "left) for at most one"
    )


@pytest.mark.parametrize(("data", "fsdp", "model"), [(4, 1, 1), (2, 2, 4), (-1, 3, 1), (-1, 16, 1)])
def test_a_product_other_than_the_devices_is_refused(data, fsdp, model):
    with pytest.raises(UserError) as error:
        mesh_shape(PartitioningConfig(data=data, fsdp=fsdp, model=model), 8)
    assert str(error.value) == (
        f"the mesh asks for data={data}, fsdp={fsdp}, model={model}, but there are 8 devices; the product must be 8"
    )


def test_the_mesh_holds_every_device_once():
    mesh = make_mesh(PartitioningConfig(data=2, fsdp=2, model=2))
    assert mesh.axis_names == AXES == ("data", "fsdp", "model")
    assert mesh.devices.shape == (2, 2, 2)
    assert set(mesh.devices.flat) == set(jax.devices())


def test_a_mesh_over_some_of_the_devices():
    mesh = make_mesh(PartitioningConfig(), jax.devices()[:4])
    assert mesh.devices.shape == (4, 1, 1)
    assert set(mesh.devices.flat) == set(jax.devices()[:4])


@pytest.mark.parametrize(
    ("shape", "slices", "along"),
    [
        ((8, 1, 1), 1, (1, 1, 1)),
        ((8, 4, 2), 2, (2, 1, 1)),  # gradients alone cross the slow network
        ((1, 32, 1), 2, (1, 2, 1)),
        ((6, 2, 1), 4, (2, 2, 1)),
    ],
)
def test_slices_lie_along_data_first(shape, slices, along):
    assert slices_along(shape, slices) == along


def test_model_does_not_reach_into_another_slice():
    with pytest.raises(UserError) as error:
        slices_along((1, 1, 32), 2)
    assert str(error.value) == (
        "2 slices cannot lie along data=1 and fsdp=1, and model=32 must not reach from one slice into another, over a "
        "network that is far too slow for it; write MESH_DATA = 2, MESH_FSDP = -1 and a MESH_MODEL that divides the "
        "devices of one slice"
    )


@dataclasses.dataclass(frozen=True)
class Chip:
    """What JAX's device of a TPU says of itself."""

    id: int
    slice_index: int
    process_index: int
    coords: tuple[int, int, int]
    platform: str = "tpu"
    device_kind: str = "TPU v4"
    core_on_chip: int = 0


def chips(slices):
    """Four chips of each slice, in an order that is not the slices'."""
    return [
        Chip(4 * number + chip, number, number, (chip % 2, chip // 2, 0))
        for chip in range(4)
        for number in range(slices)
    ]


def test_each_part_along_data_is_a_slice():
    mesh = make_mesh(PartitioningConfig(fsdp=2, model=2), chips(2))
    assert [{chip.slice_index for chip in part.flat} for part in mesh.devices] == [{0}, {1}]
    assert describe(mesh) == (
        "8 device(s) (TPU v4) of 2 processes in 2 slices: data 2 x fsdp 2 x model 2 (slices: data 2)"
    )


def test_fsdp_over_slices_where_data_has_no_room():
    mesh = make_mesh(PartitioningConfig(data=1, fsdp=-1), chips(2))
    np.testing.assert_array_equal(np.vectorize(lambda chip: chip.slice_index)(mesh.devices).ravel(), [0] * 4 + [1] * 4)


def test_one_host_is_described_without_processes():
    assert describe(make_mesh(PartitioningConfig(model=2))) == "8 device(s) (cpu): data 4 x fsdp 1 x model 2"
