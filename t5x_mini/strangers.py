"""Small files that anybody may have written, read within limits.

A header, a manifest or a vocabulary is read whole. One that claims or has gigabytes, or nests its brackets a million
deep, is refused before it fills the memory or the stack.
"""

from __future__ import annotations

import json
import os
from typing import Any

from t5x_mini.errors import UserError
from t5x_mini.tasks import files

MIB = 1 << 20
# In the environment while no module may be imported because a configuration names it (`--no_gin_imports`).
NO_GIN_IMPORTS = "T5X_MINI_NO_GIN_IMPORTS"


def read_bytes(path: str | os.PathLike[str], what: str, most: int) -> bytes:
    """The file's content.

    Args:
        path: of the file, here or remote.
        what: it should be: 'a gin file'.
        most: bytes that such a file has.

    Raises:
        FileNotFoundError: there is none.
        UserError: it is larger, or cannot be read.
    """
    path = os.fspath(path)
    try:
        size = files.size(path)
        if size > most:
            raise UserError(
                f"{path} has {size:,} bytes, and {what} has {most:,} at most: it is something else, or damaged. Write "
                "the path of the right file, or copy it again."
            )
        return files.read_bytes(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"{path} can't be read as {what}: {error.strerror or error}.") from error


def parse_json(text: str | bytes, where: object, what: str) -> Any:
    """The value that JSON text holds. Raises UserError, with `where` it stands and `what` it should be, for others."""
    try:
        return json.loads(text)
    except RecursionError:
        reason = "its brackets are nested too deep"
    except ValueError as error:
        reason = str(error)
    raise UserError(f"{where} is not {what}: it isn't JSON ({reason}). Copy it again.") from None


def read_json(path: str | os.PathLike[str], what: str, most: int = 16 * MIB) -> dict[str, Any]:
    """The JSON object in a file. Raises what `read_bytes` and `parse_json` raise, and UserError for other values."""
    found = parse_json(read_bytes(path, what, most), path, what)
    if not isinstance(found, dict):
        raise UserError(f"{path} is not {what}: it holds a {type(found).__name__}, not an object. Copy it again.")
    return found
