"""Lets Orbax save the data position: some bytes, a file for every host."""

from __future__ import annotations

import dataclasses

import jax
import orbax.checkpoint as ocp
from etils import epath


class PositionHandler(ocp.CheckpointHandler):
    """Writes `process_<i>-of-<n>`, every host its own, and reads it back.

    Where another number of hosts wrote, a host without a file reads the first host's: it is up to the feed whether that
    one's place is everyone's (`Position.check`).
    """

    def save(self, directory: epath.Path, args: PositionSave) -> None:
        _file(directory).write_bytes(args.data)

    def restore(self, directory: epath.Path, args: PositionRestore | None = None) -> bytes:
        path = _file(directory)
        if not path.exists():
            (path,) = directory.glob("process_0-of-*")
        return path.read_bytes()


def _file(directory: epath.Path) -> epath.Path:
    return directory / f"process_{jax.process_index()}-of-{jax.process_count()}"


@ocp.args.register_with_handler(PositionHandler, for_save=True)
@dataclasses.dataclass
class PositionSave(ocp.args.CheckpointArgs):
    data: bytes


@ocp.args.register_with_handler(PositionHandler, for_restore=True)
@dataclasses.dataclass
class PositionRestore(ocp.args.CheckpointArgs):
    pass
