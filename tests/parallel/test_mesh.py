import jax
import pytest

from t5x_mini.errors import UserError
from t5x_mini.parallel.config import PartitioningConfig
from t5x_mini.parallel.mesh import AXES, make_mesh, mesh_shape


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
