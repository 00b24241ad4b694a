"""Whether a model fits where every device holds all of it."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import jax

from t5x_mini.errors import UserError

_LEFT_FOR_ACTIVATIONS = 0.9  # of the memory, what the state and the gradients may take before it is hopeless


def check_replicated(state: Any, trained: Any, devices: Sequence[jax.Device]) -> None:
    """Raises UserError, with the mesh to use, where a device hasn't the memory for a copy of the state.

    Args:
        state: shapes of everything that lives from step to step.
        trained: shapes of the parameters that get a gradient, which is as large as they are.
        devices: that hold a copy each. Where none is here, or they don't tell their memory, nothing is refused.
    """
    here = [device for device in devices if device in jax.local_devices()]
    memory = device_memory(here[0]) if here else None
    needed = tree_bytes(state) + tree_bytes(trained)
    if memory is None or needed <= _LEFT_FOR_ACTIVATIONS * memory:
        return
    raise UserError(
        f"PARTITIONING = 'pmap' puts a copy of the model on every device. Parameters, optimiser state and gradients "
        f"take {_gib(needed)}, and a device has {_gib(memory)}. {_advice(needed, memory, len(devices))}"
    )


def tree_bytes(shapes: Any) -> int:
    """Bytes of all arrays of a tree."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


def device_memory(device: jax.Device) -> int | None:
    """Bytes that a device can hold; of a CPU, its part of the machine's; None where that isn't known."""
    if device.platform == "cpu":
        machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return machine // jax.local_device_count()
    return (device.memory_stats() or {}).get("bytes_limit")


def _advice(needed: int, memory: int, devices: int) -> str:
    ways = [n for n in range(2, devices + 1) if devices % n == 0 and needed / n <= _LEFT_FOR_ACTIVATIONS * memory]
    if not ways:
        wanted = math.ceil(needed / (_LEFT_FOR_ACTIVATIONS * memory))
        return (
            f"Split over the {devices} there are, it does not fit either: write --gin.PARTITIONING=mesh "
            f"--gin.MESH_FSDP=-1 --gin.MESH_DATA=1, and use {wanted} devices or more."
        )
    return (
        f"Split it over {ways[0]} of the {devices}: write --gin.PARTITIONING=mesh --gin.MESH_FSDP={ways[0]} (and more "
        "where the activations don't fit)."
    )


def _gib(size: float) -> str:
    return f"{size / 2**30:,.1f} GiB"
