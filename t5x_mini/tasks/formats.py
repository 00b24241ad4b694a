"""What is in a file: rows of text lines, TSV, JSON lines and Parquet, in pieces of a file and in bounded memory."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO

from t5x_mini.errors import UserError
from t5x_mini.tasks import files
from t5x_mini.tasks.definitions import Row

if TYPE_CHECKING:
    import pyarrow.parquet

# Of a document handed on as one row. SentencePiece's memory grows with the text that it is given at once.
DOCUMENT_LIMIT = 1 << 20
# Of a line that has to be read whole to mean anything.
LINE_LIMIT = 64 << 20
_SHARD_BYTES = 32 << 20
_BOM = b"\xef\xbb\xbf"


@dataclasses.dataclass(frozen=True)
class Shard:
    """A part of a split that is read at once.

    Attributes:
        name: for people; no two shards of a split have the same.
        path: of the file; for a library's dataset, its name.
        start: where the part begins, in bytes, Parquet row groups, TFDS shards or rows.
        end: where it ends, excluded; None: at the end of the file.
        size_bytes: about how much there is to read, where that is known.
        split: the library's name of the split.
    """

    name: str
    path: str
    start: int = 0
    end: int | None = None
    size_bytes: int | None = None
    split: str | None = None


@dataclasses.dataclass
class Skipped:
    """What was left out or changed while rows were read: how often, and where first, by reason.

    Attributes:
        counts: by reason, such as `{'invalid UTF-8': 3}`.
        first: a place by reason, such as `{'invalid UTF-8': 'a.txt line 17'}`.
    """

    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    first: dict[str, str] = dataclasses.field(default_factory=dict)

    def add(self, reason: str, place: str) -> None:
        self.counts[reason] = self.counts.get(reason, 0) + 1
        self.first.setdefault(reason, place)

    def merge(self, later: Skipped) -> None:
        """Adds what was skipped in a shard that comes after."""
        for reason, times in later.counts.items():
            self.counts[reason] = self.counts.get(reason, 0) + times
            self.first.setdefault(reason, later.first[reason])

    def __bool__(self) -> bool:
        return bool(self.counts)

    def __str__(self) -> str:
        """`invalid UTF-8: 3, first at a.txt line 17; empty: 1, first at a.txt line 4`."""
        return "; ".join(f"{reason}: {times}, first at {self.first[reason]}" for reason, times in self.counts.items())


def shards(path: str, whole: bool = False) -> list[Shard]:
    """The file in parts, or whole if asked; none of an empty file.

    Raises UserError if its suffix isn't known or Parquet's footer cannot be read.
    """
    suffix, compression = files.suffixes(path)
    if suffix not in files.FORMATS:
        known = ", ".join(files.FORMATS)
        raise UserError(
            f"What {path!r} holds isn't known from its name. Known suffixes: {known}, also with .gz or .zst."
        )
    if suffix == ".parquet":
        return _parquet_shards(path)
    if compression:
        return [Shard(path, path, size_bytes=None if files.is_remote(path) else files.size(path))]
    size = files.size(path)
    if size <= _SHARD_BYTES or whole:
        return [Shard(path, path, size_bytes=size)] if size else []
    bounds = [*range(0, size, _SHARD_BYTES), size]
    return [_part(path, start, end, end - start) for start, end in zip(bounds, bounds[1:], strict=False)]


def _part(path: str, start: int, end: int, size: int) -> Shard:
    return Shard(f"{path}:{start}-{end}", path, start, end, size)


def place(shard: Shard, number: int) -> str:
    """Where row `number`, counted from 1, of a shard is, for people."""
    return f"{shard.path} line {number}" + (f" after byte {shard.start}" if shard.start else "")


def read(
    shard: Shard, skipped: Skipped, *, columns: Sequence[str] | None = None, cut: bool = False, field: str | None = None
) -> Iterator[tuple[int, Row]]:
    """(line number from 1, row) for every row of the shard.

    Args:
      skipped: counts what is left out: 'empty' lines, 'invalid UTF-8', 'broken JSON', 'wrong number of columns',
        'longer than 64 MiB'.
      columns: names of a TSV file's columns; None: its first line has them.
      cut: hand on lines of text longer than DOCUMENT_LIMIT in pieces, and count them as 'cut'.
      field: the only one that is wanted, of a Parquet file.

    Raises:
      UserError: the file is damaged, or it is not what its suffix says.
    """
    suffix = files.suffixes(shard.path)[0]
    if suffix == ".parquet":
        yield from _parquet(shard, field)
        return
    cut = cut and suffix == ".txt"
    with files.open_stream(shard.path) as stream:
        lines = _decoded(_lines(stream, shard, skipped, DOCUMENT_LIMIT if cut else LINE_LIMIT, cut), shard, skipped)
        if suffix == ".txt":
            yield from ((number, {"text": line}) for number, line in lines)
        elif suffix == ".tsv":
            yield from _tsv(lines, shard, skipped, columns)
        else:
            yield from _json(lines, shard, skipped)


def _lines(
    stream: BinaryIO, shard: Shard, skipped: Skipped, limit: int, cut: bool = False
) -> Iterator[tuple[int, bytes]]:
    """(number, line without its end) for the lines that begin in the shard. See `read`."""
    number, position = 0, shard.start

    def readline(size: int) -> bytes:
        nonlocal position
        try:
            chunk = stream.readline(size)
        except (EOFError, OSError) as error:
            raise UserError(
                f"{shard.path!r} is damaged or incomplete: after {number} lines, {error}. Get the file again."
            ) from error
        position += len(chunk)
        return chunk

    if position:  # the line before belongs to the shard where it began; it may end right before this one
        position = stream.seek(position - 1)
        for _ in _pieces(readline(limit), readline, limit):
            pass
    while shard.end is None or position < shard.end:
        line = readline(limit)
        if not line:
            return
        number += 1
        if number == 1 and shard.start == 0:
            line = line.removeprefix(_BOM)
        if _ended(line, limit):
            yield number, line.rstrip(b"\r\n")
            continue
        skipped.add("cut" if cut else f"longer than {LINE_LIMIT >> 20} MiB", place(shard, number))
        for piece in _pieces(line, readline, limit):
            if cut and (rest := piece.rstrip(b"\r\n")):
                yield number, rest


def _ended(line: bytes, limit: int) -> bool:
    return len(line) < limit or line.endswith(b"\n")


def _pieces(line: bytes, readline: Callable[[int], bytes], limit: int) -> Iterator[bytes]:
    """A line of which at most `limit` bytes were read, in pieces of at most so many, cut after white space."""
    while not _ended(line, limit):
        end = max(line.rfind(b" "), line.rfind(b"\t")) + 1 or _character_boundary(line)
        yield line[:end]
        line = line[end:] + readline(limit - len(line) + end)
    if line:
        yield line


def _character_boundary(line: bytes) -> int:
    """The end of the last whole UTF-8 character, which is at most 4 bytes."""
    starts = [k for k in range(len(line) - 4, len(line)) if line[k] & 0xC0 != 0x80]
    return starts[-1] if starts else len(line)


def _decoded(lines: Iterable[tuple[int, bytes]], shard: Shard, skipped: Skipped) -> Iterator[tuple[int, str]]:
    """Lines as text, without those that are empty or not UTF-8."""
    for number, line in lines:
        try:
            text = line.decode()
        except UnicodeDecodeError:
            skipped.add("invalid UTF-8", place(shard, number))
            continue
        if text and not text.isspace():
            yield number, text
        else:
            skipped.add("empty", place(shard, number))


def _tsv(
    lines: Iterator[tuple[int, str]], shard: Shard, skipped: Skipped, columns: Sequence[str] | None
) -> Iterator[tuple[int, Row]]:
    """Rows of strings, split at tabs and nowhere else: quotes are part of the text, as on the GLUE site.

    A file whose first row doesn't fit is a mistake. A later one is left out: GLUE's own QQP has some.
    """
    if columns is None:
        columns = _header(shard.path) if shard.start else next(lines, (0, ""))[1].split("\t")
    rows = 0
    for number, line in lines:
        values = line.split("\t")
        if len(values) == len(columns):
            rows += 1
            yield number, dict(zip(columns, values, strict=True))
        elif rows or shard.start:
            skipped.add("wrong number of columns", place(shard, number))
        else:
            raise UserError(
                f"{place(shard, number)} has {len(values)} columns, not the {len(columns)} that there should be: "
                f"{', '.join(columns)}. Found: {line[:200]!r}. Columns are separated by single tabs, and the first "
                "line names them unless the task's `columns` does."
            )


def _header(path: str) -> list[str]:
    whole = Shard(path, path)
    with files.open_stream(path) as stream:
        return next(_decoded(_lines(stream, whole, Skipped(), LINE_LIMIT), whole, Skipped()))[1].split("\t")


def _json(lines: Iterable[tuple[int, str]], shard: Shard, skipped: Skipped) -> Iterator[tuple[int, Row]]:
    rows = broken = 0
    for number, line in lines:
        row = _json_row(line)
        if row is None:
            broken += 1
            skipped.add("broken JSON", place(shard, number))
        else:
            rows += 1
            yield number, row
    if broken and not rows:
        raise UserError(
            f'No line of {shard.name!r} is a JSON object. Write one object a line: {{"text": "A document."}}.'
        )


def read_json(path: str) -> object:
    """A file that is one JSON document. Raises UserError if it is damaged or isn't JSON."""
    try:
        with files.open_stream(path) as stream:
            return json.load(stream)
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"{path!r} is not a JSON document: {error}.") from error


