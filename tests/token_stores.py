"""Small token stores whose tokens say where they came from, and what reads them."""

from __future__ import annotations

import dataclasses

import numpy as np

from t5x_mini.feed.config import FeedConfig
from t5x_mini.feed.token_feed import TokenFeed
from t5x_mini.feed.token_sources import TokenTask
from t5x_mini.tasks.objectives import SpanCorruption
from t5x_mini.tokens.manifest import Contents
from t5x_mini.tokens.store import TokenStore
from t5x_mini.tokens.writer import write_store

FIRST_TOKEN = 2


class Ids:
    """A vocabulary of numbers."""

    vocab_size, extra_ids = 40_000, 100


@dataclasses.dataclass(frozen=True)
class AsItIs:
    """An objective that changes nothing, so that windows can be told from what comes out."""

    examples_per_row: int = 1
    features = ("targets",)

    def window(self, lengths, vocabulary):
        return lengths["targets"] // self.examples_per_row

    def __call__(self, tokens, rng, vocabulary):
        return {"targets": tokens.astype(np.int32)}


def stream(folder, tokens, name="toy", shards=3, objective=None, rate=1.0):
    """A task whose text is the tokens 2, 3, 4, ..."""
    contents = Contents(
        task=name,
        split="train",
        kind="stream",
        features=("targets",),
        eos=(),
        dtype="uint16",
        definition={},
        vocabulary={},
        source="",
    )
    ids = np.arange(FIRST_TOKEN, FIRST_TOKEN + tokens).tolist()
    cuts = [tokens * shard // shards for shard in range(shards + 1)]
    documents = [[[ids[start:stop]]] for start, stop in zip(cuts[:-1], cuts[1:], strict=True)]
    write_store(folder / name, contents, documents)
    store = TokenStore(folder / name)
    return TokenTask(name=name, store=store, vocabulary=Ids(), objective=objective or SpanCorruption(), rate=rate)


def examples(folder, count, name="pairs", rate=1.0):
    """A supervised task whose example i has inputs `[2 + i] * (i % 5 + 1)` and targets `[2 + i] * (i % 3)`."""
    both = ("inputs", "targets")
    contents = Contents(
        task=name,
        split="train",
        kind="examples",
        features=both,
        eos=both,
        dtype="uint16",
        definition={},
        vocabulary={},
        source="",
    )
    documents = [[[FIRST_TOKEN + i] * (i % 5 + 1), [FIRST_TOKEN + i] * (i % 3)] for i in range(count)]
    write_store(folder / name, contents, [documents[: count // 3], documents[count // 3 :]])
    return TokenTask(name=name, store=TokenStore(folder / name), vocabulary=Ids(), rate=rate)


def make_config(**fields):
    fields = {"task_feature_lengths": {"inputs": 16, "targets": 8}, "batch_size": 8, "seed": 1} | fields
    return FeedConfig(mixture_or_task_name="toy", data_feed="tokens", **fields)


def make_feed(tasks, architecture="encoder_decoder", **fields):
    options = {name: fields.pop(name) for name in {"split", "repeat", "host_index", "host_count"} & set(fields)}
    return TokenFeed(make_config(**fields), architecture, tasks, **options)


def windows_in(batches, length):
    """The numbers of the windows of `length` tokens that batches of `AsItIs` hold, row by row."""
    rows = np.concatenate([batch["decoder_target_tokens"] for batch in batches])
    rows = rows.reshape(-1, length)
    rows = rows[rows.any(axis=1)]
    np.testing.assert_array_equal(rows, rows[:, :1] + np.arange(length))  # a window is there whole and in order
    assert not ((rows[:, 0] - FIRST_TOKEN) % length).any()
    return (rows[:, 0] - FIRST_TOKEN) // length
