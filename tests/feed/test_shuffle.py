"""Every example exactly once an epoch, in long pieces, in an order that is random and can be looked up anywhere."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from t5x_mini.feed import shuffle
from t5x_mini.feed.shuffle import TwoLevelShuffle

sizes = dict(count=st.integers(1, 200), block=st.integers(1, 30), buffer=st.integers(1, 5), seed=st.integers(-3, 2**40))


@given(**sizes, batch=st.integers(1, 50), epochs=st.integers(1, 3))
@settings(max_examples=100, deadline=None)
def test_every_example_exactly_once_an_epoch(count, block, buffer, seed, batch, epochs):
    order = TwoLevelShuffle(count, block, buffer, seed)
    starts = range(0, count * epochs, batch)
    found = np.concatenate([order.items(np.arange(start, start + batch)) for start in starts])[: count * epochs]
    for epoch in found.reshape(epochs, count):
        assert sorted(epoch.tolist()) == list(range(count))


@given(**sizes, data=st.data())
@settings(max_examples=100, deadline=None)
def test_any_position_can_be_looked_up_alone(count, block, buffer, seed, data):
    whole = TwoLevelShuffle(count, block, buffer, seed).items(np.arange(3 * count))
    position = data.draw(st.integers(0, 3 * count - 1))
    alone = TwoLevelShuffle(count, block, buffer, seed)
    assert alone.items(np.array([position])) == whole[position]
    some = np.sort(np.array(data.draw(st.lists(st.integers(0, 3 * count - 1), unique=True))).astype(np.int64))
    np.testing.assert_array_equal(alone.items(some), whole[some])


@given(**sizes)
@settings(max_examples=50, deadline=None)
def test_a_buffer_is_made_of_a_few_whole_blocks(count, block, buffer, seed):
    order = TwoLevelShuffle(count, block, buffer, seed)
    position = 0
    while position < count:
        here = order.buffer_at(position)
        assert here.start == position
        assert len(here.blocks) <= buffer and list(here.blocks) == sorted(here.blocks)
        stored = [item for b in here.blocks for item in range(b * block, min((b + 1) * block, count))]
        assert np.array(stored)[here.order].tolist() == here.items.tolist()
        position = here.stop
    assert position == count


@given(count=st.integers(1, 100), block=st.integers(1, 30))
@settings(max_examples=30, deadline=None)
def test_without_a_seed_nothing_is_shuffled(count, block):
    order = TwoLevelShuffle(count, block, 2, None)
    np.testing.assert_array_equal(order.items(np.arange(2 * count)), np.arange(2 * count) % count)


def test_epochs_seeds_and_names_have_orders_of_their_own():
    def order(seed, name="", epoch=0):
        return TwoLevelShuffle(500, 20, 16, seed, name).items(np.arange(500) + 500 * epoch)

    orders = [order(0), order(1), order(0, "other"), order(0, epoch=1), np.arange(500)]
    for index, one in enumerate(orders):
        for other in orders[:index]:
            assert (one == other).mean() < 0.05


def test_neighbours_are_parted_and_no_place_is_preferred():
    order = TwoLevelShuffle(4096, 16, 16, 0)  # 16 buffers of 16 blocks of 16
    items = np.stack([order.items(np.arange(4096) + 4096 * epoch) for epoch in range(30)])
    assert (np.abs(np.diff(items)) == 1).mean() < 0.02
    # Where each example stands on the average of 30 epochs: 2048, with a standard error of 216.
    mean_place = np.argsort(items, axis=1).mean(axis=0)
    assert np.abs(mean_place - 2047.5).max() < 5 * 4096 / np.sqrt(12 * 30)
    # A batch comes from all over the corpus: the eight eighths have their share in the first buffer.
    eighths = np.bincount(items[:, :256].ravel() // 512, minlength=8) / (256 * 30)
    assert np.abs(eighths - 1 / 8).max() < 0.06


def test_a_small_corpus_is_shuffled_as_a_whole():
    items = TwoLevelShuffle(64, 4, 16, 0).items(np.arange(64))  # 16 blocks: one buffer
    assert len(set(items[:8] // 4)) > 4


def test_generators_of_different_keys_are_unrelated():
    keys = [(0, "a"), (0, "b"), (1, "a"), (0, "a", 0), (0, "a", 1), (0, 0, "a"), (0,)]
    draws = [shuffle.generator(*key).integers(0, 2**62) for key in keys]
    assert len(set(draws)) == len(keys)
    assert draws == [shuffle.generator(*key).integers(0, 2**62) for key in keys]


def test_this_numpy_shuffles_as_those_before_it():
    # Runs go on in the order in which they began only as long as this holds; else their positions are refused.
    assert shuffle.fingerprint() == "87ca31e7"
