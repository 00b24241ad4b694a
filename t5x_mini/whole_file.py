"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from pathlib import Path

from t5x_mini.storage import is_remote


def write_whole(path: Path, content: str | bytes | Iterable[str]) -> None:
    """Writes a file under another name, and gives it its own when it is on the disk. Makes its folder.

    Args:
        path: of the file; in a bucket, where an object appears whole, the draft is left out.
        content: all of it, or its parts one after another.
    """
    parts = [content] if isinstance(content, str | bytes) else content
    encoded = (part if isinstance(part, bytes) else part.encode("utf-8", "backslashreplace") for part in parts)
    if is_remote(path):
        path.write_bytes(b"".join(encoded))
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two processes, or threads, may write the same file.
    draft = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.draft")
    try:
        with draft.open("wb") as file:
            file.writelines(encoded)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
