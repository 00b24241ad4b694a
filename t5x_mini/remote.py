"""Files in buckets (`gs://`, `s3://`, and `memory://` for tests) through TensorStore, and on web servers.

Buckets are reached as checkpoints are, with the credentials that TensorStore finds: Google's application-default ones,
AWS's environment or profile, or none for a public bucket. The interfaces are `tasks/files.py`, for what is read as
text, and `storage.py`, for runs.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import io
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import tensorstore as ts

from t5x_mini.errors import UserError

# TensorStore's own 32 attempts would keep a user without network waiting for a quarter of an hour.
_RETRIES = {"max_retries": 5, "initial_delay": "500ms"}
_CONTEXT = ts.Context({"gcs_request_retries": _RETRIES, "s3_request_retries": _RETRIES})
_DRIVERS = {"gs": "gcs", "s3": "s3", "memory": "memory"}
# Requests sent at once while a file's size is searched for.
_PROBES = 16
_WEB_TIMEOUT = 60
# Seconds before the second, third and fourth attempt.
_WEB_PAUSES = (0.5, 1, 2)


def is_web(path: str) -> bool:
    return path.startswith(("http://", "https://"))


def listing(prefix: str) -> list[str]:
    """Every file of the bucket whose path starts with `prefix`, sorted."""
    store, key = _store(prefix)
    bucket = prefix.removesuffix(key)
    bucket += "" if bucket.endswith("/") else "/"
    with _reaching(prefix):
        return sorted(bucket + name.decode() for name in store.list(_starting_with(key)).result())


def exists(path: str) -> bool:
    """Whether there is such a file."""
    if is_web(path):
        try:
            return _web_size(path) >= 0
        except FileNotFoundError:
            return False
    store, key = _store(path)
    with _reaching(path):
        return bool(key) and store.read(key, byte_range=slice(0, 0)).result().state == "value"


def size(path: str) -> int:
    """Bytes of the file. Raises FileNotFoundError."""
    return _web_size(path) if is_web(path) else _bucket_size(path)


def version(path: str) -> str:
    """The server's own mark of this content. Raises FileNotFoundError."""
    if is_web(path):
        headers = _request(path, "HEAD").headers
        return headers.get("ETag") or f"{headers.get('Content-Length')} bytes"
    store, key = _store(path)
    with _reaching(path):
        result = store.read(key, byte_range=slice(0, 1) if _holds(store, key, path, [0])[0] else None).result()
    return result.stamp.generation.hex()


def read_range(path: str, start: int, end: int) -> bytes:
    """Bytes `start` to `end` (excluded), which must lie inside the file. Raises FileNotFoundError, ValueError."""
    if is_web(path):
        return _read_web(path, start, end)
    store, key = _store(path)
    with _reaching(path):
        return _value(store.read(key, byte_range=slice(start, end)), path)


def read_bytes(path: str) -> bytes:
    """The whole file. Raises FileNotFoundError."""
    if is_web(path):
        return _request(path, "GET").body
    store, key = _store(path)
    with _reaching(path):
        return _value(store.read(key), path)


def write_bytes(path: str, data: bytes) -> None:
    """Creates or replaces the file."""
    if is_web(path):
        raise UserError(f"{path!r} is on a web server, which cannot be written to. Write to a folder, gs:// or s3://.")
    store, key = _store(path)
    with _reaching(path):
        store.write(key, data).result()


def swap(path: str, expected: bytes | None, data: bytes | None) -> bool:
    """Writes the file (None: removes it) if it holds what is expected (None: is not there), and says whether it did.

    No other process's write can come between the two: the write is conditional on the file's generation.
    """
    store, key = _store(path)
    with _reaching(path):
        found = store.read(key).result()
        if (found.value if found.state == "value" else None) != expected:
            return False
        return bool(store.write(key, data, if_equal=found.stamp.generation).result().generation)


def delete(path: str) -> None:
    """Removes the file from its bucket, if it is there."""
    store, key = _store(path)
    with _reaching(path):
        store.write(key, None).result()


def delete_folder(path: str) -> None:
    """Removes all files of the bucket whose paths start with this one and a slash. Raises ValueError for a bucket."""
    store, key = _store(f"{path.rstrip('/')}/")
    if not key:
        raise ValueError(f"{path} is a whole bucket.")
    with _reaching(path):
        store.delete_range(_starting_with(key)).result()


