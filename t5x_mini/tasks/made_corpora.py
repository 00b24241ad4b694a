"""Where corpora that are made on this machine are kept, and how one comes to be there whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def cache_root(name: str) -> Path:
    """`$XDG_CACHE_HOME/t5x_mini/<name>`, or in `~/.cache`."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "t5x_mini" / name


def make(folder: Path, write: Callable[[Path], None]) -> None:
    """Writes beside `folder` and renames: what has the final name is complete, whoever else makes it or is killed."""
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.partial.", dir=folder.parent))
    try:
        write(partial)
        partial.chmod(0o755)
        try:
            partial.rename(folder)
        except OSError:  # another process was first; its corpus is the same
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
