"""Files on this machine, in a bucket (`gs://`, `s3://`) or on a web server: found, sized, read in pieces, decompressed.

Nothing here holds a file in memory: a remote one is fetched in blocks of 8 MiB. Only the standard library and pyarrow
are imported; `remote.py` and TensorStore come in with the first remote path.
"""

from __future__ import annotations

import glob
import hashlib
import importlib
import io
import os
import re
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

from t5x_mini.errors import UserError
from t5x_mini.whole_file import write_whole

# Modules here that make a corpus: `installed_docs://train` is the training split of the first.
_MADE = ("installed_docs", "tiny_world")
FORMATS = (".txt", ".tsv", ".jsonl", ".json", ".parquet")
COMPRESSIONS = (".gz", ".zst")

_BLOCK = 8 << 20


def is_remote(path: str) -> bool:
    return "://" in path


def suffixes(path: str) -> tuple[str, str]:
    """(format, compression) of a file name, in lower case: `('.json', '.gz')`, `('.txt', '')`."""
    stem, compression = os.path.splitext(path.lower().partition("?")[0] if is_remote(path) else path.lower())
    if compression not in COMPRESSIONS:
        return compression, ""
    return os.path.splitext(stem)[1], compression


def expand(pattern: str) -> list[str]:
    """The files that a pattern means, sorted.

    Args:
      pattern: a path; a glob (`*`, `?`, `[...]`, and `**` for any folders between); a folder, for every file in and
        under it with a suffix of FORMATS; or `installed_docs://train` or `tiny_world://train`. A path may be `gs://`,
        `s3://` or, without globs, `https://`.

    Raises:
      UserError: nothing is there, or the place cannot be listed or reached.
    """
    if is_made(pattern):
        return [_made(pattern)]
    found = _expand_remote(pattern) if is_remote(pattern) else _expand_local(pattern)
    if not found:
        raise UserError(f"There are no files {pattern!r}. {_what_there_is(pattern)}")
    return sorted(found)


def exists(path: str) -> bool:
    """Whether there is such a file. Raises UserError if its server or bucket cannot be reached."""
    if not is_remote(path):
        return os.path.isfile(path)
    try:
        _remote().size(path)
    except FileNotFoundError:
        return False
    return True


def size(path: str) -> int:
    """Bytes of the file as it is stored. Of a remote one it takes some round trips.

    Raises:
      FileNotFoundError: there is no such file.
      UserError: the server or bucket cannot be reached.
    """
    return _remote().size(path) if is_remote(path) else os.path.getsize(path)


def version(path: str) -> str:
    """A short text that changes with the file's content, and not with the place or time it was written.

    Of a local file it is a hash of its size, its first and its last 64 KiB; of a remote one what the server keeps (a
    generation number or an ETag). Raises what `size` raises.
    """
    if is_remote(path):
        return _remote().version(path)
    end = os.path.getsize(path)
    edge = min(end, 1 << 16)
    parts = (str(end).encode(), read_range(path, 0, edge), read_range(path, end - edge, end))
    return hashlib.sha256(b"|".join(parts)).hexdigest()[:16]


def read_range(path: str, start: int, end: int) -> bytes:
    """Bytes `start` to `end` (excluded) of the file as it is stored. The range has to lie inside the file.

    Raises what `size` raises; ValueError for a range that reaches over the end.
    """
    if is_remote(path):
        data = _remote().read_range(path, start, end) if end > start else b""
    else:
        with open(path, "rb") as file:
            file.seek(start)
            data = file.read(end - start)
    if len(data) != end - start:
        raise ValueError(f"{path} has no bytes {start} to {end}.")
    return data


def read_bytes(path: str) -> bytes:
    """The whole of a small file as it is stored. Raises what `size` raises."""
    return _remote().read_bytes(path) if is_remote(path) else Path(path).read_bytes()


def write_bytes(path: str, data: bytes) -> None:
    """Writes a small file at once: a reader sees all of it or nothing. Missing folders are made.

    Raises UserError if the bucket refuses or cannot be reached, or the path is on a web server.
    """
    if is_remote(path):
        _remote().write_bytes(path, data)
        return
    write_whole(Path(path), data)