def _json_row(line: str) -> Row | None:
    try:
        row = json.loads(line)
        if "\\ud" in line.lower():  # half of a surrogate pair is legal in JSON, but is no text
            json.dumps(row, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


@contextlib.contextmanager
def _open_parquet(path: str) -> Iterator[pyarrow.parquet.ParquetFile]:
    import pyarrow.parquet

    try:
        with files.open_raw(path) as raw, pyarrow.parquet.ParquetFile(raw, pre_buffer=False) as file:
            yield file
    except (pyarrow.ArrowException, OSError) as error:
        message = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"{path!r} cannot be read as Parquet: {message}. It may be damaged or incomplete.") from error


def _parquet_shards(path: str) -> list[Shard]:
    with _open_parquet(path) as file:
        groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
    found, start, size = [], 0, 0
    for end, group in enumerate(groups, 1):
        size += group.total_byte_size
        if size >= _SHARD_BYTES or end == len(groups):
            found.append(_part(path, start, end, size))
            start, size = end, 0
    return found if any(group.num_rows for group in groups) else []


def _parquet(shard: Shard, field: str | None) -> Iterator[tuple[int, Row]]:
    with _open_parquet(shard.path) as file:
        fields = file.schema_arrow.names
        wanted = [field] if field in fields else None  # if it is missing, the caller says so
        number = 0
        for batch in file.iter_batches(256, row_groups=range(shard.start, shard.end), columns=wanted):
            for row in batch.to_pylist():
                number += 1
                yield number, row
