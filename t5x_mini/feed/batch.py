"""The features a model takes, and batches made ready ahead of the step that takes them."""

from __future__ import annotations

import queue
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Protocol

import jax
import numpy as np

from t5x_mini.errors import UserError
from t5x_mini.feed.config import FeedConfig
from t5x_mini.feed.position import Position


def check_feature_lengths(lengths: Mapping[str, int], features: Collection[str]) -> None:
    """Raises UserError unless `lengths` has a positive whole number for each of `features`, and nothing else."""
    found = f"TASK_FEATURE_LENGTHS is {dict(lengths)}"
    wanted = "{" + ", ".join(f"'{name}': …" for name in features) + "}"
    for name in features:
        if name not in lengths:
            raise UserError(f"{found}, without a length for {name!r}. Write {wanted}.")
    for name, length in lengths.items():
        if name not in features:
            raise UserError(f"{found}, but there is no feature {name!r} here. Write {wanted}.")
        if isinstance(length, bool) or not isinstance(length, int) or length < 1:
            raise UserError(f"{found}; the length of {name!r} must be a whole number of tokens, 1 or more.")


def feature_shapes(config: FeedConfig, architecture: str) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a global batch, known before any data is read: int32 `[batch_size, length]` by SeqIO's names.

    Without `inputs` in `task_feature_lengths` a decoder-only batch is plain language modelling, and has no
    `decoder_causal_attention`. Raises UserError for lengths that do not suit the architecture.
    """
    lengths = config.task_feature_lengths
    has_inputs = architecture == "encoder_decoder" or "inputs" in lengths
    check_feature_lengths(lengths, ("inputs", "targets") if has_inputs else ("targets",))

    decoder = ["decoder_target_tokens", "decoder_input_tokens", "decoder_loss_weights"]
    if config.pack:
        decoder += ["decoder_segment_ids", "decoder_positions"]
    if architecture == "encoder_decoder":
        encoder = ["encoder_input_tokens"] + (["encoder_segment_ids", "encoder_positions"] if config.pack else [])
        row = dict.fromkeys(encoder, lengths["inputs"]) | dict.fromkeys(decoder, lengths["targets"])
    else:
        row = dict.fromkeys(decoder + ["decoder_causal_attention"] * has_inputs, sum(lengths.values()))
    return {name: jax.ShapeDtypeStruct((config.batch_size, length), np.int32) for name, length in row.items()}


class Feed(Protocol):
    """An iterator over host batches that knows where it stands."""

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]: ...

    def position(self) -> Position: ...


class Prefetcher(Iterator[tuple[Any, Position]]):
    """Yields (device batch, position of that batch); see `prefetch`.

    Attributes:
        waited_s: seconds the consumer has spent in `next`, waiting for data.
    """

    def __init__(self, feed: Feed, put: Callable[[dict[str, np.ndarray]], Any], depth: int) -> None:
        self.waited_s = 0.0
        pairs = ((put(batch), feed.position()) for batch in feed)
        self._pairs = _InBackground(pairs, depth) if depth > 0 else pairs

    def __next__(self) -> tuple[Any, Position]:
        start = time.perf_counter()
        try:
            return next(self._pairs)
        finally:
            self.waited_s += time.perf_counter() - start

    def close(self) -> None:
        """Stops reading the feed. Further calls of `next` raise StopIteration; closing twice does no harm."""
        self._pairs.close()

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def prefetch(feed: Feed, put: Callable[[dict[str, np.ndarray]], Any], depth: int) -> Prefetcher:
    """Reads `feed` ahead of its consumer, and moves each batch to the devices with `put`.

    The positions are those of the batches handed out, not of those read ahead: a checkpoint with the position that
    came with its last batch loses and repeats nothing at any depth.

    Args:
        feed: restore it first; from here on it belongs to the prefetcher.
        put: host batch to device batch, as the partitioners'.
        depth: batches kept ready by one background thread; 0 makes each batch when it is asked for.
    """
    return Prefetcher(feed, put, depth)


class _InBackground(Iterator[Any]):
    """Draws items from an iterator in a thread, `depth` items ahead. What the iterator raises, `next` raises."""

    def __init__(self, items: Iterator[Any], depth: int) -> None:
        self._ready: queue.SimpleQueue = queue.SimpleQueue()
        self._slots = threading.Semaphore(depth)
        stop = threading.Event()
        # The thread must not refer to self, or an abandoned prefetcher would never be collected. It is a daemon
        # because Python joins other threads before it runs finalizers at exit.
        thread = threading.Thread(
            target=_produce, args=(items, self._ready, self._slots, stop), name="prefetch", daemon=True
        )
        thread.start()
        self.close = weakref.finalize(self, _stop, thread, self._ready, self._slots, stop)

    def __next__(self) -> Any:
        item, error = self._ready.get()
        if error is not None:
            self._ready.put((None, StopIteration()))
            raise error
        self._slots.release()
        return item


def _produce(items: Iterator[Any], ready: queue.SimpleQueue, slots: threading.Semaphore, stop: threading.Event) -> None:
    while True:
        slots.acquire()
        if stop.is_set():
            return
        try:
            ready.put((next(items), None))
        except BaseException as error:  # StopIteration too: whatever ends the items is the consumer's to see
            ready.put((None, error))
            return


def _stop(
    thread: threading.Thread, ready: queue.SimpleQueue, slots: threading.Semaphore, stop: threading.Event
) -> None:
    stop.set()
    slots.release()
    if thread is not threading.current_thread():  # the garbage collector may run this in any thread
        thread.join(timeout=10)  # a read that hangs must not keep the process from ending
    while not ready.empty():  # batches that nobody will take hold device memory
        ready.get()
    ready.put((None, StopIteration()))
