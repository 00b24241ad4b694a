import dataclasses
import math

import made_up_plans
import pytest

from t5x_mini.errors import UserError
from t5x_mini.plan import search, topologies
from t5x_mini.plan.figures import Times

GIB = made_up_plans.GIB


def value(bindings, name):
    return next(binding.partition("=")[2] for binding in bindings if binding.startswith(f"{name}="))


@pytest.mark.parametrize(("name", "slices"), [("v5e:4x4", 1), ("v5e:16x16", 2), ("v5e:1x1", 1), ("v3:2x2", 1)])
def test_every_mesh_takes_all_devices(name, slices):
    topology = topologies.parse(name)
    made = search.meshes(topology, slices)
    assert len(set(made)) == len(made)
    for mesh in made:
        sizes = [int(value(mesh, f"MESH_{axis}")) for axis in ("DATA", "FSDP", "MODEL")]
        assert math.prod(sizes) == topology.devices * slices
        assert sizes[0] % slices == 0


KEPT = {("none", "1"): 40, ("minimal", "1"): 20, ("minimal", "4"): 9, ("full", "1"): 4, ("full", "4"): 2}


def compiler(limit):
    """Where 16 devices share the parameters, `limit` GiB are left beside them. What keeps less takes longer."""

    def compile_with(bindings):
        remat, parts = value(bindings, "REMAT"), value(bindings, "NUM_MICROBATCHES")
        if value(bindings, "MESH_MODEL") == "4":
            raise UserError("BATCH_SIZE is 8, but that can't be split; write another")
        if parts == "16":
            raise UserError("NUM_MICROBATCHES is 16, but there are 8 rows")
        if value(bindings, "MESH_FSDP") != "16":
            return made_up_plans.with_memory(parameters=100 * GIB, temporaries=None)
        kept = 5 if remat == "offload" else KEPT[remat, parts]
        plan = made_up_plans.with_memory(
            parameters=GIB, optimizer=0, temporaries=kept * GIB, available=(1 + limit) * GIB
        )
        settings = plan.settings | {"remat": remat, "num_microbatches": int(parts)}
        return dataclasses.replace(plan, settings=settings, times=Times(compute=1 / kept))

    return compile_with


def tried(limit):
    said = []
    found = search.search(compiler(limit), topologies.parse("v5e:4x4"), say=said.append)
    assert len(said) == len(found)
    return found, said


@pytest.mark.parametrize(
    ("limit", "best"),
    [(50, ("none", "1")), (30, ("minimal", "1")), (10, ("minimal", "4")), (4, ("full", "1")), (3, ("full", "4"))],
)
def test_a_search_finds_how_much_can_be_kept(limit, best):
    found, _ = tried(limit)
    assert found[0].fits and value(found[0].bindings, "MESH_FSDP") == "16"
    assert (value(found[0].bindings, "REMAT"), value(found[0].bindings, "NUM_MICROBATCHES")) == best
    on_the_first = [one for one in found if value(one.bindings, "MESH_FSDP") == "16"]
    assert len(on_the_first) <= 4  # of seven
    # What fits no mesh is asked once: the state is too large for fewer devices, whatever is kept.
    assert len([one for one in found if value(one.bindings, "MESH_FSDP") == "1"]) == 1


def test_the_hosts_memory_is_tried_where_all_is_computed_again():
    for limit, asked in [(10, False), (5, True), (4, True)]:
        found, _ = tried(limit)
        (*_, offloaded) = [[], *[one for one in found if value(one.bindings, "REMAT") == "offload"]]
        assert bool(offloaded) == asked
        assert not asked or offloaded.fits == (limit == 5)


def test_where_nothing_fits_fewer_devices_are_not_tried():
    found, _ = tried(1)
    assert not any(one.fits for one in found)
    assert {value(one.bindings, "MESH_FSDP") for one in found if one.plan} == {"16"}
    assert found[-1].error


def test_progress_tells_how_much_is_left():
    found, said = tried(4)
    most = 3 + 3 + 2 + 1
    assert f"tried 1 of at most {most}: 0 more minutes at most" in said[0]
    assert len(found) < most


def test_the_table_says_what_to_write_and_why_others_fail():
    found = search.search(compiler(4), topologies.parse("v5e:4x4"), say=lambda line: None)
    lines = search.table(found).splitlines()
    assert "--gin.MESH_FSDP=16 --gin.MESH_MODEL=1 --gin.REMAT=full --gin.NUM_MICROBATCHES=1" in lines[1]
    assert " 40% " in lines[1]
    assert "(does not fit: activations and temporaries)" in lines[2]
    assert lines[-1].endswith("(BATCH_SIZE is 8, but that can't be split)")
