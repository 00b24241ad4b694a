"""A task's examples out of its token store, in shuffled order, read in blocks of some MiB ahead of their use."""

from __future__ import annotations

import concurrent.futures
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from t5x_mini.errors import UserError
from t5x_mini.feed.shuffle import TwoLevelShuffle
from t5x_mini.tasks.objectives import Objective, Vocabulary
from t5x_mini.tokens.store import TokenStore, pad_examples

BLOCK_BYTES = 4 << 20  # read at a time: long enough that a store that takes 20 ms a request delivers fast
BLOCKS_PER_BUFFER = 16

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenTask:
    """A task as the token feed sees it.

    Attributes:
        name: of the task.
        store: its tokens.
        vocabulary: what they were made with.
        objective: makes examples of windows of text; None where the store holds examples.
        rate: in a mixture, in proportion to the others'.
    """

    name: str
    store: TokenStore
    vocabulary: Vocabulary
    objective: Objective | None = None
    rate: float = 1.0


class Windows:
    """Pretraining text: the split is one stream of tokens, cut into windows of equal length.

    Attributes:
        features: of the examples.
        count: windows in an epoch.
        block: windows that are read at a time.
        examples_per_row: of a packed batch.
    """

    def __init__(self, task: TokenTask, lengths: Mapping[str, int]) -> None:
        self._task = task
        self.features = task.objective.features
        self.examples_per_row = task.objective.examples_per_row
        self._window = task.objective.window(lengths, task.vocabulary)
        self.count, self._left_over = divmod(task.store.num_tokens, self._window)
        if not self.count:
            raise UserError(
                f"The tokens of {task.name!r} in {task.store.folder} are {task.store.num_tokens:,}, and an example of "
                f"TASK_FEATURE_LENGTHS = {dict(lengths)} takes a window of {self._window:,}. Write smaller lengths, or "
                "take more text."
            )
        width = task.store.manifest.contents.token_dtype.itemsize
        self.block = max(1, BLOCK_BYTES // (self._window * width))

    def describe(self) -> str:
        rest = f"; {self._left_over:,} tokens at the end of the text are left over" if self._left_over else ""
        return f"{self._task.name}: {self.count:,} windows of {self._window:,} tokens an epoch{rest}"

    def load(self, blocks: Sequence[int]) -> np.ndarray:
        """The windows of these blocks: `[windows, tokens]`."""
        ends = [(block * self.block, min((block + 1) * self.block, self.count)) for block in blocks]
        pieces = [self._task.store.tokens(start * self._window, stop * self._window) for start, stop in ends]
        return np.concatenate(pieces).reshape(-1, self._window)

    def take(self, loaded: np.ndarray, places: np.ndarray) -> Arrays:
        return {"text": loaded[places]}

    def examples(self, taken: Arrays, rng: np.random.Generator) -> Arrays:
        """What the objective makes of the windows: int32 `[n, length]` by feature."""
        return self._task.objective(taken["text"], rng, self._task.vocabulary)


class Examples:
    """Supervised examples; see `Windows`."""

    examples_per_row = None  # their lengths differ, so how many fit in a row isn't known before they are read

    def __init__(self, task: TokenTask, lengths: Mapping[str, int]) -> None:
        self._task, self._lengths = task, lengths
        self.features = task.store.manifest.contents.features
        self.count = task.store.num_documents
        if not self.count:
            raise UserError(f"The token store {task.store.folder} holds no examples: its source is empty.")
        self._check_lengths()
        width = task.store.manifest.contents.token_dtype.itemsize
        self.block = max(1, BLOCK_BYTES * self.count // max(1, task.store.num_tokens * width))

    def describe(self) -> str:
        return f"{self._task.name}: {self.count:,} examples an epoch"

    def load(self, blocks: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(tokens of the documents of these blocks, `[documents, features]` lengths, where each document starts)"""
        ends = [(block * self.block, min((block + 1) * self.block, self.count)) for block in blocks]
        tokens, sizes = zip(*(self._task.store.documents(start, stop) for start, stop in ends), strict=True)
        sizes = np.concatenate(sizes)
        widths = sizes.sum(axis=1, dtype=np.int64)
        return np.concatenate(tokens), sizes, np.cumsum(widths) - widths

    def take(self, loaded: tuple[np.ndarray, np.ndarray, np.ndarray], places: np.ndarray) -> Arrays:
        tokens, sizes, starts = loaded
        sizes, starts = sizes[places], starts[places]
        widths = sizes.sum(axis=1, dtype=np.int64)
        flat = tokens[np.repeat(starts - np.cumsum(widths) + widths, widths) + np.arange(widths.sum())]
        return pad_examples(flat, sizes, self._task.store.manifest.contents, self._lengths)

    def examples(self, taken: Arrays, rng: np.random.Generator) -> Arrays:
        return taken

    def _check_lengths(self) -> None:
        for feature in self.features:
            if feature not in self._lengths:
                raise UserError(
                    f"TASK_FEATURE_LENGTHS is {dict(self._lengths)}, without a length for {feature!r}, which the task "
                    f"{self._task.name!r} has."
                )


def make_source(task: TokenTask, lengths: Mapping[str, int]) -> Windows | Examples:
    """The task's examples, cut to `lengths`. Raises UserError where there are none."""
    return Examples(task, lengths) if task.objective is None else Windows(task, lengths)


class Reader:
    """A source in shuffled order.

    In memory are the blocks of one buffer and of the next, which a thread reads meanwhile: twice 64 MiB for a large
    corpus, once its own size for one that fits in a buffer.

    Args:
        source: what is read.
        name: of the task: its order depends on it and on `seed`.
        seed: of the order; None: as they lie.
        repeat: whether there is another epoch to read ahead.
    """

    def __init__(self, source: Windows | Examples, name: str, seed: int | None, repeat: bool) -> None:
        self.source, self._repeat = source, repeat
        self.shuffle = TwoLevelShuffle(source.count, source.block, BLOCKS_PER_BUFFER, seed, name)
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="read tokens")
        self._loading: dict[tuple[int, ...], concurrent.futures.Future] = {}

    def examples(self, positions: np.ndarray, rng: np.random.Generator) -> Arrays:
        """The examples at ascending positions, at least one: int32 `[n, length]` by feature."""
        parts = [
            self.source.take(self._load(buffer.blocks, buffer.stop), buffer.order[offsets])
            for buffer, offsets in self.shuffle.stretches(positions)
        ]
        return self.source.examples({name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, rng)

    def _load(self, blocks: tuple[int, ...], stop: int) -> Any:
        """These blocks, with those at position `stop` on their way."""
        wanted = {blocks}
        if self._repeat or stop < self.source.count:
            wanted.add(self.shuffle.buffer_at(stop).blocks)
        self._loading = {key: future for key, future in self._loading.items() if key in wanted}
        for key in sorted(wanted - self._loading.keys(), key=lambda key: key != blocks):
            self._loading[key] = self._thread.submit(self.source.load, key)
        return self._loading[blocks].result()
