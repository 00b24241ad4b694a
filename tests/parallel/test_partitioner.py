import dataclasses
import functools
import os
import subprocess
import sys
import textwrap
import types

import eight_devices
import jax
import numpy as np
import pytest

from t5x_mini.errors import UserError
from t5x_mini.parallel.config import PartitioningConfig
from t5x_mini.parallel.partitioner import RowShare, make_partitioner, row_share
from t5x_mini.train.step import make_eval_step, make_train_step

ARCHITECTURES = ("encoder_decoder", "prefix_lm", "causal_lm")
PARTITIONINGS = {
    "8x1x1": eight_devices.mesh(8, 1, 1),
    "2x2x2": eight_devices.mesh(2, 2, 2),
    "1x8x1": eight_devices.mesh(1, 8, 1),
    "1x1x8": eight_devices.mesh(1, 1, 8),
    "pmap": eight_devices.PMAP,
}
STEPS = 5
TOLERANCE = 1e-5


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    """Five steps of a tiny model are over at once; compiling them is what takes time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@functools.cache
def first_state(architecture):
    """Made on one device; as numpy arrays, so that it can be put anywhere."""
    return jax.device_get(eight_devices.one_device(architecture=architecture).create_state())


def trained(run):
    """The sums of each of five steps from the same first state on the same batches."""
    config, partitioner = run.config, run.partitioner
    step = make_train_step(
        config.model, config.loss, config.optimizer, config.schedule, config.train, partitioner.axis_name
    )
    step = partitioner.compile_train_step(step, run.shapes, run.shardings, run.batch_shapes(eight_devices.ROWS))
    state, rows = jax.device_put(first_state(config.model.architecture), run.shardings), []
    for batch in eight_devices.batches(config.model.architecture, STEPS):
        state, sums = step(state, partitioner.put(batch))
        rows.append(jax.device_get(sums))
    assert int(state.step) == STEPS
    return rows


@functools.cache
def trained_on_one_device(architecture):
    return trained(eight_devices.one_device(architecture=architecture))


def assert_close(rows, expected):
    assert rows[0].keys() == expected[0].keys()
    for step, (row, wanted) in enumerate(zip(rows, expected, strict=True)):
        for name, value in wanted.items():
            np.testing.assert_allclose(row[name], value, rtol=TOLERANCE, err_msg=f"{name} of step {step}")


def is_quick(architecture, scan, name):
    """Whether a combination adds much to the others; the rest are marked slow."""
    if not scan:
        return False
    return name in (("2x2x2", "8x1x1", "pmap") if architecture == "encoder_decoder" else ("2x2x2",))


COMBINATIONS = [
    pytest.param(
        *(architecture, scan, name),
        marks=() if is_quick(architecture, scan, name) else pytest.mark.slow,
        id=f"{architecture}-{'scanned' if scan else 'unrolled'}-{name}",
    )
    for architecture in ARCHITECTURES
    for scan in (True, False)
    for name in PARTITIONINGS
]


@pytest.mark.parametrize(("architecture", "scan", "name"), COMBINATIONS)
def test_eight_devices_train_as_one_does(architecture, scan, name):
    run = eight_devices.run(PARTITIONINGS[name], architecture, scan_layers=scan)
    assert_close(trained(run), trained_on_one_device(architecture))


@pytest.mark.parametrize("name", ["2x2x2", pytest.param("pmap", marks=pytest.mark.slow)])
def test_microbatches_change_nothing(name):
    run = eight_devices.run(PARTITIONINGS[name], microbatches=2)
    assert_close(trained(run), trained_on_one_device("encoder_decoder"))


@pytest.mark.slow
def test_six_heads_on_eight_devices_train_as_on_one():
    heads = dict(num_heads=6, head_dim=4)

    def losses(run):
        state = jax.device_put(jax.device_get(eight_devices.one_device(**heads).create_state()), run.shardings)
        return evaluated(run, state.params)

    assert_close(
        [losses(eight_devices.run(PARTITIONINGS["1x1x8"], **heads))], [losses(eight_devices.one_device(**heads))]
    )


def evaluated(run, params):
    config, partitioner = run.config, run.partitioner
    step = partitioner.compile_eval_step(
        make_eval_step(config.model, config.loss, partitioner.axis_name, config.train.num_microbatches),
        run.shapes.params,
        run.shardings.params,
        run.batch_shapes(eight_devices.ROWS),
    )
    return jax.device_get(step(params, partitioner.put(eight_devices.batches(config.model.architecture, 1)[0])))


@pytest.mark.parametrize("architecture", ["encoder_decoder", pytest.param("prefix_lm", marks=pytest.mark.slow)])
def test_eight_devices_evaluate_as_one_does(architecture):
    def sums(run):
        return evaluated(run, jax.device_put(first_state(architecture).params, run.shardings.params))

    alone = sums(eight_devices.one_device(architecture=architecture))
    for name in ("2x2x2", "pmap"):
        assert_close([sums(eight_devices.run(PARTITIONINGS[name], architecture, microbatches=2))], [alone])


@pytest.mark.parametrize("name", ["2x2x2", "pmap"])
def test_a_step_that_is_given_a_limit_skips_on_all_devices(name):
    run = eight_devices.run(PARTITIONINGS[name])
    config, partitioner = run.config, run.partitioner
    train = dataclasses.replace(config.train, on_divergence="skip")
    step = make_train_step(config.model, config.loss, config.optimizer, config.schedule, train, partitioner.axis_name)
    shapes = run.batch_shapes(eight_devices.ROWS)
    step = partitioner.compile_train_step(step, run.shapes, run.shardings, shapes, numbers=1)
    state = jax.device_put(first_state("encoder_decoder"), run.shardings)
    batch = partitioner.put(eight_devices.batches("encoder_decoder", 1)[0])
    skipped = []
    for limit in (np.inf, 0.0):
        before = jax.device_get(state.params)
        state, sums = step(state, batch, np.float32(limit))
        same = jax.tree.map(np.array_equal, before, jax.device_get(state.params))
        skipped.append((float(sums["skipped_update"]), all(same.values())))
    assert skipped == [(0, False), (1, True)]


def test_a_mesh_starts_from_the_numbers_of_one_device():
    made = eight_devices.run(PARTITIONINGS["2x2x2"], "causal_lm").create_state()
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(made), first_state("causal_lm"))


@pytest.mark.parametrize("name", PARTITIONINGS)
def test_the_old_state_is_used_up_and_the_new_one_lies_as_it_did(name):
    run = eight_devices.run(PARTITIONINGS[name])
    add_one = run.partitioner.compile_train_step(
        lambda state, batch: (jax.tree.map(lambda x: x + 1, state), {}),
        *(run.shapes, run.shardings, run.batch_shapes(eight_devices.ROWS)),
    )
    old = eight_devices.random_state(run)
    batch = run.partitioner.put(eight_devices.batches("encoder_decoder", 1)[0])
    new, _ = add_one(old, batch)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old))
    for leaf, sharding in zip(jax.tree.leaves(new), jax.tree.leaves(run.shardings), strict=True):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)


@pytest.mark.parametrize(("name", "ways"), [("8x1x1", 8), ("2x2x2", 4), ("1x8x1", 8), ("1x1x8", 1), ("pmap", 8)])
def test_rows_are_split_over_data_and_fsdp(name, ways):
    partitioner = make_partitioner(PARTITIONINGS[name])
    rows = np.arange(48).reshape(16, 3)
    put = partitioner.put({"tokens": rows})["tokens"]
    assert partitioner.row_ways == ways
    np.testing.assert_array_equal(np.asarray(put).reshape(rows.shape), rows)
    first = {np.asarray(shard.data).reshape(-1, 3)[0, 0] for shard in put.addressable_shards}
    assert first == {16 // ways * part * 3 for part in range(ways)}


@pytest.mark.parametrize("kind", ["mesh", "pmap"])
def test_host_rows_become_a_global_array(kind):
    partitioner = make_partitioner(PartitioningConfig(kind=kind))
    rows = np.arange(jax.device_count() * 6, dtype=np.int32).reshape(-1, 3)
    array = partitioner.put({"x": rows})["x"]
    assert array.sharding == partitioner.rows and array.dtype == np.int32
    np.testing.assert_array_equal(array, rows)


@pytest.mark.parametrize(("data", "fsdp", "model"), [(4, 2, 1), (-1, 2, 1), (4, 1, 1), (1, 1, 8)])
def test_pmap_with_a_mesh_is_refused(data, fsdp, model):
    with pytest.raises(UserError) as error:
        make_partitioner(PartitioningConfig(kind="pmap", data=data, fsdp=fsdp, model=model))
    assert str(error.value) == (
        f"PARTITIONING = 'pmap' is plain data parallelism, but the mesh asks for data={data}, fsdp={fsdp}, "
        f"model={model}; write PARTITIONING = 'mesh', or leave the mesh's sizes out"
    )


@pytest.mark.parametrize("data", [-1, 8])
def test_pmap_over_all_devices(data):
    assert make_partitioner(PartitioningConfig(kind="pmap", data=data)).devices == jax.devices()


@pytest.mark.parametrize("architecture", ["encoder_decoder", pytest.param("causal_lm", marks=pytest.mark.slow)])
def test_nothing_is_made_whole_on_every_device_in_passing(architecture):
    """XLA warns where it finds no other way to a sharding than to copy the whole array to every device.

    The warning is written by C++, where the log level of the process allows it: hence another process, which first
    asks for something that has to be warned about.
    """
    code = f"""
        import jax, sys
        import jax.numpy as jnp
        import eight_devices
        from jax.sharding import NamedSharding, PartitionSpec as P
        from t5x_mini.train.step import make_train_step

        jax.config.update("jax_disable_most_optimizations", True)
        run = eight_devices.run(eight_devices.mesh(2, 2, 2), {architecture!r})
        config, partitioner = run.config, run.partitioner

        batch = NamedSharding(partitioner.mesh, P(("data", "fsdp")))
        table = NamedSharding(partitioner.mesh, P("model", "fsdp"))
        jax.jit(lambda table, tokens: jnp.take(table, tokens, axis=0), out_shardings=batch).lower(
            jax.ShapeDtypeStruct((40, 16), jnp.float32, sharding=table),
            jax.ShapeDtypeStruct((16, 6), jnp.int32, sharding=batch),
        ).compile()
        print("--- now the model", file=sys.stderr, flush=True)
        step = make_train_step(config.model, config.loss, config.optimizer, config.schedule, config.train)
        partitioner.compile_train_step(step, run.shapes, run.shardings, run.batch_shapes(eight_devices.ROWS))
    """
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True, check=True
    )
    warned, model = done.stderr.split("--- now the model")
    assert "Involuntary full rematerialization" in warned
    assert "Involuntary full rematerialization" not in model


def hosts(*rows):
    """A grid of devices, by the processes that hold them."""
    return np.array([[types.SimpleNamespace(process_index=process) for process in row] for row in rows], object)


@pytest.mark.parametrize(
    ("grid", "shares"),
    [
        (hosts([0], [0], [1], [1]), [RowShare(0, 2), RowShare(1, 2)]),
        (hosts([0], [1], [1], [0]), [RowShare(0, 2), RowShare(1, 2)]),  # as on a torus: not consecutive
        (hosts([0, 1], [0, 1], [2, 3], [2, 3]), [RowShare(0, 2), RowShare(0, 2, False), RowShare(1, 2)]),
        (hosts([0, 0, 1, 1]), [RowShare(), RowShare(is_first=False)]),
    ],
)
def test_processes_share_out_the_rows_that_their_devices_hold(grid, shares):
    assert [row_share(grid, process) for process in range(len(shares))] == shares


def test_rows_that_cannot_be_shared_out_are_refused():
    with pytest.raises(UserError) as error:
        row_share(hosts([0, 0, 0], [0, 1, 1], [1, 1, 1]), 0)
    assert str(error.value) == (
        "Rows split 3 ways, with 3 devices for each part, cannot be shared out to 2 processes so that each reads its "
        "own. Write a MESH_MODEL that divides the devices of one host, or is a multiple of them."
    )
