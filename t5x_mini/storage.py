"""Files and folders on this machine or in a bucket (`gs://`, `s3://`), with one set of methods: pathlib's."""

from __future__ import annotations

import os
import pathlib

from t5x_mini.errors import UserError

_SCHEMES = ("gs", "s3")


def is_remote(path: str | os.PathLike[str]) -> bool:
    return "://" in os.fspath(path)


def to_path(path: str | os.PathLike[str]) -> pathlib.Path:
    """The path as pathlib's, or, in a bucket, as a `BucketPath`, which has the same methods.

    Raises:
        UserError: it is at neither place, on a web server, say.
    """
    if not is_remote(path):
        return pathlib.Path(path)
    scheme, _, rest = os.fspath(path).partition("://")
    if scheme not in _SCHEMES or not rest.strip("/"):
        raise UserError(f"{path} is neither on this machine nor in a bucket. Write gs://my-bucket/runs/my_run, say.")
    from t5x_mini.bucket_path import BucketPath  # TensorStore takes a moment to import

    return BucketPath(path)


def check_writable(folder: str, name: str) -> None:
    """Refuses, for a run's own folders, what is neither here nor in a bucket of Google's.

    Args:
        folder: as it was written.
        name: of the setting that it was written for.

    Raises:
        UserError: as said.
    """
    if "\0" in folder:
        raise UserError(f"{name} is {folder!r}: no folder's name has a null byte. Write another.")
    if is_remote(folder) and not folder.startswith("gs://"):
        raise UserError(
            f"{name} is {folder}, but runs are written to this machine or to gs://. Write gs://my-bucket/runs/my_run, "
            "say, or a folder where the store is mounted."
        )
    to_path(folder)
