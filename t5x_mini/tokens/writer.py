"""Writing tokens to disk, in constant memory: shards whose files get their names when they are whole."""

from __future__ import annotations

import os
import uuid
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from t5x_mini.tasks import files
from t5x_mini.tokens.manifest import CHUNK_BYTES, LENGTH_DTYPE, MANIFEST, Contents, Manifest, Shard, shard_name


class ShardWriter:
    """Writes the two files of a shard, in constant memory, under names that say they are not finished.

    Several processes may write the same shard: each writes files of its own, and `finish` puts them in place.
    """

    def __init__(self, folder: str | os.PathLike, name: str, contents: Contents) -> None:
        self._folder = Path(folder)
        self._name = name
        self._contents = contents
        writer = uuid.uuid4().hex[:8]
        self._tokens = _ChunkWriter(self._folder / f".tokens-{name}.bin.{writer}")
        self._lengths = _ChunkWriter(self._folder / f".lengths-{name}.bin.{writer}")
        self._text_bytes = 0

    def add(self, tokens: np.ndarray, lengths: np.ndarray, text_bytes: int) -> None:
        """Appends documents.

        Args:
          tokens: of all of them, one after the other, as for `pad_examples`.
          lengths: `[documents, features]`.
          text_bytes: UTF-8 bytes of their text.
        """
        self._tokens.write(np.ascontiguousarray(tokens, self._contents.token_dtype))
        self._lengths.write(np.ascontiguousarray(lengths, LENGTH_DTYPE))
        self._text_bytes += text_bytes

    def finish(self) -> Shard:
        """Gives the files their names and returns the shard's line of the manifest."""
        token_bytes, tokens_crc32 = self._tokens.close()
        length_bytes, lengths_crc32 = self._lengths.close()
        shard = Shard(
            name=self._name,
            tokens=token_bytes // self._contents.token_dtype.itemsize,
            documents=length_bytes // (LENGTH_DTYPE.itemsize * len(self._contents.features)),
            text_bytes=self._text_bytes,
            tokens_crc32=tokens_crc32,
            lengths_crc32=lengths_crc32,
        )
        os.replace(self._tokens.path, self._folder / shard.tokens_file)
        os.replace(self._lengths.path, self._folder / shard.lengths_file)
        return shard


def write_store(
    folder: str | os.PathLike, contents: Contents, shards: Sequence[Sequence[Sequence[Sequence[int]]]]
) -> Manifest:
    """Writes a small store from lists.

    Args:
      folder: is made.
      contents: what it holds.
      shards: of documents, of features, of ids: `[[[[5, 6, 7]], [[8]]]]` is one shard of two documents of a stream.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    written = []
    for index, documents in enumerate(shards):
        writer = ShardWriter(folder, shard_name(index, len(shards)), contents)
        lengths = [[len(ids) for ids in document] for document in documents]
        tokens = [token for document in documents for ids in document for token in ids]
        writer.add(np.array(tokens, int), np.array(lengths, int), text_bytes=0)
        written.append(writer.finish())
    manifest = Manifest(contents=contents, shards=tuple(written), skipped={})
    files.write_bytes(os.path.join(folder, MANIFEST), manifest.to_json().encode())
    return manifest


class _ChunkWriter:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open(path, "wb")
        self._size = 0
        self._crc32 = 0
        self._checksums: list[str] = []

    def write(self, array: np.ndarray) -> None:
        data = memoryview(array).cast("B") if array.size else memoryview(b"")
        self._file.write(data)
        while data:
            room = CHUNK_BYTES - self._size % CHUNK_BYTES
            self._crc32 = zlib.crc32(data[:room], self._crc32)
            self._size += len(data[:room])
            data = data[room:]
            if self._size % CHUNK_BYTES == 0:
                self._end_chunk()

    def close(self) -> tuple[int, str]:
        """(bytes, checksums of the chunks)"""
        if self._size % CHUNK_BYTES:
            self._end_chunk()
        self._file.flush()
        os.fsync(self._file.fileno())  # before the part is called finished
        self._file.close()
        return self._size, "".join(self._checksums)

    def _end_chunk(self) -> None:
        self._checksums.append(f"{self._crc32:08x}")
        self._crc32 = 0
