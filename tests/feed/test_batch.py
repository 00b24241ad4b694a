"""Prefetching and the shapes of batches, on a feed without TensorFlow."""

import gc
import itertools
import subprocess
import sys
import threading

import numpy as np
import pytest

from t5x_mini.errors import UserError
from t5x_mini.feed import batch as batch_lib
from t5x_mini.feed.batch import check_feature_lengths, feature_shapes, prefetch
from t5x_mini.feed.config import FeedConfig
from t5x_mini.feed.position import Position


class CountingFeed:
    """Batches 0, 1, 2, …; raises `error` after `length` of them."""

    def __init__(self, length=None, error=None):
        self.length, self.error = length, error
        self.read = 0
        self.sixth = threading.Event()

    def __iter__(self):
        return self

    def __next__(self):
        if self.read == self.length:
            raise self.error or StopIteration
        self.read += 1
        if self.read == 6:
            self.sixth.set()
        return {"x": np.full((2, 3), self.read - 1, np.int32)}

    def position(self):
        return Position({}, b"", self.read)


def numbers(pairs):
    return [(int(batch["x"][0, 0]), position.batches_after_snapshot) for batch, position in pairs]


def prefetch_threads():
    return [thread for thread in threading.enumerate() if thread.name == "prefetch" and thread.is_alive()]


def identity(batch):
    return batch


@pytest.mark.parametrize("depth", [0, 1, 4])
def test_each_batch_comes_in_order_with_its_own_position(depth):
    assert numbers(prefetch(CountingFeed(10), identity, depth)) == [(n, n + 1) for n in range(10)]


def test_depth_0_reads_only_what_is_asked_for():
    feed = CountingFeed()
    numbers(itertools.islice(prefetch(feed, identity, 0), 3))
    assert feed.read == 3


def test_depth_4_is_4_batches_ahead_and_not_5():
    feed = CountingFeed()
    with prefetch(feed, identity, 4) as pairs:
        numbers(itertools.islice(pairs, 2))
        assert feed.sixth.wait(timeout=30)
        assert numbers([next(pairs)]) == [(2, 3)]
    assert feed.read in (6, 7)


@pytest.mark.parametrize("depth", [0, 4])
def test_the_feeds_error_reaches_the_consumer_after_the_good_batches(depth):
    pairs = prefetch(CountingFeed(2, UserError("no such file")), identity, depth)
    assert len(numbers(itertools.islice(pairs, 2))) == 2
    with pytest.raises(UserError, match="no such file"):
        next(pairs)
    assert next(pairs, None) is None


@pytest.mark.parametrize("depth", [0, 4])
def test_an_error_on_the_way_to_the_device_reaches_the_consumer(depth):
    def put(batch):
        raise ValueError("does not divide")

    with pytest.raises(ValueError, match="does not divide"):
        next(prefetch(CountingFeed(), put, depth))


@pytest.mark.parametrize("depth", [0, 4])
def test_closing_ends_the_stream_and_the_thread(depth):
    feed = CountingFeed()
    pairs = prefetch(feed, identity, depth)
    next(pairs)
    pairs.close()
    pairs.close()
    read = feed.read
    assert list(pairs) == []
    assert feed.read == read
    assert not prefetch_threads()


def test_an_abandoned_prefetcher_ends_its_thread():
    pairs = prefetch(CountingFeed(), identity, 4)
    next(pairs)
    assert prefetch_threads()
    del pairs
    gc.collect()
    assert not prefetch_threads()


def test_a_process_ends_with_a_prefetcher_open_and_without_tensorflow():
    script = """
import itertools, sys
from t5x_mini.feed.batch import prefetch
class Feed:
    def __iter__(self): return itertools.count()
    def position(self): return None
pairs = prefetch(Feed(), lambda batch: batch, 4)
assert next(pairs) == (0, None)
assert "tensorflow" not in sys.modules
"""
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 0


@pytest.mark.parametrize("depth", [0, 4])
def test_waiting_is_accounted(depth, monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(batch_lib.time, "perf_counter", lambda: next(ticks))
    with prefetch(CountingFeed(), identity, depth) as pairs:
        assert pairs.waited_s == 0
        numbers(itertools.islice(pairs, 3))
        assert pairs.waited_s == 3


def config(lengths, **fields):
    return FeedConfig(mixture_or_task_name="any", task_feature_lengths=lengths, batch_size=8, **fields)


def test_shapes_of_an_encoder_decoder_batch():
    shapes = feature_shapes(config({"inputs": 512, "targets": 114}, pack=True), "encoder_decoder")
    assert {name: shape.shape for name, shape in shapes.items()} == {
        **dict.fromkeys(["encoder_input_tokens", "encoder_segment_ids", "encoder_positions"], (8, 512)),
        **dict.fromkeys(["decoder_target_tokens", "decoder_input_tokens", "decoder_loss_weights"], (8, 114)),
        **dict.fromkeys(["decoder_segment_ids", "decoder_positions"], (8, 114)),
    }
    assert {shape.dtype for shape in shapes.values()} == {np.dtype(np.int32)}


def test_decoder_only_shapes_need_no_inputs_and_encoder_decoder_ones_do():
    assert {shape.shape for shape in feature_shapes(config({"targets": 626}), "causal_lm").values()} == {(8, 626)}
    with pytest.raises(UserError, match="without a length for 'inputs'. Write {'inputs': …, 'targets': …}"):
        feature_shapes(config({"targets": 626}), "encoder_decoder")


@pytest.mark.parametrize(
    ("lengths", "words"),
    [
        ({"inputs": 8}, "{'inputs': 8}, without a length for 'targets'"),
        ({"inputs": 8, "targets": 4, "suffix": 2}, "there is no feature 'suffix' here"),
        ({"inputs": 0, "targets": 4}, "the length of 'inputs' must be a whole number of tokens, 1 or more"),
        ({"inputs": 8, "targets": 4.5}, "the length of 'targets' must be a whole number"),
    ],
)
def test_wrong_lengths_are_refused(lengths, words):
    with pytest.raises(UserError, match=words):
        check_feature_lengths(lengths, ("inputs", "targets"))
