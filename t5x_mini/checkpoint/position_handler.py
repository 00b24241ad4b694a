"""Lets Orbax save the data position: some bytes, another file for every host."""

from __future__ import annotations

import dataclasses

import jax
import orbax.checkpoint as ocp
from etils import epath


class PositionHandler(ocp.CheckpointHandler):
    """Writes and reads `process_<i>-of-<n>`; every host its own."""

    def save(self, directory: epath.Path, args: PositionSave) -> None:
        _file(directory).write_bytes(args.data)

    def restore(self, directory: epath.Path, args: PositionRestore | None = None) -> bytes | None:
        """This host's bytes, or None where as many hosts did not write (the restored position would be another's)."""
        path = _file(directory)
        return path.read_bytes() if path.exists() else None


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
