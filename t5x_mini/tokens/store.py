"""Reading tokens from disk, by position: no TensorFlow, and no more of a file than was asked for."""

from __future__ import annotations

import bisect
import functools
import itertools
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from t5x_mini.errors import UserError
from t5x_mini.tasks import files
from t5x_mini.tasks.definitions import PretrainingTask, TextToTextTask
from t5x_mini.tokens.manifest import (
    CHUNK_BYTES,
    LENGTH_DTYPE,
    Contents,
    Shard,
    differences,
    join,
    read_manifest,
    stored_definition,
)

EOS_ID = 1

# Of memory-mapped files at a time: each holds a file descriptor, and systems allow 1024.
_OPEN_FILES = 256


class TokenStore:
    """A store, open for reading: a local folder, or a remote one (`gs://`, `s3://`, `https://`).

    Opening compares the sizes of local files with the manifest's. Checksums are compared when a chunk is first read.

    Raises:
        UserError: there is no store, it is not finished, its format is another, or a file is missing or has another
            size; and from everything that reads: a chunk is damaged.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = os.fspath(folder)
        self.manifest = read_manifest(self.folder)
        self._dtype = self.manifest.contents.token_dtype
        self._features = len(self.manifest.contents.features)
        self._first_token = _starts(shard.tokens for shard in self.manifest.shards)
        self._first_document = _starts(shard.documents for shard in self.manifest.shards)
        self._opened: dict[str, _File] = {}
        self._map = functools.lru_cache(_OPEN_FILES)(_memory_map)
        self._document_starts = functools.lru_cache(_OPEN_FILES)(self._read_document_starts)
        if not files.is_remote(self.folder):
            for shard in self.manifest.shards:
                _check_size(self.folder, shard.tokens_file, shard.tokens_bytes(self.manifest.contents))
                _check_size(self.folder, shard.lengths_file, shard.lengths_bytes(self.manifest.contents))

    @property
    def num_tokens(self) -> int:
        return self.manifest.num_tokens

    @property
    def num_documents(self) -> int:
        return self.manifest.num_documents

    def tokens(self, start: int, stop: int) -> np.ndarray:
        """Tokens `start` to `stop` of the whole split, over the borders of shards: `uint16` or `uint32[stop - start]`.

        A read-only view of the file where that is possible, else a copy.
        """
        width = self._dtype.itemsize
        pieces = [
            self._tokens_file(shard).read(first * width, last * width).view(self._dtype)
            for shard, first, last in _pieces(self._first_token, start, stop)
        ]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces or [np.zeros(0, self._dtype)])

    def lengths(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Tokens of documents `start` to `stop`: `uint32[stop - start, features]`."""
        stop = self.num_documents if stop is None else stop
        row = self._features * LENGTH_DTYPE.itemsize
        pieces = [
            self._lengths_file(shard).read(first * row, last * row).view(LENGTH_DTYPE)
            for shard, first, last in _pieces(self._first_document, start, stop)
        ]
        return np.concatenate([np.zeros(0, LENGTH_DTYPE), *pieces]).reshape(-1, self._features)

    def documents(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Documents `start` to `stop` in one read: (all their tokens, `uint32[stop - start, features]` lengths)."""
        lengths = self.lengths(start, stop)
        first = self._document_start(start) if start < stop else 0
        return self.tokens(first, first + int(lengths.sum(dtype=np.int64))), lengths

    def examples(self, indices: Sequence[int], lengths: Mapping[str, int]) -> dict[str, np.ndarray]:
        """Any documents of the split, by number: `{feature: int32[len(indices), lengths[feature]]}`.

        Longer ones are cut, so that EOS still fits, as T5 does; shorter ones are filled up with 0.
        """
        sizes = [self.lengths(index, index + 1)[0] for index in indices]
        flat = [self.documents(index, index + 1)[0] for index in indices]
        sizes = np.array(sizes, LENGTH_DTYPE).reshape(-1, self._features)
        contents = self.manifest.contents
        return pad_examples(np.concatenate([np.zeros(0, self._dtype), *flat]), sizes, contents, lengths)

    def check(
        self,
        *,
        vocabulary: Mapping[str, Any] | None = None,
        definition: PretrainingTask | TextToTextTask | None = None,
    ) -> None:
        """Raises UserError if these are not the tokens that a run would make of its text.

        Args:
          vocabulary: the `fingerprint()` of the run's.
          definition: the run's, of this task.
        """
        contents = self.manifest.contents
        where = f"The tokens of {contents.task!r}, split {contents.split!r}, in {self.folder}"
        if vocabulary is not None:
            _refuse_differences(f"{where} were made with another vocabulary", contents.vocabulary, vocabulary)
        if definition is not None:
            now = stored_definition(definition)
            _refuse_differences(f"{where} were made from another definition of the task", contents.definition, now)

    def _tokens_file(self, shard_index: int) -> _File:
        shard = self.manifest.shards[shard_index]
        return self._file(shard, shard.tokens_file, shard.tokens_bytes(self.manifest.contents), shard.tokens_crc32)

    def _lengths_file(self, shard_index: int) -> _File:
        shard = self.manifest.shards[shard_index]
        return self._file(shard, shard.lengths_file, shard.lengths_bytes(self.manifest.contents), shard.lengths_crc32)

    def _file(self, shard: Shard, name: str, size: int, crc32: str) -> _File:
        if name not in self._opened:
            self._opened[name] = _File(self.folder, name, shard.name, size, crc32, self._map)
        return self._opened[name]

    def _document_start(self, index: int) -> int:
        """The first token, of the whole split, of document `index`."""
        shard = bisect.bisect_right(self._first_document, index) - 1
        return self._first_token[shard] + int(self._document_starts(shard)[index - self._first_document[shard]])

    def _read_document_starts(self, shard: int) -> np.ndarray:
        lengths = self.lengths(self._first_document[shard], self._first_document[shard + 1])
        return np.cumsum(np.concatenate([[0], lengths.sum(axis=1, dtype=np.int64)]))


def pad_examples(
    flat: np.ndarray, sizes: np.ndarray, contents: Contents, lengths: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """What `TokenStore.documents` gives, as rectangles: `{feature: int32[n, lengths[feature]]}`.

    Args:
      flat: the tokens of the documents, one after the other, and in each its features.
      sizes: `[n, features]`.
      contents: the store's: says which features end in EOS.
      lengths: room for each feature, EOS included. Longer ones are cut, shorter ones filled up with 0.
    """
    ends = np.cumsum(sizes.ravel(), dtype=np.int64).reshape(sizes.shape)
    padded = {}
    for column, feature in enumerate(contents.features):
        ends_in_eos = feature in contents.eos
        length = lengths[feature]
        kept = np.minimum(sizes[:, column], length - ends_in_eos).astype(np.int64)
        rows = np.zeros((len(sizes), length), np.int32)
        filled = np.arange(length) < kept[:, None]
        first = ends[:, column] - sizes[:, column]
        rows[filled] = flat[np.repeat(first - np.cumsum(kept) + kept, kept) + np.arange(kept.sum())]
        if ends_in_eos:
            rows[np.arange(len(rows)), kept] = EOS_ID
        padded[feature] = rows
    return padded


class _File:
    """The bytes of one file, of which each chunk is checked when it is first read."""

    def __init__(
        self, folder: str, name: str, shard: str, size: int, crc32: str, memory_map: Callable[[str], np.ndarray]
    ) -> None:
        self._where = f"{name} of the token store {folder}"
        self._part = f"part-{shard}.json"
        self._path = join(folder, name)
        self._size = size
        self._crc32 = crc32
        self._memory_map = memory_map
        self._checked = bytearray(-(-size // CHUNK_BYTES))

    def read(self, start: int, stop: int) -> np.ndarray:
        """uint8[stop - start]"""
        if start >= stop:
            return np.zeros(0, np.uint8)
        chunks = range(start // CHUNK_BYTES, -(-stop // CHUNK_BYTES))
        unchecked = [chunk for chunk in chunks if not self._checked[chunk]]
        # A chunk is checked as a whole. Once it was, a part of it may be read alone.
        begin = min([start, *(chunk * CHUNK_BYTES for chunk in unchecked)])
        end = max([stop, *(min((chunk + 1) * CHUNK_BYTES, self._size) for chunk in unchecked)])
        data = self._read_range(begin, end)
        for chunk in unchecked:
            at = chunk * CHUNK_BYTES - begin
            self._check(chunk, data[at : at + CHUNK_BYTES])
        return data[start - begin : stop - begin]

    def _read_range(self, begin: int, end: int) -> np.ndarray:
        if not files.is_remote(self._path):
            return self._memory_map(self._path)[begin:end]
        try:
            return np.frombuffer(files.read_range(self._path, begin, end), np.uint8)
        except FileNotFoundError:
            raise UserError(f"{self._where} is missing. Copy it again.") from None
        except ValueError:
            raise UserError(f"{self._where} has less than the {self._size} bytes written. Copy it again.") from None

    def _check(self, chunk: int, data: np.ndarray) -> None:
        found = f"{zlib.crc32(data):08x}"
        written = self._crc32[8 * chunk : 8 * chunk + 8]
        if found != written:
            start = chunk * CHUNK_BYTES
            raise UserError(
                f"{self._where} is damaged: bytes {start} to {min(start + CHUNK_BYTES, self._size)} have the checksum "
                f"{found}, and {written} was written. Copy it again, or delete {self._part} there and run the same "
                "`t5x-mini tokenize` command again: only this part is made anew."
            )
        self._checked[chunk] = 1


def _memory_map(path: str) -> np.ndarray:
    return np.memmap(path, np.uint8, "r").view(np.ndarray)  # slices of a memmap itself are slow


def _check_size(folder: str, name: str, size: int) -> None:
    path = Path(folder, name)
    found = path.stat().st_size if path.exists() else None
    if found != size:
        what = "is missing" if found is None else f"has {found} bytes, and {size} were written"
        raise UserError(
            f"{name} of the token store {folder} {what}. Copy it again, or run the same `t5x-mini tokenize` command "
            "again: only this part is made anew."
        )


def _starts(counts: Iterable[int]) -> list[int]:
    return list(itertools.accumulate(counts, initial=0))


def _pieces(starts: list[int], start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """(shard, first, last) of the pieces of shards that make up `start` to `stop` of them all."""
    if not 0 <= start <= stop <= starts[-1]:
        raise IndexError(f"{start} to {stop} of {starts[-1]}")
    shard = bisect.bisect_right(starts, start) - 1
    while start < stop:
        end = min(stop, starts[shard + 1])
        if start < end:
            yield shard, start - starts[shard], end - starts[shard]
        start = end
        shard += 1


def _refuse_differences(what: str, stored: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    if changed := differences(stored, now, "in the store"):
        raise UserError(
            f"{what}:\n"
            + "\n".join(changed)
            + "\nGo back to what was used then, or run `t5x-mini tokenize` again with another --output."
        )
