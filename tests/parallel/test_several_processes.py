"""Two and four real processes train as one does, however rows, parameters and layers lie over them."""

import json
import os
import subprocess
import sys

import eight_devices
import numpy as np
import pytest
from processes import Processes, free_port

from t5x_mini.train.start import compile_step

STEPS = 3

# Says how the batch is read and what each step gives, for every mesh, as JSON.
DRIVER = """
import json, sys
out, coordinator, count, index, meshes = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
from t5x_mini.parallel import hosts, mesh, start_up
start_up.join(coordinator, count, index)
import eight_devices, jax
from t5x_mini.errors import UserError
from t5x_mini.parallel.config import PartitioningConfig
from t5x_mini.train.start import compile_step

def trained(partitioning):
    run = eight_devices.run(partitioning, "causal_lm", num_decoder_layers=1)
    step, part, state = compile_step(run), run.partitioner.row_share, run.create_state()
    size = eight_devices.ROWS // part.count
    hosts.wait_for_all("the first step")
    rows = []
    for batch in eight_devices.batches("causal_lm", int(sys.argv[6])):
        own = {name: values[part.index * size :][:size] for name, values in batch.items()}
        state, sums = step(state, run.partitioner.put(own))
        rows.append({name: float(sums[name]) for name in ("loss", "grad_norm", "param_norm", "correct")})
    return rows, [part.index, part.count, part.is_first], mesh.describe(run.partitioner.mesh)

found = {
    name: trained(eight_devices.PMAP if name == "pmap" else eight_devices.mesh(*map(int, name.split("x"))))
    for name in meshes.split(",")
}
try:
    hosts.check_same({"TrainConfig.random_seed": str(index), "TrainConfig.train_steps": "5"})
    found["refused"] = None
except UserError as error:
    found["refused"] = str(error)
with open(out, "w") as file:
    json.dump(found, file)
start_up.leave(0)
"""


def trained(folder, count, devices, meshes):
    """What each process found."""
    (folder / "driver.py").write_text(DRIVER)
    outs = [folder / f"{count}-{number}.json" for number in range(count)]
    address = f"localhost:{free_port()}"
    commands = [["driver.py", out, address, count, number, ",".join(meshes), STEPS] for number, out in enumerate(outs)]
    with Processes(commands, folder, f"{count}", devices) as processes:
        processes.succeed()
    return [json.loads(out.read_text()) for out in outs]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("several")


@pytest.fixture(scope="module")
def alone():
    """What one device gives."""
    run = eight_devices.one_device(architecture="causal_lm", num_decoder_layers=1)
    step, state, rows = compile_step(run), run.create_state(), []
    for batch in eight_devices.batches("causal_lm", STEPS):
        state, sums = step(state, run.partitioner.put(batch))
        rows.append({name: float(sums[name]) for name in ("loss", "grad_norm", "param_norm", "correct")})
    return rows


def check(found, alone):
    refused = {process.pop("refused") for process in found}
    assert len(refused) == 1
    for process in found:
        for name, (rows, _, _) in process.items():
            for row, wanted in zip(rows, alone, strict=True):
                for key in wanted:
                    np.testing.assert_allclose(row[key], wanted[key], rtol=1e-5, err_msg=f"{key} on {name}")
    return refused.pop()


def shares(found, name):
    return [process[name][1] for process in found]


@pytest.mark.slow
def test_parameters_split_over_two_processes(folder, alone):
    found = trained(folder, 2, 2, ["4x1x1", "1x4x1"])
    check(found, alone)
    assert found[0]["1x4x1"][1:] == [[0, 2, True], "4 device(s) (cpu) of 2 processes: data 1 x fsdp 4 x model 1"]


def test_two_processes_train_as_one(folder, alone):
    # Over 1x1x4, `model` reaches from one process into the other: both read all rows.
    found = trained(folder, 2, 2, ["1x1x4", "pmap"])
    refused = check(found, alone)
    assert refused == (
        "The processes of this run are configured differently:\n"
        "    TrainConfig.random_seed: 0 in process 0, 1 in process 1\n"
        "Start the same command, with the same files, on every host."
    )
    assert shares(found, "pmap") == [[0, 2, True], [1, 2, True]]
    assert shares(found, "1x1x4") == [[0, 1, True], [0, 1, False]]


@pytest.mark.slow
def test_four_processes_train_as_one(folder, alone):
    found = trained(folder, 4, 4, ["16x1x1", "2x2x4", "2x1x8", "pmap"])
    check(found, alone)
    assert shares(found, "2x1x8") == [[0, 2, True], [0, 2, False], [1, 2, True], [1, 2, False]]


def test_one_without_the_others_says_what_it_waits_for(folder):
    code = "from t5x_mini.parallel import start_up; start_up._QUIET_S = 0.1; start_up.join('localhost:1', 2, 1)"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, env=environment)
    try:
        line = process.stderr.readline()
    finally:
        process.kill()
        process.communicate()
    assert line == (
        "waiting for the other processes of this run (this is 1 of 2; 0 is at localhost:1). If they don't come within "
        "300 s, JAX ends this one: start the command on every host; --num_processes=1 runs on this host alone.\n"
    )
