"""What several processes do together: share answers, wait for one another, and let the first one decide."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from t5x_mini.errors import UserError

T = TypeVar("T")


def gather(value: T) -> list[T]:
    """Every host's value, in the hosts' order, on all of them; all call it together. Values may be of any size."""
    if jax.process_count() == 1:
        return [value]
    data = np.frombuffer(pickle.dumps(value), np.uint8)
    sizes = np.ravel(multihost_utils.process_allgather(np.int32(len(data))))
    rows = multihost_utils.process_allgather(np.pad(data, (0, int(sizes.max()) - len(data))))
    return [pickle.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]


def wait_for_all(reason: str) -> None:
    """Returns once every host has called it."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(reason)


def on_first(function: Callable[[], T]) -> T:
    """What the function gives on the first host, on all of them.

    Raises:
        UserError: that the function raises there, on all of them.
    """
    found: tuple[T | None, UserError | None] = (None, None)
    if jax.process_index() == 0:
        try:
            found = function(), None
        except UserError as raised:
            found = None, raised
    value, error = gather(found)[0]
    if error is None:
        return value
    raise error if jax.process_index() == 0 else UserError("Nothing is written; the first host says why.")


def say(text: str) -> None:
    """Prints the text on the first host."""
    if jax.process_index() == 0:
        print(text, flush=True)
