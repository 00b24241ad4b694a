"""From text to batches, timed: one JSON line, with examples or tokens a second.

    python benchmarks/data_feed.py --what seqio --text CORPUS.txt --vocab docs_8k

CORPUS.txt holds one document a line. What is timed:

    seqio        T5's span corruption from text to shuffled batches of numpy arrays, through `SeqioFeed`
    tokenize     text to tokens on disk
    tf_text      its peer: T5's tokeniser under tf.data
    tokens       tokens on disk to batches; on one core with `taskset -c 0`
    far_tokens   the same from a store that takes 20 ms a request
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from t5x_mini.feed.config import FeedConfig
from t5x_mini.tasks.definitions import PretrainingTask


def seqio(arguments: argparse.Namespace) -> dict[str, Any]:
    """Text to batches, through SeqIO and tf.data on all cores."""
    from t5x_mini.feed.seqio_feed import SeqioFeed

    feed = SeqioFeed(feed_config(arguments), "encoder_decoder")
    return {"who": f"t5x_mini seqio feed{' + pack' * arguments.pack}", **examples_per_s(feed, arguments)}


def tokenize(arguments: argparse.Namespace) -> dict[str, Any]:
    """Text to tokens on disk, with all cores; the processes' start included."""
    from t5x_mini.tokens import tokenize as tokenizer
    from t5x_mini.tokens.store import TokenStore

    rates = []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
            start = time.perf_counter()
            [store] = tokenizer.tokenize(feed_config(arguments), "benchmark_text", output=folder)
            rates.append(TokenStore(store).num_tokens / (time.perf_counter() - start))
    return {"who": "t5x_mini tokenize", **tokens_per_s(rates)}


def tf_text(arguments: argparse.Namespace) -> dict[str, Any]:
    """The peer of `tokenize`: T5's tokeniser under tf.data with AUTOTUNE, from text to tokens in memory."""
    import tensorflow as tf
    import tensorflow_text

    from t5x_mini.tasks import vocabularies

    with open(vocabularies.load(arguments.vocab).path, "rb") as model:
        tokenizer = tensorflow_text.SentencepieceTokenizer(model=model.read())
    compression = "GZIP" if arguments.text.endswith(".gz") else ""
    lines = tf.data.TextLineDataset(arguments.text, compression_type=compression)
    counts = lines.map(lambda line: tf.size(tokenizer.tokenize(line)), num_parallel_calls=tf.data.AUTOTUNE)
    rates = []
    for _ in range(3):
        start = time.perf_counter()
        tokens = sum(int(count.sum()) for count in counts.batch(1024).as_numpy_iterator())
        rates.append(tokens / (time.perf_counter() - start))
    return {"who": "tf_text.SentencepieceTokenizer, AUTOTUNE", **tokens_per_s(rates)}


def tokens_per_s(rates: list[float]) -> dict[str, Any]:
    return {"tokens_per_s": round(statistics.median(rates)), "runs": [round(rate) for rate in rates]}


def tokens(arguments: argparse.Namespace) -> dict[str, Any]:
    """Tokens on disk to batches, in this process and its reading thread (`taskset -c 0`: on one core)."""
    from t5x_mini.feed import feeds

    with tempfile.TemporaryDirectory() as folder:
        config = tokenized(arguments, folder)
        feed = feeds.make_feed(config, "encoder_decoder")
        return {"who": f"t5x_mini token feed{' + pack' * arguments.pack}", **examples_per_s(feed, arguments)}


def far_tokens(arguments: argparse.Namespace) -> dict[str, Any]:
    """The same from a store that lies far away: 20 ms a request, then 200 MB/s; the text over and over, to 512 MB."""
    from t5x_mini.feed import token_tasks
    from t5x_mini.feed.token_feed import TokenFeed

    with tempfile.TemporaryDirectory() as folder:
        config = tokenized(arguments, folder)
        [task] = token_tasks.open_tasks(config, "train", training=True)
        store = FarStore(task.store, size=512 << 20, latency_s=0.02, bytes_per_s=200e6)
        feed = TokenFeed(config, "encoder_decoder", [dataclasses.replace(task, store=store)])
        found = examples_per_s(feed, arguments)
    mean = statistics.mean(store.requests)
    requests = {"requests": len(store.requests), "mebibytes_a_request": round(mean / (1 << 20), 2)}
    return {"who": "t5x_mini token feed, 20 ms a request", **found, **requests}


class FarStore:
    """A store in memory that answers as slowly as a bucket, and writes down the bytes of each request."""

    def __init__(self, store, size: int, latency_s: float, bytes_per_s: float) -> None:
        tokens = store.tokens(0, store.num_tokens)
        self._tokens = np.resize(tokens, size // tokens.itemsize)
        self._latency_s, self._bytes_per_s = latency_s, bytes_per_s
        self.num_tokens, self.manifest, self.folder = len(self._tokens), store.manifest, store.folder
        self.requests: list[int] = []

    def tokens(self, start: int, stop: int) -> np.ndarray:
        found = self._tokens[start:stop]
        self.requests.append(found.nbytes)
        time.sleep(self._latency_s + found.nbytes / self._bytes_per_s)
        return found


def tokenized(arguments: argparse.Namespace, folder: str) -> FeedConfig:
    """The configuration that reads the text's tokens, which are written to `folder`."""
    from t5x_mini.tokens import tokenize as tokenizer

    config = dataclasses.replace(feed_config(arguments), data_feed="tokens", tokens_dir=folder)
    with contextlib.redirect_stdout(sys.stderr):
        tokenizer.tokenize(config, "benchmark_text")
    return config


WHAT: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "seqio": seqio,
    "tokenize": tokenize,
    "tf_text": tf_text,
    "tokens": tokens,
    "far_tokens": far_tokens,
}


def feed_config(arguments: argparse.Namespace) -> FeedConfig:
    """Span corruption of the text at `--inputs` and `--targets`."""
    return FeedConfig(
        mixture_or_task_name="benchmark_text",
        tasks=(PretrainingTask(name="benchmark_text", files={"train": arguments.text}),),
        vocabulary=arguments.vocab,
        task_feature_lengths={"inputs": arguments.inputs, "targets": arguments.targets},
        batch_size=arguments.batch,
        pack=arguments.pack,
        seed=17,
    )


def examples_per_s(
    batches: Iterator, arguments: argparse.Namespace, warm_up: int = 20, runs: int = 5
) -> dict[str, Any]:
    """Rows a second: the median of `runs` stretches of `--batches` batches, after a warm-up."""
    for _ in range(warm_up):
        next(batches)
    rates = []
    for _ in range(runs):
        start = time.perf_counter()
        for _ in range(arguments.batches):
            next(batches)
        rates.append(arguments.batch * arguments.batches / (time.perf_counter() - start))
    return {"examples_per_s": round(statistics.median(rates), 1), "runs": [round(rate) for rate in rates]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--what", choices=tuple(WHAT), required=True)
    parser.add_argument("--text", required=True, help="a file with one document a line")
    parser.add_argument("--vocab", default="docs_8k", help="a SentencePiece model, or the name of one that ships")
    parser.add_argument("--batch", type=int, default=32, help="rows a batch")
    parser.add_argument("--inputs", type=int, default=512, help="tokens of the inputs")
    parser.add_argument("--targets", type=int, default=114, help="tokens of the targets")
    parser.add_argument("--batches", type=int, default=100, help="batches a stretch, of which there are five")
    parser.add_argument("--pack", action="store_true", help="pack examples")
    arguments = parser.parse_args()
    print(json.dumps(WHAT[arguments.what](arguments)))


if __name__ == "__main__":
    main()
