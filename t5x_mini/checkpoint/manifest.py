"""The manifest of a checkpoint: what each of its files holds, written last and compared before anything is restored.

Orbax takes what it finds. A bit that flipped on the way, a file that a copy left out or cut short come back as numbers,
or as an error of a library that names no file. So `manifest.json` in a checkpoint's folder lists every file with its
size and SHA-256. It is written when all else is on the disk, and makes the checkpoint complete (`steps.py`).

    {"format": 1, "saved_at": 1767225600.0, "metrics": {"train/loss": 2.31}, "best_metric": null,
     "files": {"state/d/0a1b": [34381, "9f86d0..."]}, "sha256": "of all that is before it"}

SHA-256, because CPUs have instructions for it: about 2 GB/s a core, as much as any checksum of Python's library but
CRC-32, which would miss one damage in four billion and can be forged. Files are read in parts, several at once.

JAX is not imported here: `t5x-mini checkpoints` verifies from any machine.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import math
import os
import pathlib
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import tqdm

from t5x_mini.errors import UserError
from t5x_mini.storage import is_remote
from t5x_mini.whole_file import write_whole

NAME = "manifest.json"
FORMAT = 1
_PART = 8 << 20  # bytes of a file in memory at once, for each thread
_THREADS = 4
_MOST_BYTES, _MOST_FILES = 256 << 20, 1_000_000
_SHOWN = 5
_PATIENCE_S = 3
_HEX = re.compile(r"[0-9a-f]{64}")

Progress = Callable[[int], object]


class ManifestError(UserError):
    """A manifest that can't be read, or doesn't say what manifests say."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """What a file holds.

    Attributes:
        size: in bytes.
        sha256: of them, in hexadecimal.
    """

    size: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a checkpoint holds, and what was known when it was saved.

    Attributes:
        files: by path within the checkpoint's folder.
        metrics: everything that was logged of its step, by name (`train/loss`, `eval/<task>/accuracy`, `loss`).
        best_metric: what the run chooses its best checkpoints by; None: by nothing.
        saved_at: seconds since 1970, when all else was written.
    """

    files: Mapping[str, Entry]
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    best_metric: str | None = None
    saved_at: float = 0.0

    @property
    def size(self) -> int:
        """Of all files, in bytes."""
        return sum(entry.size for entry in self.files.values())

    def to_bytes(self) -> bytes:
        item = {
            "format": FORMAT,
            "saved_at": self.saved_at,
            "metrics": {name: value if math.isfinite(value) else str(value) for name, value in self.metrics.items()},
            "best_metric": self.best_metric,
            "files": {path: [entry.size, entry.sha256] for path, entry in self.files.items()},
        }
        return f"{json.dumps({**item, 'sha256': _digest(item)}, indent=1)}\n".encode()


@dataclasses.dataclass(frozen=True)
class Problem:
    """A file that isn't what the manifest says.

    Attributes:
        path: within the checkpoint's folder.
        what: is wrong with it, in words.
    """

    path: str
    what: str

    def __str__(self) -> str:
        return f"{self.path} {self.what}"


def parse(data: bytes, where: str = NAME) -> Manifest:
    """Reads a manifest that anybody may have written.

    Raises:
        ManifestError: it isn't one, or is damaged; a path in it leads out of the checkpoint's folder.
    """
    try:
        item = json.loads(data)
        found = item.pop("sha256")
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
        raise ManifestError(f"{where} is no manifest of a checkpoint, or is damaged.") from None
    if item.get("format") != FORMAT:
        raise ManifestError(
            f"{where} has the format {str(item.get('format'))[:20]!r}, and this version of t5x_mini reads {FORMAT}. It "
            "takes a newer one, or is damaged."
        )
    if found != _digest(item):
        raise ManifestError(f"{where} is damaged: it isn't what was written.")
    try:
        return _manifest(item, where)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        raise ManifestError(f"{where} is no manifest of a checkpoint.") from None


