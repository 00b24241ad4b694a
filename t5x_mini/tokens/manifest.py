"""Tokens on disk: what `t5x-mini tokenize` writes and the token feed reads.

    <tokens_dir>/<task>/<split>/
      manifest.json                  what this is; written last, so a store that has one is whole
      tokens-00000-of-00008.bin      all tokens of the shard's documents, one after the other: uint16 or uint32
      lengths-00000-of-00008.bin     uint32[documents, features]: how many tokens each document has of each feature
      part-00000-of-00008.json       the shard's part of the manifest; deleting it makes `tokenize` write the shard anew

There are two kinds. A `'stream'` holds pretraining text: one feature, `targets`, to be cut into windows anywhere. A
store of `'examples'` holds supervised ones, where a document is an example: its `inputs` and then its `targets`.
All numbers are little-endian.

Files are checked in chunks of 1 MiB, each when it is first read: opening a store of any size reads the manifest alone,
a few kilobytes can be read of a remote one, and a flipped bit is found all the same. CRC-32 finds it as well as SHA-256
does and costs half as much (4.2 against 1.8 GB/s).
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import string
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from t5x_mini import strangers
from t5x_mini.errors import UserError
from t5x_mini.tasks import files
from t5x_mini.tasks.definitions import PretrainingTask, TextToTextTask

FORMAT = 1
MANIFEST = "manifest.json"
CHUNK_BYTES = 1 << 20
LENGTH_DTYPE = np.dtype("<u4")

Kind = Literal["stream", "examples"]

_SHARD_NAME = re.compile(r"\d+-of-\d+", re.ASCII)
_LARGEST = 1 << 30  # of a manifest: of a store of 100 TB


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shard:
    """One pair of files.

    Attributes:
        name: `'00000-of-00008'`.
        tokens: in the first file.
        documents: whose lengths are in the second.
        text_bytes: UTF-8 bytes that became those tokens.
        tokens_crc32: checksums of the tokens' chunks, 8 hexadecimal digits each.
        lengths_crc32: the same of the lengths'.
    """

    name: str
    tokens: int
    documents: int
    text_bytes: int
    tokens_crc32: str
    lengths_crc32: str

    @property
    def tokens_file(self) -> str:
        return f"tokens-{self.name}.bin"

    @property
    def lengths_file(self) -> str:
        return f"lengths-{self.name}.bin"

    def tokens_bytes(self, contents: Contents) -> int:
        return self.tokens * contents.token_dtype.itemsize

    def lengths_bytes(self, contents: Contents) -> int:
        return self.documents * len(contents.features) * LENGTH_DTYPE.itemsize


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contents:
    """What the tokens of a store are, and what they were made of and with.

    Attributes:
        task: its name.
        split: its name.
        kind: `'stream'` or `'examples'`.
        features: of a document, in the order in which they lie.
        eos: the features to which EOS belongs at the end when they are read; it is not stored.
        dtype: `'uint16'` or `'uint32'`, of the tokens.
        definition: see `stored_definition`.
        vocabulary: its `fingerprint()`: library, version, sha256, vocab_size, extra_ids.
        source: fingerprint of the files that were read.
    """

    task: str
    split: str
    kind: Kind
    features: tuple[str, ...]
    eos: tuple[str, ...]
    dtype: str
    definition: Mapping[str, Any]
    vocabulary: Mapping[str, Any]
    source: str

    @property
    def token_dtype(self) -> np.dtype:
        return np.dtype(self.dtype).newbyteorder("<")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """What `manifest.json` holds.

    Attributes:
        contents: what the tokens are.
        shards: in the order of their documents.
        skipped: rows that were left out or cut, as `sources.Skipped` counts them.
    """

    contents: Contents
    shards: tuple[Shard, ...]
    skipped: Mapping[str, Mapping[str, Any]]

    @property
    def num_tokens(self) -> int:
        return sum(shard.tokens for shard in self.shards)

    @property
    def num_documents(self) -> int:
        return sum(shard.documents for shard in self.shards)

    @property
    def text_bytes(self) -> int:
        return sum(shard.text_bytes for shard in self.shards)

    def to_json(self) -> str:
        """The same for the same store, whoever wrote which part when. Totals are for people to read."""
        totals = {"tokens": self.num_tokens, "documents": self.num_documents, "text_bytes": self.text_bytes}
        return to_json({"format": FORMAT, "totals": totals, **dataclasses.asdict(self)})

    @classmethod
    def from_json(cls, text: str, where: str) -> Manifest:
        """The inverse of `to_json`. Raises UserError, which names `where`, for anything else."""
        try:
            fields = json.loads(text)
            if type(fields["format"]) is not int:
                raise TypeError("a format is a number")
            if fields["format"] != FORMAT:
                raise UserError(
                    f"{where} has format {fields['format']}; this version of t5x_mini reads format {FORMAT}. Run "
                    "`t5x-mini tokenize` again with another --output, or install the version that wrote it."
                )
            contents = contents_from(fields["contents"])
            shards = tuple(checked_shard(Shard(**shard), contents) for shard in fields["shards"])
            return cls(contents=contents, shards=shards, skipped=dict(fields["skipped"]))
        except (ValueError, TypeError, KeyError, RecursionError):
            raise UserError(
                f"{where} is not the manifest of a token store. Delete it and run the same `t5x-mini tokenize` command "
                "again: what is there is used."
            ) from None


def contents_from(fields: Mapping[str, Any]) -> Contents:
    """The inverse of `dataclasses.asdict`, after a way through JSON.

    Raises TypeError, ValueError or KeyError for anything else.
    """
    contents = Contents(**{**fields, "features": tuple(fields["features"]), "eos": tuple(fields["eos"])})
    _check(contents.dtype in ("uint16", "uint32") and contents.kind in typing.get_args(Kind))
    _check(contents.features in (("targets",), ("inputs", "targets")) and set(contents.eos) <= set(contents.features))
    _check(all(isinstance(text, str) for text in (contents.task, contents.split, contents.source)))
    _check(isinstance(contents.definition, dict) and isinstance(contents.vocabulary, dict))
    return contents


def checked_shard(shard: Shard, contents: Contents) -> Shard:
    """The shard, as `tokenize` may have written it: its name stays in its folder, its checksums fit its lengths."""
    _check(isinstance(shard.name, str) and _SHARD_NAME.fullmatch(shard.name) is not None)
    for number in (shard.tokens, shard.documents, shard.text_bytes):
        _check(type(number) is int and 0 <= number < 1 << 62)
    sizes = shard.tokens_bytes(contents), shard.lengths_bytes(contents)
    for size, crc32 in zip(sizes, (shard.tokens_crc32, shard.lengths_crc32), strict=True):
        _check(len(crc32) == 8 * -(-size // CHUNK_BYTES) and set(crc32) <= set(string.hexdigits))
    return shard


def _check(holds: bool) -> None:
    if not holds:
        raise ValueError("no token store is so")


def to_json(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def stored_definition(definition: PretrainingTask | TextToTextTask) -> dict[str, Any]:
    """The part of a definition that decides which tokens are stored, as JSON.

    Of a pretraining task the objective is no part: it is applied when tokens are read, and may change between runs.
    Where the text lies is none either (a store may be used elsewhere); its fingerprint stands beside this.
    """
    if isinstance(definition, PretrainingTask):
        return {"field": definition.field, "eos_between_documents": definition.eos_between_documents}
    if definition.write is not None:
        function = getattr(definition.write, "func", definition.write)  # of a functools.partial
        return {"write": f"{function.__module__}.{function.__qualname__}"}
    return {"inputs": definition.inputs, "targets": definition.targets}


def differences(then: Mapping[str, Any], now: Mapping[str, Any], when: str) -> list[str]:
    """A line for each entry that differs: `    version: '0.2.1' in the store, '0.2.3' now`."""
    absent = "absent"
    return [
        f"    {name}: {then.get(name, absent)!r} {when}, {now.get(name, absent)!r} now"
        for name in dict.fromkeys([*then, *now])
        if then.get(name, absent) != now.get(name, absent)
    ]


def read_manifest(folder: str) -> Manifest:
    """The manifest of a store. Raises UserError if there is none, it is not finished, or its format is another."""
    path = join(folder, MANIFEST)
    if files.exists(path):
        text = strangers.read_bytes(path, "the manifest of a token store", _LARGEST)
        return Manifest.from_json(text.decode("utf-8", "replace"), path)
    parts = [] if files.is_remote(folder) else sorted(Path(folder).glob("part-*.json"))
    if parts:
        total = int(parts[0].stem.rpartition("-")[2])
        raise UserError(
            f"The token store {folder} is not finished: {len(parts)} of {total} parts are there. Run the same "
            "`t5x-mini tokenize` command again: it goes on where it was."
        )
    raise UserError(
        f"There is no token store in {folder}. Make it with `t5x-mini tokenize --task=NAME`, and set TOKENS_DIR to the "
        "folder that holds the folder NAME."
    )


def join(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}" if files.is_remote(folder) else os.path.join(folder, name)


def shard_name(index: int, count: int) -> str:
    return f"{index:05d}-of-{count:05d}"


def token_dtype(vocab_size: int) -> Literal["uint16", "uint32"]:
    """The narrowest that holds every id, the extra ids included."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"
