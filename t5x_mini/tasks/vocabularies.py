"""Vocabularies in T5's layout, without TensorFlow: SentencePiece models, and bytes.

Ids: padding 0, end of sequence 1, unknown 2, pieces from 3, and on top the extra ids that mark masked spans, the first
span's last: `<extra_id_0>` is `vocab_size - 1`. Ids and texts are those of `seqio.SentencePieceVocabulary` and
`seqio.ByteVocabulary`.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import sentencepiece
from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2

from t5x_mini import resources, strangers
from t5x_mini.errors import UserError
from t5x_mini.tasks import files
from t5x_mini.tasks.vocabulary_training import train

if TYPE_CHECKING:
    import seqio

__all__ = [
    "ByteVocabulary",
    "SentencePieceVocabulary",
    "Vocabulary",
    "compare",
    "identity",
    "is_here",
    "load",
    "train",
]

DEFAULT_EXTRA_IDS = 100
_MOST_EXTRA_IDS = 1_000_000
_LARGEST = 256 * strangers.MIB  # of a model; mT5's has 4
PAD_ID, EOS_ID, UNK_ID = 0, 1, 2

_BYTES = 256
_EXTRA_ID = re.compile(r"▁?<extra_id_\d+>")
# SentencePiece's loading is not thread-safe.
_LOADING = threading.Lock()


class SentencePieceVocabulary:
    """A SentencePiece model with `extra_ids` ids on top of its pieces. It can be pickled, and is then read again.

    Attributes:
        path: of the model file.
        extra_ids: how many ids mark masked spans.
        vocab_size: of all ids, the extra ones included.
        pad_id, eos_id, unk_id: 0, 1 and 2.
    """

    pad_id, eos_id, unk_id = PAD_ID, EOS_ID, UNK_ID

    def __init__(self, path: str | os.PathLike, extra_ids: int = DEFAULT_EXTRA_IDS):
        """Reads a local model file.

        A model that has as many extra ids already (mT5's, of which it is true of 100) gets no others.

        Raises:
          UserError: there is no such file, it isn't a SentencePiece model, or its ids are not in T5's layout.
        """
        self.path = os.path.abspath(path)
        self.extra_ids = _checked_extra_ids(extra_ids)
        self._model = _read_model(self.path)
        self._processor = _processor(self._model, extra_ids, self.path)
        self.vocab_size = self._processor.get_piece_size()

    def __reduce__(self):
        return type(self), (self.path, self.extra_ids)

    def __repr__(self) -> str:
        return f"SentencePieceVocabulary({self.path!r}, extra_ids={self.extra_ids})"

    def encode(self, text: str) -> list[int]:
        """Ids of the text, without EOS."""
        return self._processor.encode_as_ids(text)

    def encode_batch(self, texts: Sequence[str], threads: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Ids of all texts one after the other, without EOS: (ids int32[tokens], lengths int32[texts]).

        The interpreter's lock is released. One thread encodes about as fast at any number of texts; several threads
        want some hundred texts at once.
        """
        rows = self._processor.encode(list(texts), return_type="numpy", num_threads=threads)
        return _joined(rows)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids up to the first EOS; ids over the vocabulary's size read as unknown."""
        ids = [UNK_ID if i >= self.vocab_size else int(i) for i in ids]
        return self._processor.decode(ids[: ids.index(EOS_ID)] if EOS_ID in ids else ids)

    def pieces(self, text: str) -> list[str]:
        """The text as the pieces that its ids stand for; `▁` is a space."""
        return self._processor.encode_as_pieces(text)

    def fingerprint(self) -> dict[str, str | int]:
        """What decides the ids of a text: library and version, the model file's hash and the sizes."""
        return {
            "library": "sentencepiece",
            "version": sentencepiece.__version__,
            "sha256": hashlib.sha256(self._model).hexdigest(),
            "vocab_size": self.vocab_size,
            "extra_ids": self.extra_ids,
        }

    def seqio(self) -> seqio.SentencePieceVocabulary:
        """The same vocabulary as SeqIO's, for its pipelines. Imports TensorFlow."""
        import seqio

        own = len(_parsed(self._model, self.path).pieces)
        return seqio.SentencePieceVocabulary(self.path, extra_ids=self.vocab_size - own)


class ByteVocabulary:
    """UTF-8 bytes as ids 3 to 258, as in ByT5 (Xue et al. 2021), and the extra ids on top.

    Attributes: those of SentencePieceVocabulary but `path`.
    """

    pad_id, eos_id, unk_id = PAD_ID, EOS_ID, UNK_ID

    def __init__(self, extra_ids: int = DEFAULT_EXTRA_IDS):
        self.extra_ids = _checked_extra_ids(extra_ids)
        self.vocab_size = UNK_ID + 1 + _BYTES + extra_ids

    def __repr__(self) -> str:
        return f"ByteVocabulary(extra_ids={self.extra_ids})"

    def encode(self, text: str) -> list[int]:
        """Ids of the text's bytes, without EOS."""
        return [byte + UNK_ID + 1 for byte in text.encode()]

    def encode_batch(self, texts: Sequence[str], threads: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """(ids int32[tokens], lengths int32[texts]). One thread does it: it is a copy."""
        return _joined([np.frombuffer(text.encode(), np.uint8).astype(np.int32) + (UNK_ID + 1) for text in texts])

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids up to the first EOS; other ids than those of bytes, and broken UTF-8, are left out."""
        ids = [int(i) for i in ids]
        ids = ids[: ids.index(EOS_ID)] if EOS_ID in ids else ids
        return bytes(i - UNK_ID - 1 for i in ids if UNK_ID < i <= UNK_ID + _BYTES).decode(errors="ignore")

    def pieces(self, text: str) -> list[str]:
        """The text's bytes; those that are no ASCII character as `<0xC3>`, a space as `▁`."""
        return [chr(b) if 0x20 < b < 0x7F else "▁" if b == 0x20 else f"<0x{b:02X}>" for b in text.encode()]

    def fingerprint(self) -> dict[str, str | int]:
        """As of SentencePieceVocabulary."""
        return {"library": "bytes", "vocab_size": self.vocab_size, "extra_ids": self.extra_ids}

    def seqio(self) -> seqio.ByteVocabulary:
        """The same vocabulary as SeqIO's. Imports TensorFlow."""
        import seqio

        return seqio.ByteVocabulary(extra_ids=self.extra_ids)


Vocabulary = SentencePieceVocabulary | ByteVocabulary


def load(name: str | os.PathLike, extra_ids: int = DEFAULT_EXTRA_IDS) -> Vocabulary:
    """The vocabulary of that name.

    Args:
      name: `'bytes'`; the name of one in `data/vocabularies`, such as `'docs_8k'`; or the path of a SentencePiece
        model. A remote one (`gs://`, `s3://`, `https://`) is copied to `~/.cache/t5x_mini/vocabularies`
        (`$XDG_CACHE_HOME` counts) at first use.
      extra_ids: ids on top, for masked spans.

    Raises:
      UserError: there is no such vocabulary, or it cannot be read.
    """
    name = os.fspath(name)
    _checked_extra_ids(extra_ids)
    if name == "bytes":
        return ByteVocabulary(extra_ids)
    return SentencePieceVocabulary(_local_path(name), extra_ids)


def is_here(name: str) -> bool:
    """Whether `load` can read it without the network (or can say at once that it doesn't exist)."""
    return not files.is_remote(name) or _cached_copy(name).is_file()


def identity(vocabulary: Vocabulary) -> str:
    """What tells it from others, in a few words: `'a1b2c3d4e5f6 and 100 extra ids'`."""
    known = vocabulary.fingerprint()
    return f"{known.get('sha256', known['library'])[:12]} and {known['extra_ids']} extra ids"


def compare(a: Vocabulary, b: Vocabulary, texts: Sequence[str]) -> str:
    """The first text's pieces under both vocabularies, and the bytes a token of all texts, as lines to print."""
    return "\n".join(
        f"{vocabulary!r}\n  {' '.join(vocabulary.pieces(texts[0]))}\n"
        f"  {len(vocabulary.encode_batch(texts)[0])} tokens, {bytes_per_token(vocabulary, texts):.2f} bytes a token"
        for vocabulary in (a, b)
    )


def bytes_per_token(vocabulary: Vocabulary, texts: Sequence[str]) -> float:
    """UTF-8 bytes of the texts over the number of their tokens."""
    return sum(len(text.encode()) for text in texts) / max(1, len(vocabulary.encode_batch(texts)[0]))


def _checked_extra_ids(extra_ids: int) -> int:
    if not 0 <= extra_ids <= _MOST_EXTRA_IDS:
        raise UserError(f"EXTRA_IDS is {extra_ids}. Write 0 to {_MOST_EXTRA_IDS:,}; T5 has 100.")
    return extra_ids


def _joined(rows: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.array([len(row) for row in rows], np.int32)
    return (np.concatenate(rows) if rows else np.zeros(0, np.int32)), lengths


def _local_path(name: str) -> str:
    if files.is_remote(name):
        return _downloaded(name)
    path = os.path.expanduser(name)
    if os.path.isfile(path):
        return path
    shipped = {file.stem: str(file) for file in Path(resources.data_path("vocabularies")).glob("*.model")}
    if name in shipped:
        return shipped[name]
    known = sorted(["bytes", *shipped])
    closest = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {closest[0]!r}? " if closest else ""
    raise UserError(
        f"The vocabulary file {name!r} does not exist. {hint}Write the path of a SentencePiece model (a .model file), "
        f"one of the names {', '.join(known)}, or make one with: "
        "t5x-mini vocab --text text/*.txt --output=my_vocabulary.model"
    )


def _cached_copy(url: str) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "t5x_mini" / "vocabularies"
    return cache / f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{url.rpartition('/')[2]}"


def _downloaded(url: str) -> str:
    path = _cached_copy(url)
    if not path.is_file():
        try:
            data = strangers.read_bytes(url, "a SentencePiece model", _LARGEST)
        except FileNotFoundError as error:
            raise UserError(f"The vocabulary file {url!r} does not exist. Correct VOCABULARY.") from error
        except UserError as error:
            raise UserError(
                f"The vocabulary cannot be read: {error} Without the network, set VOCABULARY to a local file or to "
                "'docs_8k'. (To look at a configuration alone, with --dry_run, say the model's size: "
                "--gin.TransformerConfig.vocab_size=32128 for T5's.)"
            ) from error
        files.write_bytes(str(path), data)
    return str(path)


def read_proto(path: str) -> sentencepiece_model_pb2.ModelProto:
    """What a SentencePiece model's file holds. Raises UserError if it is none, or cannot be read."""
    return _parsed(_read_model(path), path)


def _read_model(path: str) -> bytes:
    try:
        return strangers.read_bytes(path, "a SentencePiece model", _LARGEST)
    except FileNotFoundError as error:
        raise UserError(f"The vocabulary file {path!r} cannot be read: {error}.") from error


def _processor(model: bytes, extra_ids: int, path: str) -> sentencepiece.SentencePieceProcessor:
    proto = _parsed(model, path)
    if extra_ids and not _holds_extra_ids(proto, extra_ids, path):
        for i in reversed(range(extra_ids)):
            proto.pieces.add(piece=f"▁<extra_id_{i}>", type=proto.SentencePiece.USER_DEFINED)
    processor = sentencepiece.SentencePieceProcessor()
    with _LOADING:
        processor.load_from_serialized_proto(proto.SerializeToString())
    ids = (processor.pad_id(), processor.eos_id(), processor.unk_id())
    if ids != (PAD_ID, EOS_ID, UNK_ID):
        raise UserError(
            f"The vocabulary {path!r} has padding {ids[0]}, EOS {ids[1]} and unknown {ids[2]} (-1: none). It needs "
            "T5's layout: padding 0, EOS 1 and unknown 2. `t5x-mini vocab` makes such a one."
        )
    return processor


def _parsed(model: bytes, path: str) -> sentencepiece_model_pb2.ModelProto:
    try:
        proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    except DecodeError:
        proto = None
    if not (proto and proto.pieces):
        raise UserError(f"{path!r} is not a SentencePiece model. Write the path of a .model file.")
    return proto


def _holds_extra_ids(proto: sentencepiece_model_pb2.ModelProto, extra_ids: int, path: str) -> bool:
    """Whether the model has the extra ids among its pieces. Raises UserError if it has others."""
    held = [piece.piece.lstrip("▁") for piece in proto.pieces if _EXTRA_ID.fullmatch(piece.piece)]
    if held and len(held) != extra_ids:
        raise UserError(f"The vocabulary {path!r} holds {len(held)} extra ids already. Write EXTRA_IDS = {len(held)}.")
    last = [piece.piece.lstrip("▁") for piece in proto.pieces[-extra_ids:]]
    if held and last != [f"<extra_id_{i}>" for i in reversed(range(extra_ids))]:
        raise UserError(
            f"The extra ids of the vocabulary {path!r} cannot be used: T5 has <extra_id_0> as the last id of all, "
            "<extra_id_1> before it, and so on."
        )
    return bool(held)