class RemoteFile(io.RawIOBase):
    """A remote file to read and to seek in; every read is one request, so wrap it in a large buffer."""

    def __init__(self, path: str):
        self._path, self._position, self._size = path, 0, size(path)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def readall(self) -> bytes:
        start, self._position = self._position, max(self._position, self._size)
        return read_range(self._path, start, self._size) if start < self._size else b""

    def readinto(self, buffer) -> int:
        end = min(self._position + len(buffer), self._size)
        if end <= self._position:
            return 0
        data = read_range(self._path, self._position, end)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def _store(path: str) -> tuple[ts.KvStore, str]:
    """(the bucket, the key in it)."""
    scheme, _, rest = path.partition("://")
    if scheme not in _DRIVERS:
        raise UserError(f"Paths that start with {scheme}:// cannot be read: {path!r}. Use gs://, s3:// or https://.")
    if scheme == "memory":
        return _open_bucket(scheme, None), rest
    bucket, _, key = rest.partition("/")
    if not bucket:
        raise UserError(f"{path!r} names no bucket. Write {scheme}://bucket/path.")
    return _open_bucket(scheme, bucket), key


def _starting_with(key: str) -> ts.KvStore.KeyRange:
    # UTF-8 sorts as code points do, so every key with the prefix lies before this one.
    return ts.KvStore.KeyRange(key, key[:-1] + chr(ord(key[-1]) + 1)) if key else ts.KvStore.KeyRange()


@functools.lru_cache(maxsize=64)
def _open_bucket(scheme: str, bucket: str | None) -> ts.KvStore:
    spec = {"driver": _DRIVERS[scheme]} | ({"bucket": bucket} if bucket else {})
    with _reaching(f"{scheme}://{bucket or ''}"):
        return ts.KvStore.open(spec, context=_CONTEXT).result()


@contextlib.contextmanager
def _reaching(path: str) -> Iterator[None]:
    """TensorStore's errors as ones for people, except for OUT_OF_RANGE."""
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:
        message = " ".join(str(error).split())
        if message.startswith("OUT_OF_RANGE"):
            raise
        raise UserError(
            f"{path!r} cannot be reached: {message[:500]}. It needs the network and, unless the bucket is public, "
            "credentials (for gs://: gcloud auth application-default login)."
        ) from error


def _value(future: ts.Future, path: str) -> bytes:
    result = future.result()
    if result.state == "missing":
        raise FileNotFoundError(f"There is no file {path!r}.")
    return result.value


def _holds(store: ts.KvStore, key: str, path: str, offsets: Sequence[int]) -> list[bool]:
    """Whether the file has a byte at each of the offsets; one round trip."""

    def holds(future: ts.Future) -> bool:
        try:
            return bool(_value(future, path))
        except ValueError as error:
            if "OUT_OF_RANGE" in str(error):
                return False
            raise

    return [holds(future) for future in [store.read(key, byte_range=slice(k, k + 1)) for k in offsets]]


def _bucket_size(path: str) -> int:
    # TensorStore has no call for it. Reads of one byte, many at once, find the end in about eight round trips.
    store, key = _store(path)
    with _reaching(path):
        bounds = [0, *(1 << k for k in range(10, 50, 2))]
        low, high = _bracket(bounds, _holds(store, key, path, bounds))
        while high - low > 1:
            bounds = sorted({low + (high - low) * i // _PROBES for i in range(1, _PROBES)} - {low})
            low, high = _bracket([low, *bounds, high], [True, *_holds(store, key, path, bounds), False])
    return high


def _bracket(offsets: Sequence[int], held: Sequence[bool]) -> tuple[int, int]:
    """(the last offset that is held, the next one); (-1, 0) if none is."""
    if not held[0]:
        return -1, 0
    end = list(held).index(False)
    return offsets[end - 1], offsets[end]


class _Response(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes


def _request(path: str, method: str, headers: Mapping[str, str] | None = None, limit: int | None = None) -> _Response:
    """The server's answer, with at most `limit` bytes. What may be a passing trouble is tried again."""
    request = urllib.request.Request(path, method=method, headers={"User-Agent": "t5x-mini", **(headers or {})})
    for pause in (*_WEB_PAUSES, None):
        try:
            with urllib.request.urlopen(request, timeout=_WEB_TIMEOUT) as response:
                return _Response(response.status, response.headers, response.read(limit))
        except urllib.error.HTTPError as error:
            if error.code in (404, 410):
                raise FileNotFoundError(f"There is no file {path!r}: the server answers {error.code}.") from error
            if pause is None or error.code < 500:
                raise UserError(f"{path!r} cannot be read: the server answers {error.code} {error.reason}.") from error
        except (OSError, http.client.HTTPException) as error:
            if pause is None:
                raise UserError(f"{path!r} cannot be reached: {error}. It needs the network.") from error
        time.sleep(pause)


def _web_size(path: str) -> int:
    length = _request(path, "HEAD").headers.get("Content-Length")
    if length is None:
        raise UserError(f"The server doesn't say how long {path!r} is. Download the file, and give its local path.")
    return int(length)


def _read_web(path: str, start: int, end: int) -> bytes:
    answer = _request(path, "GET", {"Range": f"bytes={start}-{end - 1}"}, end - start)
    if answer.status != 206 and start > 0:
        raise UserError(f"The server sends {path!r} only as a whole. Download the file, and give its local path.")
    return answer.body
