"""Whether a run's arrays can be here at all: refused before anything is made of them, rather than by the system.

What a step needs on top (activations, gradients) only the compiler knows: `t5x-mini plan` asks it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np

from t5x_mini.errors import UserError

if TYPE_CHECKING:
    from t5x_mini.train.run import Run


def check_fits(run: Run) -> None:
    """Compares what this process has to hold, a share of the state and of a batch, with the memory that there is.

    Raises:
        UserError: it is more. Nothing is said where a device doesn't tell how much it has.
    """
    memory = _memory_bytes(run.partitioner.mesh.local_devices)
    if memory is None:
        return
    state = sum(map(_bytes_here, jax.tree.leaves(run.shapes), jax.tree.leaves(run.shardings)))
    rows = run.config.feed.batch_size
    batch = sum(_size(shape.shape, shape.dtype) for shape in run.batch_shapes(rows).values()) // jax.process_count()
    if state > memory:
        raise UserError(
            f"The model's parameters and the optimiser's state take {_words(state)} here, of {_words(memory)} of "
            "memory that there are. Choose a smaller model (gin/models), split it over more devices (MESH_FSDP, "
            "MESH_MODEL), or ask `t5x-mini plan` which hardware it would fit."
        )
    if batch > memory:
        raise UserError(
            f"A batch of BATCH_SIZE = {rows} rows with TASK_FEATURE_LENGTHS = "
            f"{dict(run.config.feed.task_feature_lengths)} takes {_words(batch)} here, of {_words(memory)} of memory "
            "that there are. Write smaller ones."
        )


def _memory_bytes(devices: Sequence[jax.Device]) -> int | None:
    """Of the devices together; CPU devices share the machine's. None: not known."""
    if devices[0].platform == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in devices]
    return None if None in limits else sum(limits)


def _bytes_here(shape: jax.ShapeDtypeStruct, sharding: jax.sharding.Sharding) -> int:
    """Of an array, on all devices of this process together."""
    return len(sharding.addressable_devices) * _size(sharding.shard_shape(shape.shape), shape.dtype)


def _size(shape: tuple[int, ...], dtype: np.dtype) -> int:
    return math.prod(shape) * dtype.itemsize


def _words(size: int) -> str:
    return f"{size / 1e12:,.0f} TB" if size >= 1e13 else f"{size / 1e9:,.0f} GB"