def read(folder: pathlib.Path) -> Manifest | None:
    """The manifest of the checkpoint in `folder`; None where there is none.

    Raises:
        ManifestError: as `parse`.
    """
    path = folder / NAME
    try:
        if not is_remote(path) and path.stat().st_size > _MOST_BYTES:
            raise ManifestError(f"{path} is too large for a manifest ({path.stat().st_size:,} bytes).")
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except IsADirectoryError:
        raise ManifestError(f"{path} is a folder, and no manifest.") from None
    return parse(data, str(path))


def write(folder: pathlib.Path, manifest: Manifest) -> None:
    """Writes it into the checkpoint's folder, whole or not at all."""
    write_whole(folder / NAME, manifest.to_bytes())


def paths(folder: pathlib.Path) -> list[str]:
    """Every file of the checkpoint in `folder` but its manifest, sorted; a path within it each."""
    if is_remote(folder):
        prefix = f"{str(folder).rstrip('/')}/"
        found = [name.removeprefix(prefix) for name in _remote().listing(prefix) if not name.endswith("/")]
    else:
        found = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()]
    return sorted(name for name in found if name != NAME and not _is_draft(name))


def entries(folder: pathlib.Path, names: Collection[str]) -> dict[str, Entry]:
    """Size and checksum of files in `folder`, by name, once they are on the disk and would survive a loss of power.

    Raises:
        OSError, UserError: one can't be read or written to the end.
    """
    found = _each(lambda name: _measured(folder / name), names)
    if not is_remote(folder):
        for parent in {folder, folder.parent, *((folder / name).parent for name in names)}:
            with contextlib.suppress(OSError):  # some file systems know no such thing of folders
                _flush(parent)
    return found


def check(
    folder: pathlib.Path, manifest: Manifest, names: Collection[str] | None = None, progress: Progress = lambda _: None
) -> list[Problem]:
    """What of the files isn't as the manifest says; reads all bytes.

    Args:
        names: of the files to look at; None: all.
        progress: told of bytes that were read.

    Raises:
        UserError: the bucket cannot be reached.
    """
    names = manifest.files if names is None else names
    found = _each(lambda name: _compared(folder / name, manifest.files[name], progress), names)
    return [Problem(name, what) for name, what in found.items() if what]


def require(folder: pathlib.Path, beginning: tuple[str, ...] = ("",)) -> None:
    """Compares the files whose paths begin so; does nothing for a checkpoint of an earlier version, without a manifest.

    Raises:
        ManifestError: the manifest cannot be read.
        UserError: a file is damaged, or the bucket cannot be reached.
    """
    manifest = read(folder)
    if manifest is None:
        return
    names = [name for name in manifest.files if name.startswith(beginning)]
    with progress_bar(sum(manifest.files[name].size for name in names)) as bar:
        problems = check(folder, manifest, names, bar.update)
    if problems:
        raise UserError(f"{damage(folder, problems)}\n{remedy(folder)}")


def progress_bar(size: int, name: str = "verifying", *, shown: bool = True) -> tqdm.tqdm:
    """A bar of so many bytes with the time that is left, for what takes longer than a few seconds."""
    return tqdm.tqdm(
        desc=name,
        total=size,
        unit="B",
        unit_scale=True,
        delay=_PATIENCE_S,
        leave=False,
        dynamic_ncols=True,
        mininterval=0.1 if sys.stderr.isatty() else 10,
        disable=not shown,
    )


def damage(folder: pathlib.Path, problems: Collection[Problem]) -> str:
    """What is wrong with a checkpoint, in a few lines."""
    shown = [f"    {problem}" for problem in list(problems)[:_SHOWN]]
    more = [f"    and {len(problems) - _SHOWN:,} more files"] if len(problems) > _SHOWN else []
    return "\n".join([f"The checkpoint {folder} is damaged:", *shown, *more])


def shares(manifest: Manifest, count: int) -> list[list[str]]:
    """The files' names in `count` parts of about the same size: the largest first, each to who has least."""
    parts: list[list[str]] = [[] for _ in range(count)]
    loads = [0] * count
    for name, entry in sorted(manifest.files.items(), key=lambda item: (-item[1].size, item[0])):
        least = loads.index(min(loads))
        parts[least].append(name)
        loads[least] += entry.size + 1  # of empty files, too, everyone gets some
    return parts


