import math

import made_up_plans
import pytest

from t5x_mini.errors import UserError
from t5x_mini.plan import search, topologies

GIB = made_up_plans.GIB


def value(bindings, name):
    return next(binding.partition("=")[2] for binding in bindings if binding.startswith(f"{name}="))


@pytest.mark.parametrize(("name", "slices"), [("v5e:4x4", 1), ("v5e:16x16", 2), ("v5e:1x1", 1), ("v3:2x2", 1)])
def test_every_mesh_takes_all_devices(name, slices):
    topology = topologies.parse(name)
    for bindings in search.choices(topology, slices):
        sizes = [int(value(bindings, f"MESH_{axis}")) for axis in ("DATA", "FSDP", "MODEL")]
        assert math.prod(sizes) == topology.devices * slices
        assert sizes[0] % slices == 0


def compiler(bindings):
    """What fits: parameters over 16 devices, nothing kept. The less is kept, the longer it takes."""
    if value(bindings, "MESH_MODEL") == "4":
        raise UserError("BATCH_SIZE is 8, but that can't be split; write another")
    if value(bindings, "MESH_FSDP") != "16":
        return made_up_plans.with_memory(parameters=30 * GIB, temporaries=None)
    kept = {"none": 30, "minimal": 20, "full": 4}[value(bindings, "REMAT")]
    return made_up_plans.with_memory(temporaries=kept * GIB)


def test_a_search_tries_until_a_mesh_fits_and_puts_that_first():
    said = []
    found = search.search(compiler, topologies.parse("v5e:4x4"), say=said.append)
    tried = [(value(one.bindings, "MESH_FSDP"), value(one.bindings, "REMAT")) for one in found]
    best = tried[0]
    assert best == ("16", "full")
    assert found[0].fits and not any(one.fits for one in found[1:])
    assert ("16", "minimal") in tried
    assert len([fsdp for fsdp, _ in tried if fsdp == "1"]) == 1  # too large whatever is kept: asked once
    assert found[-1].error and value(found[-1].bindings, "MESH_MODEL") == "4"
    assert len(said) == len(found)


def test_the_table_says_what_to_write_and_why_others_fail():
    found = search.search(compiler, topologies.parse("v5e:4x4"), say=lambda line: None)
    lines = search.table(found).splitlines()
    assert "--gin.MESH_FSDP=16 --gin.MESH_MODEL=1 --gin.REMAT=full --gin.NUM_MICROBATCHES=1" in lines[1]
    assert " 40% " in lines[1]
    assert "(does not fit: activations and temporaries)" in lines[2]
    assert lines[-1].endswith("(BATCH_SIZE is 8, but that can't be split)")
