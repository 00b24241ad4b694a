"""Tests of t5x_mini/train/memory.py."""

import dataclasses

import pytest
import tiny

from t5x_mini import config as run_config
from t5x_mini.errors import UserError
from t5x_mini.train import memory, run, start


def assembled(rows=16, **partitioning):
    config = run_config.load(["gin/quickstart.gin"], [f"BATCH_SIZE={rows}"])
    changed = dataclasses.replace(config.partitioning, **partitioning)
    return run.assemble(dataclasses.replace(config, model=tiny.model(), partitioning=changed))


@pytest.fixture
def has(monkeypatch):
    """`has(size)`: this machine has so many bytes of memory, or doesn't tell (None)."""
    return lambda size: monkeypatch.setattr(memory, "_memory_bytes", lambda devices: size)


def test_a_state_that_is_larger_than_the_memory_is_refused(has):
    has(1000)
    with pytest.raises(
        UserError, match="parameters and the optimiser's state take .* of memory .*gin/models.*MESH_FSDP"
    ):
        memory.check_fits(assembled())


def test_a_batch_that_is_larger_than_the_memory_is_refused(has):
    has(10**12)
    with pytest.raises(
        UserError, match=r"BATCH_SIZE = 80000000000 rows with TASK_FEATURE_LENGTHS = .* takes \d+ TB here"
    ):
        memory.check_fits(assembled(rows=80_000_000_000))


@pytest.mark.parametrize("size", [10**12, None])
def test_what_fits_or_is_not_known_is_accepted(has, size):
    has(size)
    memory.check_fits(assembled())


def test_a_split_state_takes_less(has):
    whole, split = assembled(), assembled(data=1, fsdp=8)
    sizes = [
        sum(map(memory._bytes_here, *map(memory.jax.tree.leaves, (one.shapes, one.shardings))))
        for one in (whole, split)
    ]
    assert sizes[1] < sizes[0] / 4
    has(sum(sizes) // 2)
    memory.check_fits(split)
    with pytest.raises(UserError, match="take"):
        memory.check_fits(whole)


def test_a_run_is_checked_before_it_starts(has):
    has(1000)
    config = run_config.load(["gin/quickstart.gin"])
    with pytest.raises(UserError, match="optimiser's state take"):
        start.assemble_to_train(dataclasses.replace(config, model=tiny.model()))


def test_this_machine_has_memory():
    assert memory._memory_bytes(memory.jax.devices()) > 1e8
