"""What several processes do together: share answers, wait for one another, and let the first one decide."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from typing import TypeVar

import jax
import numpy as np
from jax._src import distributed  # JAX's own services have no public barrier
from jax.experimental import multihost_utils

from t5x_mini.errors import UserError
from t5x_mini.parallel import plain

T = TypeVar("T")
_SHOWN = 5
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")  # of an object without a __repr__: another in every process
_DAY_MS = 24 * 60 * 60 * 1000
_numbers = itertools.count()  # JAX wants another name for each time


def gather(value: T) -> list[T]:
    """Every host's value, in the hosts' order, on all of them; all call it together.

    Values are plain (`plain.to_bytes`), and may be of any size.
    """
    if jax.process_count() == 1:
        return [value]
    wait_for_all("something to share")
    data = np.frombuffer(plain.to_bytes(value), np.uint8)
    sizes = np.ravel(multihost_utils.process_allgather(np.int32(len(data))))
    rows = multihost_utils.process_allgather(np.pad(data, (0, int(sizes.max()) - len(data))))
    return [plain.from_bytes(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]


def check_same(settings: Mapping[str, str]) -> None:
    """Raises UserError, on all hosts, unless these settings, by name, are the same on all of them."""
    first, *others = gather({name: _ADDRESS.sub("", value) for name, value in settings.items()})
    lines = [
        f"    {name}: {first.get(name)} in process 0, {other.get(name)} in process {number}"
        for number, other in enumerate(others, start=1)
        for name in {**first, **other}
        if other.get(name) != first.get(name)
    ]
    if lines:
        more = [f"    and {len(lines) - _SHOWN:,} more"] if len(lines) > _SHOWN else []
        raise UserError(
            "The processes of this run are configured differently:\n"
            + "\n".join([*lines[:_SHOWN], *more])
            + "\nStart the same command, with the same files, on every host."
        )


def wait_for_all(reason: str) -> None:
    """Returns once every host has called it, for the same reason and as often."""
    if jax.process_count() > 1:
        # Not by the devices: their messages between CPUs are given up after 30 s, and one host may compile for longer.
        distributed.global_state.client.wait_at_barrier(f"{reason} {next(_numbers)}", _DAY_MS)


def on_first(function: Callable[[], T]) -> T:
    """What the function gives on the first host, on all of them.

    Raises:
        UserError: that the function raises there, on all of them.
    """
    found: tuple[T | None, str | None] = (None, None)
    if jax.process_index() == 0:
        try:
            found = function(), None
        except UserError as raised:
            found = None, str(raised)
    value, error = gather(found)[0]
    if error is None:
        return value
    raise UserError(error if jax.process_index() == 0 else "Nothing is written; the first host says why.")


def say(text: str) -> None:
    """Prints the text on the first host."""
    if jax.process_index() == 0:
        print(text, flush=True)
