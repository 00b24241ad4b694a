"""Which task each row comes from: counts, order, and that no example of a task is skipped or repeated."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from t5x_mini.feed.row_plan import InTurn, Mixed, cycle_counts

rates = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=8)


def names(rates):
    return {str(number): rate for number, rate in enumerate(rates)}


@given(rates=rates, cycle=st.integers(8, 1000))
def test_counts_are_proportional_and_none_is_forgotten(rates, cycle):
    counts = cycle_counts(rates, cycle)
    assert sum(counts) == cycle
    assert min(counts) >= 1
    shares = np.array(rates) / sum(rates) * cycle
    if shares.min() >= 1:
        assert np.abs(np.array(counts) - shares).max() < 1


def test_counts_by_largest_remainder():
    assert cycle_counts([1, 1, 1], 10) == [4, 3, 3]
    assert cycle_counts([0.5, 0.26, 0.24], 10) == [5, 3, 2]
    assert cycle_counts([1000, 1, 0], 10) == [9, 1, 0]


@given(rates=rates, seed=st.integers(0, 2**40), cycle=st.integers(8, 50), batch=st.integers(1, 70))
@settings(max_examples=60, deadline=None)
def test_each_task_is_read_in_its_own_order_without_gaps(rates, seed, cycle, batch):
    plan = Mixed(names(rates), seed, cycle)
    parts = [plan(np.arange(start, start + batch)) for start in range(0, 4 * cycle, batch)]
    tasks, positions = (np.concatenate(part)[: 4 * cycle] for part in zip(*parts, strict=True))
    counts = cycle_counts(rates, cycle)
    for task, count in enumerate(counts):
        np.testing.assert_array_equal(positions[tasks == task], np.arange(4 * count))
    for start in range(0, 4 * cycle, cycle):
        assert np.bincount(tasks[start : start + cycle], minlength=len(counts)).tolist() == counts
    # The same from anywhere.
    again = Mixed(names(rates), seed, cycle)(np.arange(cycle // 2, 3 * cycle))
    np.testing.assert_array_equal(again[0], tasks[cycle // 2 : 3 * cycle])
    np.testing.assert_array_equal(again[1], positions[cycle // 2 : 3 * cycle])


def test_the_order_depends_on_seed_and_cycle_and_looks_random():
    rows = np.arange(1 << 16)
    first, _ = Mixed({"a": 0.5, "b": 0.5}, 0)(rows)
    other_seed, _ = Mixed({"a": 0.5, "b": 0.5}, 1)(rows)
    next_cycle, _ = Mixed({"a": 0.5, "b": 0.5}, 0)(rows + (1 << 16))
    for order in (other_seed, next_cycle):
        assert 0.45 < (order == first).mean() < 0.55
    assert 0.45 < (first[1:] == first[:-1]).mean() < 0.55


@given(counts=st.lists(st.integers(1, 20), min_size=1, max_size=5), batch=st.integers(1, 30))
def test_in_turn_reads_one_task_after_the_other_and_stops(counts, batch):
    plan = InTurn(counts)
    parts = [plan(np.arange(start, start + batch)) for start in range(0, sum(counts) + batch, batch)]
    tasks, positions = (np.concatenate(part).tolist() for part in zip(*parts, strict=True))
    assert list(zip(tasks, positions, strict=True)) == [
        (task, position) for task, count in enumerate(counts) for position in range(count)
    ]