def open_raw(path: str) -> BinaryIO:
    """The file as it is stored, for reading and seeking. Raises what `size` raises."""
    return io.BufferedReader(_remote().RemoteFile(path), _BLOCK) if is_remote(path) else open(path, "rb")


def open_stream(path: str) -> BinaryIO:
    """The file's content, `.gz` and `.zst` decompressed on the way, for reading from start to end.

    A file of several gzip members or zstd frames reads as one. Opening raises what `size` raises; reading from a
    damaged or incomplete file raises EOFError or OSError.
    """
    raw, compression = open_raw(path), suffixes(path)[1]
    if not compression:
        return raw
    import pyarrow

    codec = {".gz": "gzip", ".zst": "zstd"}[compression]
    return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.PythonFile(raw, "r"), codec), 1 << 20)


def _remote():
    from t5x_mini import remote

    return remote


def is_made(pattern: str) -> bool:
    """Whether it names a corpus that is made on this machine when it is first asked for."""
    return pattern.partition("://")[0] in _MADE and "://" in pattern


def made_before(pattern: str) -> Path | None:
    """Where the corpus is that such a pattern names; None where it was not made yet."""
    name, _, split = pattern.partition("://")
    path = _corpus(name).folder() / f"{split}.txt"
    return path if path.is_file() else None


def _made(pattern: str) -> str:
    name, _, split = pattern.partition("://")
    corpus = _corpus(name)
    if split not in corpus.SPLITS:
        choices = " or ".join(f"{name}://{known}" for known in corpus.SPLITS)
        raise UserError(f"There is no {pattern!r}. Write {choices}.")
    return str(corpus.ensure()[split])


def _corpus(name: str) -> ModuleType:
    return importlib.import_module(f"t5x_mini.tasks.{name}")


def _expand_local(pattern: str) -> list[str]:
    pattern = os.path.expanduser(pattern)
    if os.path.isfile(pattern):
        return [pattern]
    if os.path.isdir(pattern):
        walk = os.walk(pattern, followlinks=True)
        return _known((os.path.join(folder, name) for folder, _, names in walk for name in names), pattern)
    return [path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path)]


def _expand_remote(pattern: str) -> list[str]:
    if _remote().is_web(pattern):
        if re.search(r"[*\[]|/$", pattern):
            raise UserError(
                f"{pattern!r} cannot be listed: web servers don't say which files they have. Write the address of "
                "each file, as a list."
            )
        return [pattern] if exists(pattern) else []
    if re.search(r"[*?\[]", pattern):
        fixed = re.split(r"[*?\[]", pattern, maxsplit=1)[0]
        matches = re.compile(_glob_to_regex(pattern)).fullmatch
        return [path for path in _remote().listing(fixed) if matches(path)]
    folder = pattern.rstrip("/") + "/"
    paths = _remote().listing(pattern)
    return [pattern] if pattern in paths else _known((path for path in paths if path.startswith(folder)), folder)


def _known(paths: Iterable[str], folder: str) -> list[str]:
    """Those with a known suffix, without what is hidden in the folder."""
    shown = (path for path in paths if not re.search(r"(^|/)\.", path[len(folder) :].lstrip("/")))
    return [path for path in shown if suffixes(path)[0] in FORMATS]


def _glob_to_regex(pattern: str) -> str:
    """As `glob.glob(recursive=True)`: `*` stays within a folder, `**/` is any number of folders."""
    parts = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(
        parts.get(part) or (part.replace("[!", "[^") if part[0] == "[" and len(part) > 1 else re.escape(part))
        for part in re.findall(r"\*\*/|\*\*|\*|\?|\[[^\]]+\]|.", pattern)
    )


def _what_there_is(pattern: str) -> str:
    if is_remote(pattern):
        return "Write the path of a file, a folder, or a pattern such as 'gs://bucket/text/*.jsonl.gz'."
    folder = Path(os.path.expanduser(pattern)).absolute()
    known = f"Known suffixes: {', '.join(FORMATS)}, each also with .gz or .zst."
    if folder.is_dir():
        return f"The folder has no file with a known suffix. {known}"
    while not folder.is_dir():
        folder = folder.parent
    names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    listed = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "nothing"
    return f"{str(folder)!r} holds {listed}. Write the path of a file, a folder, or a pattern such as 'text/*.txt'."
