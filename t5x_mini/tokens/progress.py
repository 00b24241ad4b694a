"""How far `t5x-mini tokenize` is, with the time it will still take."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence

from tqdm import tqdm

from t5x_mini.tasks import files
from t5x_mini.tokens.worker import Part, Progress

# Bytes of text in a byte of a compressed file, until the first part has shown it.
_COMPRESSED = 3.0


class TokenProgress:
    """A bar over the bytes of the source, which workers' threads may move; without their sizes, over the parts.

    Attributes:
        tokens: written so far.
    """

    def __init__(self, title: str, parts: Sequence[Part]) -> None:
        self.tokens = 0
        self._lock = threading.Lock()
        self._documents = 0
        self._parts = parts
        compressed = any(files.suffixes(shard.path)[1] for part in parts[:1] for shard in part.shards)
        self._guess = _COMPRESSED if compressed else 1.0
        self._text_bytes = {part.index: 0 for part in parts}
        self._finished: set[int] = set()
        sizes = [part.size_bytes for part in parts]
        self._known = None not in sizes
        every = 0.1 if sys.stderr.isatty() else 5.0  # seconds: in a log file, each is a line to scroll past
        self._bar = tqdm(
            desc=title,
            total=sum(sizes) if self._known else len(parts),
            unit="B" if self._known else " parts",
            unit_scale=self._known,
            mininterval=every,
            maxinterval=every,
            disable=not parts,
        )

    def __enter__(self) -> TokenProgress:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def update(self, part: Part, progress: Progress) -> None:
        with self._lock:
            self.tokens += progress.tokens
            self._documents += progress.documents
            self._text_bytes[part.index] += progress.text_bytes
            self._move()

    def finish(self, part: Part) -> None:
        with self._lock:
            self._finished.add(part.index)
            self._move()

    def _move(self) -> None:
        self._bar.set_postfix_str(f"{self._documents:,} documents, {self.tokens / 1e6:.1f} M tokens", refresh=False)
        position = sum(map(self._bytes_read, self._parts)) if self._known else len(self._finished)
        self._bar.update(position - self._bar.n)

    def _bytes_read(self, part: Part) -> int:
        if part.index in self._finished:
            return part.size_bytes
        return min(part.size_bytes, int(self._text_bytes[part.index] / self._text_per_byte))

    @property
    def _text_per_byte(self) -> float:
        source = sum(part.size_bytes for part in self._parts if part.index in self._finished)
        text = sum(self._text_bytes[index] for index in self._finished)
        return text / source if text else self._guess
