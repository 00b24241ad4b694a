"""Which task each example of a mixture comes from: a function of the seed and the example's position."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import numpy as np

from t5x_mini.feed.shuffle import generator

CYCLE = 1 << 16


def cycle_counts(rates: Sequence[float], cycle: int = CYCLE) -> list[int]:
    """How many examples of a cycle each task has: by largest remainder, and at least one where its rate is above 0."""
    shares = np.array(rates, np.float64) / sum(rates) * cycle
    counts = np.maximum(np.floor(shares).astype(np.int64), shares > 0)
    by_remainder = np.argsort(counts - shares, kind="stable")
    missing = cycle - counts.sum()
    if missing > 0:
        counts[by_remainder[:missing]] += 1
    while counts.sum() > cycle:  # many tasks got their one; those with most give it
        counts[np.argmax(counts)] -= 1
    return counts.tolist()


class Mixed:
    """For training: cycles of `cycle` examples with fixed counts a task, each in a random order of its own.

    The j-th example of a task stands at the task's own position j, so each task is read in its own order, epoch by
    epoch, whatever the others do.
    """

    def __init__(self, rates: Mapping[str, float], seed: int, cycle: int = CYCLE) -> None:
        self._counts = np.array(cycle_counts(list(rates.values()), cycle))
        self._size, self._seed = cycle, seed
        self._cycle = functools.lru_cache(2)(self._make_cycle)

    def __call__(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(number of the task, position in the task) of each position."""
        if len(self._counts) == 1:
            return np.zeros_like(positions), positions
        numbers, offsets = np.divmod(positions, self._size)
        tasks, ranks = np.empty_like(positions), np.empty_like(positions)
        for number in np.unique(numbers).tolist():
            here = numbers == number
            tasks[here], ranks[here] = (part[offsets[here]] for part in self._cycle(number))
        return tasks, numbers * self._counts[tasks] + ranks

    def _make_cycle(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """(task of each example, how many of the same task come before it in the cycle)"""
        in_turn = np.repeat(np.arange(len(self._counts)), self._counts)
        tasks = generator(self._seed, "mixture", number).permutation(in_turn)
        ranks = np.empty(self._size, np.int64)
        firsts = np.cumsum(self._counts) - self._counts
        ranks[np.argsort(tasks, kind="stable")] = np.arange(self._size) - np.repeat(firsts, self._counts)
        return tasks, ranks


class InTurn:
    """For evaluation: all examples of the first task, then those of the next."""

    def __init__(self, counts: Sequence[int]) -> None:
        self._ends = np.cumsum(counts)
        self._starts = self._ends - np.array(counts)

    def __call__(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(number of the task, position in the task) of each position; positions at the end or behind it are out."""
        positions = positions[positions < self._ends[-1]]
        tasks = np.searchsorted(self._ends, positions, side="right")
        return tasks, positions - self._starts[tasks]
