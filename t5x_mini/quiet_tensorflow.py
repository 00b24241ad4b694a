"""Keeps TensorFlow's start-up messages from a terminal where they tell nobody anything."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def hold_back_stderr() -> Iterator[None]:
    """Holds back what is written to standard error, by C++ too, and shows it only if the block raises.

    TensorFlow's libraries report missing GPUs and oneDNN while they are loaded, before any setting of theirs applies.
    """
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(terminal, held.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
