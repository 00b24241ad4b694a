"""Rows of a definition's source, read shard by shard in bounded memory, without TensorFlow wherever that is possible.

A split is a list of shards: whole files, or pieces of large ones. Shards can be read in any order, in any process, and
together hold every row of the split once.
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping

from t5x_mini.errors import UserError
from t5x_mini.tasks import files, formats
from t5x_mini.tasks.definitions import PretrainingTask, Row, Source
from t5x_mini.tasks.formats import Shard, Skipped, place

__all__ = [
    *("Shard", "Skipped", "count", "fingerprint", "needs_tensorflow", "nothing_read", "read", "shards", "source_split"),
    "splits",
]


def splits(definition: Source) -> tuple[str, ...]:
    """Names of the definition's splits. Asks the library for those of a `tfds` or `huggingface` source.

    Raises UserError unless exactly one source is given.
    """
    if _kind(definition) == "files":
        return tuple(definition.files)
    return _library(definition).splits(definition)


def shards(definition: Source, split: str) -> tuple[Shard, ...]:
    """The split in pieces, in a fixed order.

    Uncompressed text of more than 32 MB is cut at line ends, Parquet at row groups; a compressed file is one shard.

    Raises:
      UserError: there is no such split, no such file, a suffix that isn't known, or nothing but empty files.
    """
    name = source_split(definition, split)
    if _kind(definition) != "files":
        return _library(definition).shards(definition, name)
    paths = _paths(definition, split)
    if not paths:
        raise UserError(f"Split {split!r} of {definition.name!r} names no files: write a path, or leave the split out.")
    found = tuple(shard for path in paths for shard in formats.shards(path, whole=_is_document(definition, path)))
    if not found:
        raise UserError(f"Every file of split {split!r} of {definition.name!r} is empty: {', '.join(paths[:5])}.")
    return found


def read(definition: Source, shard: Shard, skipped: Skipped | None = None) -> Iterator[Row]:
    """The rows of a shard, in their order.

    Of a `PretrainingTask`, every row has text in `field`; a document of more than about 1 MiB comes as several rows,
    cut at white space, which together hold all of it. A definition with a method
    `parse_json(document) -> Iterator[Row]` gets each `.json` file as one document.

    Args:
      skipped: counts what is left out ('empty', 'invalid UTF-8', 'broken JSON', 'wrong number of columns', 'longer than
        64 MiB') and what is 'cut'.

    Raises:
      UserError: a row has no `field`; a TSV file's first row has too many or too few columns; a file is damaged.
    """
    skipped = Skipped() if skipped is None else skipped
    pretraining = isinstance(definition, PretrainingTask)
    if _kind(definition) == "files":
        field = definition.field if pretraining else None
        columns = getattr(definition, "columns", None)
        columns = columns.get(shard.path) if isinstance(columns, Mapping) else columns
        if _is_document(definition, shard.path):
            return definition.parse_json(formats.read_json(shard.path))
        rows = formats.read(shard, skipped, columns=columns, cut=pretraining, field=field)
    else:
        rows = enumerate(_library(definition).read(definition, shard), 1)
    if pretraining:
        return _documents(rows, definition.field, shard, skipped)
    return (row for _, row in rows)


def fingerprint(definition: Source, split: str) -> str:
    """A hash of what the split's files are called and hold (`files.version`), wherever they lie."""
    name = source_split(definition, split)
    if _kind(definition) != "files":
        return _library(definition).fingerprint(definition, name)
    lines = [f"{path.rpartition('/')[2]} {files.version(path)}" for path in _paths(definition, split)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def needs_tensorflow(definition: Source) -> bool:
    """Whether `read` imports TensorFlow."""
    return definition.tfds is not None


def count(definition: Source, split: str, limit: int | None = None) -> int:
    """Rows of the split, skipped ones left out, but at most `limit`. Files are read; a library is asked."""
    if _kind(definition) != "files":
        rows = _library(definition).count(definition, source_split(definition, split))
        return rows if limit is None else min(rows, limit)
    rows = (row for shard in shards(definition, split) for row in read(definition, shard))
    return sum(1 for _ in itertools.islice(rows, limit))


def source_split(definition: Source, split: str) -> str:
    """What the source calls a split of the task. Raises UserError if the task has no such split."""
    known = splits(definition)
    if split not in known:
        closest = difflib.get_close_matches(split, known, n=1)
        hint = f"Did you mean {closest[0]!r}? " if closest else ""
        raise UserError(f"The task {definition.name!r} has no split {split!r}. {hint}It has {', '.join(known)}.")
    return (definition.splits or {}).get(split, split)


def nothing_read(definition: Source, split: str, skipped: Skipped) -> UserError:
    """The error for a split from which not one row came."""
    what = f"everything was skipped ({skipped})" if skipped else "there is nothing in it"
    return UserError(f"Split {split!r} of {definition.name!r} has no rows: {what}.")


def _is_document(definition: Source, path: str) -> bool:
    """Whether the file is one JSON document, out of which the definition takes the rows itself."""
    return hasattr(definition, "parse_json") and files.suffixes(path)[0] == ".json"


def _documents(rows: Iterable[tuple[int, Row]], field: str, shard: Shard, skipped: Skipped) -> Iterator[Row]:
    for number, row in rows:
        if field not in row:
            raise UserError(
                f"{place(shard, number)} has no field {field!r}; it has {', '.join(map(repr, row)) or 'none'}. "
                "Name the one that holds the text in PretrainingTask.field."
            )
        text = _text(row[field], field, shard, number, skipped)
        if text is None:
            continue
        if len(text) <= formats.DOCUMENT_LIMIT:
            yield row if text is row[field] else {**row, field: text}
            continue
        skipped.add("cut", place(shard, number))
        while text:
            end = len(text)
            if end > formats.DOCUMENT_LIMIT:
                end = text.rfind(" ", 0, formats.DOCUMENT_LIMIT) + 1 or formats.DOCUMENT_LIMIT
            yield {**row, field: text[:end]}
            text = text[end:]


def _text(value: object, field: str, shard: Shard, number: int, skipped: Skipped) -> str | None:
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            skipped.add("invalid UTF-8", place(shard, number))
            return None
    if value is not None and not isinstance(value, str):
        raise UserError(f"{place(shard, number)}: field {field!r} is {value!r:.100}, not text. Name another field.")
    if not value or value.isspace():
        skipped.add("empty", place(shard, number))
        return None
    return value


def _paths(definition: Source, split: str) -> list[str]:
    patterns = definition.files[split]
    patterns = [patterns] if isinstance(patterns, str) else patterns
    return list(dict.fromkeys(path for pattern in patterns for path in files.expand(pattern)))


def _kind(definition: Source) -> str:
    given = [kind for kind in ("files", "tfds", "huggingface") if getattr(definition, kind) is not None]
    if len(given) != 1:
        found = " and ".join(given) or "none of them"
        raise UserError(
            f"The task {definition.name!r} needs one source, `files`, `tfds` or `huggingface`; found {found}. Write "
            f"for example {definition.name}/{type(definition).__name__}.files = {{'train': 'text/*.txt'}}."
        )
    return given[0]


def _library(definition: Source):
    if definition.tfds is not None:
        from t5x_mini.tasks import tfds_source

        return tfds_source
    from t5x_mini.tasks import huggingface_source

    return huggingface_source
