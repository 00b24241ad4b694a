"""Rows of ids in batches of few shapes, and a host's rows of what comes back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import jax
import numpy as np

from t5x_mini.tasks.vocabularies import EOS_ID

Ids = Sequence[int]
_SHORTEST = 8  # a bucket


def bucket(longest: int, limit: int | None = None) -> int:
    """`longest` rounded up to 8, 12, 16, 24, 32, 48, 64, ..., or to `limit` where that is less.

    So few lengths that compiling for each costs little, and at most a third of the longest row is padding.
    """
    size = _SHORTEST
    while size < longest:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return size if limit is None else min(size, limit)


def power_of_two(longest: int, limit: int | None = None) -> int:
    """`longest` rounded up to 8, 16, 32, 64, ..., or to `limit` where that is less: half as many lengths as `bucket`'s.

    For what is computed so quickly that compiling is most of the time.
    """
    size = max(_SHORTEST, 1 << (longest - 1).bit_length())
    return size if limit is None else min(size, limit)


def batches(lengths: Sequence[int], batch_size: int, ways: int) -> Iterator[tuple[list[int], int]]:
    """Numbers of rows that go together, the longest rows first, and how many rows to fill the batch up to.

    Args:
        lengths: of each row.
        batch_size: rows of a batch at most.
        ways: parts that the devices split a batch into. A batch is filled up to a multiple of it; besides, the last of
            several is filled up to `batch_size`, which takes no other program, and a single one to a power of two, or
            to `batch_size` where that is less.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    count = min(batch_size, 1 << max(len(order) - 1, 0).bit_length())
    for first in range(0, len(order), batch_size):
        yield order[first : first + batch_size], -(-count // ways) * ways


def cut(ids: Ids, limit: int | None) -> list[int]:
    """The first `limit` ids (None: all); what ends in EOS still does, as in the feeds."""
    if limit is None or len(ids) <= limit:
        return list(ids)
    return [*ids[: limit - 1], EOS_ID] if ids[-1] == EOS_ID else list(ids[:limit])


def padded(rows: Sequence[Ids], count: int, length: int) -> np.ndarray:
    """int32 `[count, length]`. What is filled up repeats the first row, which ends when the first row does."""
    padded = np.zeros((count, length), np.int32)
    for row in range(count):
        ids = rows[row] if row < len(rows) else rows[0] if rows else [EOS_ID]
        padded[row, : len(ids)] = ids
    return padded


def own_rows(array: jax.Array) -> np.ndarray:
    """This host's rows of an array that is split over rows; those that several devices hold, once."""
    shards = {shard.index[0].start or 0: shard.data for shard in array.addressable_shards}
    return np.concatenate([np.asarray(shards[start]) for start in sorted(shards)])
