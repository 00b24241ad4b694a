"""What a command is to `t5x-mini --help`, to the parser and to who runs it."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Command:
    summary: str  # for the list of commands
    description: str
    examples: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]
    """Imports what it needs itself: `--help` and a typing mistake wait for neither JAX nor TensorFlow."""
