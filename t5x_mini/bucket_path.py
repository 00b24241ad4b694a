"""Paths in buckets (`gs://`, `s3://`) with pathlib's methods, through TensorStore and without TensorFlow.

Orbax and JAX's compilation cache reach files through etils' `epath.Path`, which wants TensorFlow or gcsfs for a bucket.
Once this module is imported, they get `BucketPath` too. A bucket has objects and no folders: one is there as long as
something is in it, and making one does nothing. It has no append and no rename either: an object is written whole.
"""

from __future__ import annotations

import fnmatch
import io
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import IO, Any, NoReturn

from etils import epath
from etils.epath import gpath, stat_utils

from t5x_mini import remote


@epath.register_path_cls(("gs://", "s3://"))
class BucketPath(gpath.PosixGPath):
    """An object of a bucket, or what the names of several begin with. Methods are those of `pathlib.Path`.

    All raise UserError where the bucket cannot be reached, with what it takes.
    """

    @property
    def parents(self) -> tuple[BucketPath, ...]:
        """Those down to the bucket."""
        return tuple(parent for parent in super().parents if len(parent.parts) > 2)

    def exists(self) -> bool:
        return self.is_file() or self.is_dir()

    def is_file(self) -> bool:
        return remote.exists(str(self))

    def is_dir(self) -> bool:
        return bool(self._inside())

    def iterdir(self) -> Iterator[BucketPath]:
        """What is in the folder; nothing, where there is none."""
        names = {name.partition("/")[0] for name in self._inside()}
        return (self / name for name in sorted(names))

    def glob(self, pattern: str) -> Iterator[BucketPath]:
        """As pathlib's, but for `**`."""
        wanted = PurePosixPath(pattern).parts
        found = {PurePosixPath(name).parts[: len(wanted)] for name in self._inside()}
        return (
            self.joinpath(*parts)
            for parts in sorted(found)
            if len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))
        )

    def absolute(self) -> BucketPath:
        return self

    def resolve(self, strict: bool = False) -> BucketPath:
        return self

    def expanduser(self) -> BucketPath:
        return self

    def stat(self) -> stat_utils.StatResult:
        """With etils' names; the time is not known and 0."""
        folder = not self.is_file()
        if folder and not self.is_dir():
            raise FileNotFoundError(f"There is nothing at '{self}'.")
        length = 0 if folder else remote.size(str(self))
        return stat_utils.StatResult(is_directory=folder, length=length, mtime=0, owner=None, group=None, mode=None)

    def read_bytes(self) -> bytes:
        return remote.read_bytes(str(self))

    def read_text(self, encoding: str | None = None, errors: str | None = None) -> str:
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

    def write_bytes(self, data: bytes) -> int:
        remote.write_bytes(str(self), data)
        return len(data)

    def write_text(self, text: str, encoding: str | None = None, errors: str | None = None) -> int:
        return self.write_bytes(text.encode(encoding or "utf-8", errors or "strict"))

    def open(self, mode: str = "r", *, encoding: str | None = None, errors: str | None = None, **_: Any) -> IO[Any]:
        """For reading, or for writing from the start: then the object is there once the file is closed."""
        kind = mode.replace("b", "").replace("t", "")
        if kind == "r":
            file: IO[bytes] = io.BytesIO(self.read_bytes())
        elif kind == "w":
            file = _Draft(self.write_bytes)
        else:
            raise io.UnsupportedOperation(f"An object in a bucket is read or written whole, not opened with {mode!r}.")
        return file if "b" in mode else io.TextIOWrapper(file, encoding=encoding or "utf-8", errors=errors)

    def mkdir(self, mode: int | None = None, parents: bool = False, exist_ok: bool = False) -> None:
        if not exist_ok and self.exists():
            raise FileExistsError(f"There is a '{self}' already.")

    def unlink(self, missing_ok: bool = False) -> None:
        if not missing_ok and not self.is_file():
            raise FileNotFoundError(f"There is no file '{self}'.")
        remote.delete(str(self))

    def replace(self, target: BucketPath) -> BucketPath:
        """Gives the object another name, by a copy: no bucket renames."""
        target.write_bytes(self.read_bytes())
        self.unlink()
        return target

    def rmtree(self, missing_ok: bool = False) -> None:
        if not self.is_dir():
            self.unlink(missing_ok)
        else:
            remote.delete_folder(str(self))

    def _inside(self) -> list[str]:
        """Names of all objects below, seen from here."""
        prefix = f"{str(self).rstrip('/')}/"
        return [path.removeprefix(prefix) for path in remote.listing(prefix) if path != prefix]

    @property
    def _backend(self) -> NoReturn:
        # What etils does with all that is not here; its own way would be TensorFlow's.
        raise NotImplementedError(f"This can't be done in a bucket: {self}")


class _Draft(io.BytesIO):
    """What is written to an object, up to its end."""

    def __init__(self, write: Callable[[bytes], object]):
        super().__init__()
        self._write = write

    def __exit__(self, kind: object, *rest: object) -> None:
        if kind is not None:
            super().close()  # half an object is none
        self.close()

    def close(self) -> None:
        if not self.closed:
            self._write(self.getvalue())
        super().close()