def remedy(folder: pathlib.Path) -> str:
    """What to do about a damaged checkpoint."""
    others = [path.name for path in folder.parent.iterdir() if path.name.isdigit() and path.name != folder.name]
    steps = ", ".join(sorted(others, key=int)[-_SHOWN:])
    choose = f", or name another of this run's checkpoints ({steps}): {folder.parent}/STEP" if others else ""
    return f"Copy it once more from where it came from{choose}."


def _digest(item: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(item, sort_keys=True).encode()).hexdigest()


def _manifest(item: Mapping[str, Any], where: str) -> Manifest:
    if len(item["files"]) > _MOST_FILES:
        raise ManifestError(f"{where} lists {len(item['files']):,} files; a checkpoint has {_MOST_FILES:,} at most.")
    for name in item["files"]:
        _check_path(name, where)
    metric = item["best_metric"]
    if not math.isfinite(item["saved_at"]):
        raise ValueError
    return Manifest(
        files={name: _entry(*pair) for name, pair in item["files"].items()},
        metrics={str(name): float(value) for name, value in item["metrics"].items()},
        best_metric=None if metric is None else str(metric),
        saved_at=float(item["saved_at"]),
    )


def _entry(size: int, sha256: str) -> Entry:
    if not isinstance(size, int) or isinstance(size, bool) or size < 0 or not _HEX.fullmatch(sha256):
        raise ValueError
    return Entry(size, sha256)


def _check_path(name: str, where: str) -> None:
    parts = name.split("/")
    leads_out = any(part in ("", ".", "..") for part in parts) or ":" in parts[0]
    if leads_out or "\\" in name or "\0" in name or name.encode("utf-8", "replace").decode() != name:
        raise ManifestError(f"{where} lists {name[:100]!r}, which is no file of its own folder. Nothing of it is read.")


def _is_draft(name: str) -> bool:
    return name.startswith(f"{NAME}.") and name.endswith(".draft")


def _each(function: Callable[[str], Any], names: Collection[str]) -> dict[str, Any]:
    if len(names) < 2:
        return {name: function(name) for name in names}
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(names, pool.map(function, names), strict=True))


def _measured(path: pathlib.Path) -> Entry:
    if not is_remote(path):
        _flush(path)
    digest, size = hashlib.sha256(), _size(path)
    for part in _parts(path, size):
        digest.update(part)
    return Entry(size, digest.hexdigest())


def _flush(path: pathlib.Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _compared(path: pathlib.Path, wanted: Entry, progress: Progress) -> str:
    """What is wrong with a file; empty, where nothing is."""
    # Not every name is of a file whose end can be read to.
    if not is_remote(path) and path.exists() and not path.is_file():
        return "is no file"
    digest = hashlib.sha256()
    try:
        if not _has_size(path, wanted.size):
            return _resized(_size(path), wanted.size)
        for part in _parts(path, wanted.size):
            digest.update(part)
            progress(len(part))
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    return "" if digest.hexdigest() == wanted.sha256 else "has other bytes than were written"


def _resized(found: int, wanted: int) -> str:
    return f"has {found:,} bytes of {wanted:,}" if found < wanted else f"has {found:,} bytes, not {wanted:,}"


def _parts(path: pathlib.Path, size: int) -> Iterator[bytes | memoryview]:
    """The bytes of a file that has so many."""
    if is_remote(path):
        for start in range(0, size, _PART):
            yield _remote().read_range(str(path), start, min(start + _PART, size))
        return
    buffer = memoryview(bytearray(min(_PART, size) or 1))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            yield buffer[:count]


def _size(path: pathlib.Path) -> int:
    if not is_remote(path):
        return path.stat().st_size
    return _remote().size(str(path))


def _has_size(path: pathlib.Path, size: int) -> bool:
    """Whether the file has so many bytes; in a bucket, for which to say how many takes long, by two of them."""
    if not is_remote(path):
        return path.stat().st_size == size

    def holds(offset: int) -> bool:
        try:
            return bool(_remote().read_range(str(path), offset, offset + 1))
        except ValueError:  # it ends before
            return False

    return not holds(size) and (size == 0 or holds(size - 1))


def _remote():
    from t5x_mini import remote  # TensorStore takes a moment to import

    return remote
