"""The order in which a task's examples are read: every one exactly once an epoch, and storage in long pieces.

A shuffle has two levels. An epoch's blocks of consecutive examples (some MiB each) are put in random order and read
whole, a buffer of several at a time; the examples of those blocks are then handed out in random order. Each level is a
function of (seed, epoch), so any position can be looked up without what came before it. A corpus that fits in one
buffer is shuffled as a whole.
"""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Iterator

import numpy as np


def generator(seed: int, *key: int | str) -> np.random.Generator:
    """Random numbers that depend on `seed` and `key` alone. Two different keys give unrelated streams."""
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in key]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed % 2**64, spawn_key=words)))


def fingerprint() -> str:
    """Says that this NumPy shuffles as the one did that began a run: NumPy promises it of no version but its own."""
    return f"{zlib.crc32(generator(0, 'fingerprint').permutation(64).astype('<i8').tobytes()):08x}"


@dataclasses.dataclass(frozen=True, eq=False)
class Buffer:
    """Some blocks, and the order in which their examples are handed out.

    Attributes:
        start: position of its first example, counted over all epochs.
        blocks: their numbers, ascending.
        order: int64[examples]: places among the examples of `blocks`, one block behind the other.
        items: int64[examples]: the same examples' numbers in the corpus.
    """

    start: int
    blocks: tuple[int, ...]
    order: np.ndarray
    items: np.ndarray

    @property
    def stop(self) -> int:
        return self.start + len(self.order)


class TwoLevelShuffle:
    """Which of `count` examples stands at which position. Positions go on over epochs, `count` each.

    Args:
        count: examples, at least 1.
        block: examples in each block; the corpus' last may hold fewer.
        blocks_per_buffer: how many blocks are shuffled together.
        seed: of the order; None: as they lie.
        name: tells streams of one seed apart, the tasks of a mixture.
    """

    def __init__(self, count: int, block: int, blocks_per_buffer: int, seed: int | None, name: str = "") -> None:
        self.count, self.block = count, block
        self._seed, self._name, self._blocks_per_buffer = seed, name, blocks_per_buffer
        self._epoch = functools.lru_cache(2)(self._make_epoch)
        self._buffer = functools.lru_cache(2)(self._make_buffer)

    def buffer_at(self, position: int) -> Buffer:
        """The buffer in which a position lies."""
        epoch, offset = divmod(position, self.count)
        _, starts = self._epoch(epoch)
        return self._buffer(epoch, int(np.searchsorted(starts, offset, side="right")) - 1)

    def stretches(self, positions: np.ndarray) -> Iterator[tuple[Buffer, np.ndarray]]:
        """Ascending positions, buffer by buffer: (buffer, offsets into its order)."""
        while len(positions):
            buffer = self.buffer_at(int(positions[0]))
            here = int(np.searchsorted(positions, buffer.stop))
            yield buffer, positions[:here] - buffer.start
            positions = positions[here:]

    def items(self, positions: np.ndarray) -> np.ndarray:
        """The examples at ascending positions, by their numbers in the corpus: int64[positions]."""
        found = [buffer.items[offsets] for buffer, offsets in self.stretches(positions)]
        return np.concatenate([np.zeros(0, np.int64), *found])

    def _make_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """(blocks in the order of reading, positions in the epoch at which buffers start)"""
        blocks = np.arange(-(-self.count // self.block))
        if self._seed is not None:
            blocks = generator(self._seed, "blocks", self._name, epoch).permutation(blocks)
        ends = np.cumsum(self._sizes(blocks))
        return blocks, np.concatenate([[0], ends[self._blocks_per_buffer - 1 : -1 : self._blocks_per_buffer]])

    def _make_buffer(self, epoch: int, number: int) -> Buffer:
        blocks, starts = self._epoch(epoch)
        blocks = np.sort(blocks[number * self._blocks_per_buffer :][: self._blocks_per_buffer])
        sizes = self._sizes(blocks)
        items = np.concatenate(
            [np.arange(size) + block * self.block for block, size in zip(blocks, sizes, strict=True)]
        )
        order = np.arange(len(items))
        if self._seed is not None:
            order = generator(self._seed, "buffer", self._name, epoch, number).permutation(order)
        start = epoch * self.count + int(starts[number])
        return Buffer(start, tuple(blocks.tolist()), order, items[order])

    def _sizes(self, blocks: np.ndarray) -> np.ndarray:
        return np.minimum(self.count - blocks * self.block, self.block)
