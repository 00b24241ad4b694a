"""Writes a checkpoint array by array, for models that nothing holds in memory as a whole.

Orbax wants all arrays of a checkpoint at once, and copies them: it takes three times the memory of the model. Here it
gets `_Unread` ones, which are read when their turn to be written has come.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from t5x_mini.checkpoint import layout, manifest, steps
from t5x_mini.checkpoint.manifest import Manifest
from t5x_mini.checkpoint.run_item import RunItem
from t5x_mini.checkpoint.steps import FOLDER

# Arrays are written together up to this size: each batch ends with waiting for the disk.
_BATCH_BYTES = 256 << 20


def write(
    run_dir: str, step: int, shapes: Mapping[str, tuple[int, ...]], read: Callable[[str], np.ndarray], run: RunItem
) -> None:
    """Writes `run_dir/checkpoints/<step>` without a random key and a position: runs start from it, and none goes on.

    What an interrupted call leaves is no checkpoint, and is removed by the next.

    Args:
        run_dir: the folder of a run.
        step: updates that the parameters have seen.
        shapes: of the arrays by their names on disk (`params/...`, `opt_state/...`), in the order to read them in.
        read: gives one of them.
        run: what the arrays are.
    """
    unread = {name: _Unread(tuple(shape), lambda name=name: read(name)) for name, shape in shapes.items()}
    unread["step"] = _Unread((), lambda: np.asarray(step, np.int32))
    handlers = {
        "state": ocp.PyTreeCheckpointHandler(
            type_handler_registry=ocp.type_handlers.create_type_handler_registry((_Unread, _Writer()))
        ),
        "run": ocp.JsonCheckpointHandler(),
    }
    options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False, create=True, cleanup_tmp_directories=True)
    with ocp.CheckpointManager(epath.Path(run_dir).absolute() / FOLDER, options=options, item_handlers=handlers) as to:
        state, item = ocp.args.PyTreeSave(layout.nest(unread)), ocp.args.JsonSave(run.to_json())
        to.save(step, args=ocp.args.Composite(state=state, run=item), custom_metadata=steps.MARK, force=True)
    folder = pathlib.Path(run_dir) / FOLDER / str(step)
    manifest.write(folder, Manifest(manifest.entries(folder, manifest.paths(folder)), saved_at=time.time()))


@dataclasses.dataclass(frozen=True)
class _Unread:
    """Stands for an array in the tree that Orbax is given; it has what Orbax asks of one before writing."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]
    dtype: np.dtype = np.dtype(np.float32)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize


class _Writer(ocp.type_handlers.NumpyHandler):
    """Orbax's writer of numpy arrays, given a few at a time; what it writes reads back as all numpy arrays do."""

    def __init__(self):
        super().__init__(deepcopy_host_arrays=False)

    async def serialize(
        self,
        values: Sequence[_Unread],
        infos: Sequence[ocp.type_handlers.ParamInfo],
        args: Sequence[ocp.SaveArgs] | None = None,
    ) -> Sequence[ocp.future.Future]:
        args = args or [ocp.SaveArgs()] * len(values)
        for some in _batches([value.nbytes for value in values]):
            arrays = [values[i].read() for i in some]
            for writing in await super().serialize(arrays, [infos[i] for i in some], [args[i] for i in some]):
                writing.result()
        return []


def _batches(sizes: Sequence[int]) -> list[list[int]]:
    """Indices of arrays of these sizes in batches of `_BATCH_BYTES` at most, or of one array that is larger."""
    batches, room = [], 0
    for i, size in enumerate(sizes):
        if size > room:
            batches.append([])
            room = _BATCH_BYTES
        batches[-1].append(i)
        room -= size
    return batches
