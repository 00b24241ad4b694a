"""Batch k is a function of (seed, k): on any number of hosts, after any restart, every window once an epoch."""

import dataclasses
import itertools
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from token_stores import FIRST_TOKEN, AsItIs, examples, make_config, make_feed, stream, windows_in

from t5x_mini.errors import UserError
from t5x_mini.feed import shuffle, token_feed, token_sources
from t5x_mini.feed.batch import feature_shapes, prefetch
from t5x_mini.feed.position import Position
from t5x_mini.feed.row_plan import cycle_counts
from t5x_mini.tasks.objectives import IidDenoising, SpanCorruption
from t5x_mini.tokens.store import TokenStore

BOTH = {"inputs": 16, "targets": 8}
TARGETS = {"targets": 8}
ARCHITECTURES = ("encoder_decoder", "prefix_lm", "causal_lm")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tokens")


@pytest.fixture(scope="module")
def text(folder):
    """2003 tokens: 250 windows of 8, or 117 of 17."""
    return stream(folder, 2003)


@pytest.fixture(scope="module")
def plain(text):
    return dataclasses.replace(text, objective=AsItIs())


@pytest.fixture(scope="module")
def pairs(folder):
    return examples(folder, 61)


def take(feed, count):
    return list(itertools.islice(feed, count))


