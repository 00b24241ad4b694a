import jax
import jax.numpy as jnp
import pytest

from t5x_mini.errors import UserError
from t5x_mini.parallel import replicas

GIB = 2**30
STATE = {"params": jax.ShapeDtypeStruct((GIB,), jnp.float32), "sums": jax.ShapeDtypeStruct((GIB,), jnp.float32)}


@pytest.fixture
def memory(monkeypatch):
    return lambda gib: monkeypatch.setattr(replicas, "device_memory", lambda _: gib and gib * GIB)


def check():
    replicas.check_replicated(STATE, {"params": STATE["params"]}, jax.devices()[:8])


@pytest.mark.parametrize("gib", [14, None])
def test_what_fits_or_is_not_known_is_taken(memory, gib):
    memory(gib)
    check()


@pytest.mark.parametrize(
    ("gib", "advice"),
    [
        (
            13,
            "Split it over 2 of the 8: write --gin.PARTITIONING=mesh --gin.MESH_FSDP=2 (and more where the activations "
            "don't fit).",
        ),
        (
            4,
            "Split it over 4 of the 8: write --gin.PARTITIONING=mesh --gin.MESH_FSDP=4 (and more where the activations "
            "don't fit).",
        ),
        (
            1,
            "Split over the 8 there are, it does not fit either: write --gin.PARTITIONING=mesh --gin.MESH_FSDP=-1 "
            "--gin.MESH_DATA=1, and use 14 devices or more.",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_the_mesh_that_holds_it(memory, gib, advice):
    memory(gib)
    with pytest.raises(UserError) as error:
        check()
    assert str(error.value) == (
        "PARTITIONING = 'pmap' puts a copy of the model on every device. Parameters, optimiser state and gradients "
        f"take 12.0 GiB, and a device has {gib}.0 GiB. {advice}"
    )


def test_a_cpu_device_has_its_part_of_the_machine():
    alone = replicas.device_memory(jax.devices()[0])
    assert 2**20 < alone * jax.local_device_count() < 2**50