def assert_same(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        assert batch.keys() == other.keys()
        for name in batch:
            np.testing.assert_array_equal(batch[name], other[name], err_msg=name)


def joined(shares):
    """Global batches of every host's."""
    return [
        {name: np.concatenate([batch[name] for batch in parts]) for name in parts[0]}
        for parts in zip(*shares, strict=True)
    ]


def blocks_of(monkeypatch, block_bytes, blocks_per_buffer):
    monkeypatch.setattr(token_sources, "BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(token_sources, "BLOCKS_PER_BUFFER", blocks_per_buffer)


# Every window exactly once an epoch


@given(
    length=st.integers(3, 300),
    batch=st.integers(1, 300),
    block=st.integers(1, 3000),
    buffer=st.integers(1, 4),
    seed=st.integers(0, 9),
)
@settings(max_examples=40, deadline=None)
def test_every_window_exactly_once_an_epoch(plain, length, batch, block, buffer, seed):
    with pytest.MonkeyPatch.context() as patch:
        blocks_of(patch, block, buffer)
        feed = make_feed([plain], "causal_lm", task_feature_lengths={"targets": length}, batch_size=batch, seed=seed)
        count = 2003 // length
        seen = windows_in(take(feed, -(-2 * count // batch)), length)[: 2 * count]
    for epoch in seen.reshape(2, count):
        assert sorted(epoch.tolist()) == list(range(count))


def test_windows_are_shuffled_differently_each_epoch(plain):
    seen = windows_in(take(make_feed([plain], "causal_lm", task_feature_lengths=TARGETS, batch_size=250), 2), 8)
    first, second = seen.reshape(2, 250)
    assert (first == second).mean() < 0.05
    assert (np.diff(first) == 1).mean() < 0.05


def test_without_shuffling_windows_come_in_order(plain):
    feed = make_feed([plain], "causal_lm", task_feature_lengths=TARGETS, shuffle=False)
    np.testing.assert_array_equal(windows_in(take(feed, 40), 8), np.arange(320) % 250)


def test_what_is_left_over_is_told(text):
    assert make_feed([text]).describe() == [
        "toy: 117 windows of 17 tokens an epoch; 14 tokens at the end of the text are left over"
    ]


def test_examples_of_names_the_windows_of_a_batch(plain):
    feed = make_feed([plain], "causal_lm", task_feature_lengths=TARGETS)
    for k in (0, 3, 70):
        ((name, windows),) = feed.examples_of(k)
        assert name == "toy"
        assert windows.tolist() == windows_in([feed.batch(k)], 8).tolist()


# Any number of hosts


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("batch_size", [8, 264])  # within a lane, and over three of them
def test_hosts_make_the_rows_of_the_one_host_batch(text, architecture, pack, batch_size):
    options = dict(architecture=architecture, pack=pack, batch_size=batch_size)
    whole = take(make_feed([text], **options), 3)
    for hosts in (2, 4, 8):
        shares = [take(make_feed([text], host_index=host, host_count=hosts, **options), 3) for host in range(hosts)]
        assert_same(joined(shares), whole)


def test_hosts_share_mixtures_and_evaluation_too(text, pairs):
    for options in ({"batch_size": 16}, {"batch_size": 16, "repeat": False}):
        whole = take(make_feed([text, pairs], **options), 20)
        for hosts in (2, 8):
            shares = [
                take(make_feed([text, pairs], host_index=host, host_count=hosts, **options), 20)
                for host in range(hosts)
            ]
            assert_same(joined(shares), whole)


def test_a_host_makes_few_rows_that_are_not_its_own(text, monkeypatch):
    made = []
    original = SpanCorruption.__call__

    def counting(self, tokens, rng, vocabulary):
        made.append(len(tokens))
        return original(self, tokens, rng, vocabulary)

    monkeypatch.setattr(SpanCorruption, "__call__", counting)
    next(make_feed([text], batch_size=4096, host_index=5, host_count=8))
    assert sum(made) == 512
    made.clear()
    next(make_feed([text], batch_size=4096, host_index=5, host_count=64))
    assert sum(made) == token_feed.LANE


def test_rows_that_hosts_cannot_share_equally_are_refused(text):
    with pytest.raises(UserError, match=r"BATCH_SIZE is 8; it must be a positive multiple of the 3 host\(s\)"):
        make_feed([text], host_count=3)


# Restarts


@pytest.mark.parametrize(("hosts_before", "hosts_after"), [(1, 1), (1, 2), (4, 1), (2, 8)])
@pytest.mark.parametrize("done", [1, 17, 40])
def test_a_restored_feed_goes_on_exactly_on_any_number_of_hosts(text, pairs, done, hosts_before, hosts_after):
    whole = take(make_feed([text, pairs]), done + 3)
    feed = make_feed([text, pairs], host_index=hosts_before - 1, host_count=hosts_before)
    take(feed, done)
    saved = feed.position().to_bytes()
    shares = []
    for host in range(hosts_after):
        feed = make_feed([text, pairs], host_index=host, host_count=hosts_after)
        feed.restore(Position.from_bytes(saved))
        assert feed.position() == Position.from_bytes(saved)
        shares.append(take(feed, 3))
    assert_same(joined(shares), whole[done:])


def test_positions_are_those_of_the_batches_handed_out(text):
    with prefetch(make_feed([text]), lambda batch: batch, 4) as pairs:
        batches, positions = zip(*take(pairs, 6), strict=True)
    feed = make_feed([text])
    feed.restore(positions[2])
    assert_same(take(feed, 3), batches[3:])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(seed=2), "seed: 1 when it was saved, 2 now"),
        (dict(batch_size=16), "batch_size: 8 when it was saved, 16 now"),
        (
            dict(task_feature_lengths={"inputs": 20, "targets": 8}),
            "task_feature_lengths: {'inputs': 16, 'targets': 8} when",
        ),
        (dict(architecture="causal_lm"), "architecture: encoder_decoder when it was saved, causal_lm now"),
        (dict(pack=True), "pack: False when it was saved, True now"),
        (dict(shuffle=False), "shuffle: True when it was saved, False now"),
    ],
)
def test_another_streams_position_is_refused(text, change, words):
    feed = make_feed([text], **change)
    with pytest.raises(UserError) as refused:
        feed.restore(make_feed([text]).position())
    assert words in str(refused.value)
    assert str(refused.value).count("when it was saved") == 1


def test_another_objective_store_rate_or_numpy_is_refused(text, pairs, tmp_path, monkeypatch):
    saved = make_feed([text, pairs]).position()
    other_objective = dataclasses.replace(text, objective=SpanCorruption(mean_span=2.0))
    with pytest.raises(UserError, match=r"objective of toy: SpanCorruption\(.*mean_span=3.0.* when .*mean_span=2.0"):
        make_feed([other_objective, pairs]).restore(saved)
    with pytest.raises(UserError, match="rate of pairs: 1.0 when it was saved, 0.5 now"):
        make_feed([text, dataclasses.replace(pairs, rate=0.5)]).restore(saved)
    with pytest.raises(UserError, match="tokens of toy: 2,003 tokens, .* when it was saved, 2,004 tokens"):
        make_feed([stream(tmp_path, 2004), pairs]).restore(saved)
    monkeypatch.setattr(shuffle, "fingerprint", lambda: "another")
    with pytest.raises(UserError, match="random_numbers"):
        make_feed([text, pairs]).restore(saved)


# Objectives and features


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_batches_have_the_shapes_that_were_promised(text, architecture, pack):
    batch = next(make_feed([text], architecture, pack=pack))
    promised = feature_shapes(make_config(pack=pack), architecture)
    assert {name: (rows.shape, rows.dtype) for name, rows in batch.items()} == {
        name: (shape.shape, shape.dtype) for name, shape in promised.items()
    }


def test_masks_are_drawn_anew_each_epoch_and_row(text):
    # 2003 tokens are 28 windows of 70; up to 30 tokens T5's mask is always the same.
    feed = make_feed([text], task_feature_lengths={"inputs": 64, "targets": 18}, batch_size=28, shuffle=False)
    first, second = (batch["decoder_target_tokens"] for batch in take(feed, 2))
    assert (first != second).any(axis=1).mean() > 0.5
    sentinels = first > 30_000
    assert len({tuple(row) for row in sentinels.tolist()}) > 1


def test_span_corruption_keeps_the_whole_window(text):
    for batch in take(make_feed([text], seed=5), 3):
        for inputs, targets in zip(batch["encoder_input_tokens"], batch["decoder_target_tokens"], strict=True):
            kept = sorted(token for token in [*inputs, *targets] if 1 < token < 30_000)
            assert len(kept) == 17
            assert kept == list(range(kept[0], kept[0] + 17))


def test_packed_rows_hold_several_windows(plain):
    task = dataclasses.replace(plain, objective=AsItIs(examples_per_row=4))
    feed = make_feed([task], "causal_lm", task_feature_lengths={"targets": 32}, pack=True)
    batches = take(feed, 16)  # 512 windows
    seen = windows_in(batches, 8)
    assert sorted(seen[:250]) == sorted(seen[250:500]) == list(range(250))
    np.testing.assert_array_equal(batches[0]["decoder_segment_ids"], np.tile(np.repeat([1, 2, 3, 4], 8), (8, 1)))


def test_rows_of_a_packed_mixture_hold_windows_of_one_task(plain, folder):
    four = dataclasses.replace(plain, objective=AsItIs(examples_per_row=4))
    two = stream(folder, 1600, "two", objective=AsItIs(examples_per_row=2))
    options = dict(architecture="causal_lm", task_feature_lengths={"targets": 32}, pack=True, batch_size=64)
    feed = make_feed([four, two], **options)
    batch = feed.batch(0)
    per_row = batch["decoder_segment_ids"].max(axis=1)
    assert set(per_row.tolist()) == {2, 4}
    (_, fours), (_, twos) = feed.examples_of(0)
    assert len(fours) == 4 * (per_row == 4).sum() and len(twos) == 2 * (per_row == 2).sum()
    assert (batch["decoder_target_tokens"] != 0).all()
    shares = [[make_feed([four, two], host_index=host, host_count=4, **options).batch(0)] for host in range(4)]
    assert_same(joined(shares), [batch])
    evaluated = list(make_feed([four, two], repeat=False, **options))
    tokens = np.concatenate([batch["decoder_target_tokens"] for batch in evaluated])
    assert tokens[tokens != 0].tolist() == [*range(2, 2002), *range(2, 1602)]


def test_packing_examples_of_unequal_lengths_is_refused(pairs):
    with pytest.raises(UserError, match="PACK is True, but the token feed does not pack .*'pairs'.*DATA_FEED=seqio"):
        make_feed([pairs], pack=True)


def test_targets_alone_do_not_suit_an_encoder(plain):
    with pytest.raises(UserError, match="no feature 'inputs', which architecture 'encoder_decoder' needs"):
        make_feed([plain])
    with pytest.raises(UserError, match="there is no feature 'inputs' here"):
        make_feed([plain], "causal_lm")


def test_tasks_of_a_mixture_need_the_same_features(plain, pairs):
    with pytest.raises(
        UserError, match="'pairs' has the features inputs, targets, and 'toy' in the same mixture has targets"
    ):
        make_feed([plain, pairs], "causal_lm")


def test_too_little_text_is_refused(tmp_path):
    with pytest.raises(UserError, match="are 16, and an example of .* takes a window of 17"):
        make_feed([stream(tmp_path, 16)])


# Supervised examples


def test_examples_are_padded_and_cut_with_eos(pairs):
    lengths = {"inputs": 4, "targets": 3}
    batch = make_feed([pairs], repeat=False, task_feature_lengths=lengths, batch_size=61).batch(0)
    for i in range(61):
        inputs = ([FIRST_TOKEN + i] * (i % 5 + 1))[:3] + [1]
        targets = ([FIRST_TOKEN + i] * (i % 3))[:2] + [1]
        assert batch["encoder_input_tokens"][i].tolist() == inputs + [0] * (4 - len(inputs))
        assert batch["decoder_target_tokens"][i].tolist() == targets + [0] * (3 - len(targets))


def numbers(batches):
    """Which examples of `token_stores.examples` the rows hold."""
    inputs = np.concatenate([batch["encoder_input_tokens"] for batch in batches])
    return (inputs[inputs.any(axis=1), 0] - FIRST_TOKEN).tolist()


@pytest.mark.parametrize("block_bytes", [12, 100, 1 << 22])
def test_every_example_exactly_once_an_epoch(pairs, monkeypatch, block_bytes):
    blocks_of(monkeypatch, block_bytes, 3)
    seen = numbers(take(make_feed([pairs]), 16))[:122]
    assert sorted(seen[:61]) == sorted(seen[61:]) == list(range(61))
    assert seen[:61] != seen[61:]


def test_evaluation_reads_everything_once_in_order(pairs, text):
    batches = list(make_feed([pairs], repeat=False))
    assert numbers(batches) == list(range(61))
    assert len(batches) == 8 and not any(rows[-3:].any() for rows in batches[-1].values())
    masked = list(make_feed([text], repeat=False))
    assert_same(list(make_feed([text], repeat=False)), masked)
    assert sum(batch["encoder_input_tokens"].any(axis=1).sum() for batch in masked) == 117


# Mixtures


def test_a_mixture_keeps_to_its_rates_and_each_task_to_its_epochs(folder, text):
    tasks = [
        dataclasses.replace(text, objective=AsItIs(), rate=3.0),
        stream(folder, 64, "small", objective=AsItIs(), rate=1.0),
    ]
    feed = make_feed(tasks, "causal_lm", task_feature_lengths=TARGETS, batch_size=1 << 14)
    seen = {"toy": [], "small": []}
    for k in range(4):  # a cycle
        for name, windows in feed.examples_of(k):
            seen[name].extend(windows.tolist())
    assert [len(seen["toy"]), len(seen["small"])] == cycle_counts([3.0, 1.0])
    for name, count in (("toy", 250), ("small", 8)):
        whole = np.array(seen[name])[: len(seen[name]) // count * count].reshape(-1, count)
        np.testing.assert_array_equal(np.sort(whole, axis=1), np.tile(np.arange(count), (len(whole), 1)))
    assert abs(sum(len(w) for n, w in feed.examples_of(0) if n == "small") / (1 << 14) - 0.25) < 0.02


def test_a_mixture_joins_text_and_examples(text, pairs):
    batch = make_feed([text, pairs], batch_size=64).batch(0)
    seen = dict(make_feed([text, pairs], batch_size=64).examples_of(0))
    pair_numbers = seen["pairs"]
    assert len(seen["toy"]) + len(pair_numbers) == 64
    is_pair = (batch["encoder_input_tokens"] != 0).sum(axis=1) < 8
    assert is_pair.sum() == len(pair_numbers)
    assert (batch["encoder_input_tokens"][is_pair, 0] - FIRST_TOKEN).tolist() == pair_numbers.tolist()


def test_a_mixture_in_another_order_is_the_same_stream(text, pairs):
    assert_same(take(make_feed([text, pairs]), 3), take(make_feed([pairs, text]), 3))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_loss_weights_of_one_task_in_a_mixture(text, pairs, architecture):
    def batch_of(**options):
        objective = IidDenoising(style="mask", noise_density=0.25, **options)
        tasks = [dataclasses.replace(text, objective=objective), pairs]
        lengths = {"inputs": 16, "targets": 16}
        return make_feed(tasks, architecture, batch_size=64, task_feature_lengths=lengths).batch(0)

    usual, bert = batch_of(), batch_of(loss_on_masked_only=True)
    weights = bert.pop("decoder_loss_weights")
    usual_weights = usual.pop("decoder_loss_weights")
    assert_same([bert], [usual])
    is_window = usual_weights.sum(axis=1) == 16  # fifteen tokens and EOS; a pair's targets are shorter
    assert 0 < is_window.sum() < 64
    assert (weights <= usual_weights).all()
    assert set(weights[is_window].sum(axis=1).tolist()) == {4}  # a quarter of fifteen tokens
    np.testing.assert_array_equal(weights[~is_window], usual_weights[~is_window])


# Reading


class SlowStore:
    """A store that counts requests, and makes each wait."""

    def __init__(self, store, seconds):
        self._store, self._seconds = store, seconds
        self.manifest, self.num_tokens, self.folder = store.manifest, store.num_tokens, store.folder
        self.requests, self.threads = [], set()

    def tokens(self, start, stop):
        self.requests.append(stop - start)
        self.threads.add(threading.current_thread())
        time.sleep(self._seconds)
        return self._store.tokens(start, stop)


def slow(task, seconds=0.0):
    return dataclasses.replace(task, store=SlowStore(task.store, seconds))


def test_storage_is_read_in_whole_blocks_each_once_an_epoch(plain, monkeypatch):
    blocks_of(monkeypatch, 160, 4)  # 10 windows of 8 tokens a block, 40 a buffer
    task = slow(plain)
    feed = make_feed([task], "causal_lm", task_feature_lengths=TARGETS, batch_size=5)
    assert not task.store.requests
    take(feed, 50)  # an epoch
    requests = task.store.requests
    assert set(requests) == {80}
    assert 25 <= len(requests) <= 25 + 4  # and the next epoch's first buffer, read ahead
    assert threading.current_thread() not in task.store.threads


def test_the_next_buffer_is_read_while_this_one_is_used(plain, monkeypatch):
    blocks_of(monkeypatch, 160, 4)
    task = slow(plain)
    feed = make_feed([task], "causal_lm", task_feature_lengths=TARGETS, batch_size=5)
    next(feed)
    for _ in range(500):
        if len(task.store.requests) == 8:
            break
        time.sleep(0.01)
    assert len(task.store.requests) == 8  # this buffer and the next: no third is held in memory
    take(feed, 7)
    assert len(task.store.requests) == 8


def test_a_corpus_that_fits_in_a_buffer_is_read_once(plain):
    task = slow(plain)
    take(make_feed([task], "causal_lm", task_feature_lengths=TARGETS), 100)
    assert len(task.store.requests) == 1


def test_damage_on_disk_is_an_error_in_the_feed(tmp_path):
    task = stream(tmp_path, 500)
    path = tmp_path / "toy" / "tokens-00001-of-00003.bin"
    data = bytearray(path.read_bytes())
    data[7] ^= 1
    path.write_bytes(data)
    damaged = dataclasses.replace(task, store=TokenStore(tmp_path / "toy"))
    with pytest.raises(UserError, match="is damaged"):
        next(make_feed([damaged]))
