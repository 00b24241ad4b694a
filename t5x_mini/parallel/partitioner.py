"""How a step runs on many devices: `mesh` (jit and NamedSharding, the default) or `pmap`.

Both take the same state and give the same losses. Under either, the state is a tree of global arrays; under pmap every
device holds all of it, so checkpoints need not know which of the two wrote them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from t5x_mini.errors import UserError
from t5x_mini.parallel.config import PartitioningConfig
from t5x_mini.parallel.mesh import make_mesh
from t5x_mini.parallel.sharding import state_spec

Shapes = Mapping[str, jax.ShapeDtypeStruct]
PMAP_AXIS = "data"
_NUMBER = jax.ShapeDtypeStruct((), np.float32)
# Else the TPU's compiler makes a loop of each product with a kernel that is split over devices, one turn for each part,
# and every turn reads and writes the whole result: T5 1.1 base split over 16 chips took a third longer by its estimate.
TPU_COMPILER_OPTIONS = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": 1_000_000}


@dataclasses.dataclass(frozen=True)
class RowShare:
    """The part of a batch's rows that a process reads.

    Attributes:
        index: which one, of `count`. Processes over which `model` reaches need the same rows, and have the same.
        count: parts that a batch is read in.
        is_first: whether no process before this one has the same part.
    """

    index: int = 0
    count: int = 1
    is_first: bool = True


def row_share(grid: np.ndarray, process: int) -> RowShare:
    """The share of `process` in batches whose rows are split over devices as `grid` has them, `[ways, copies]`.

    A host's chips are neighbours in the slice, and not always in the mesh: their rows need not be consecutive.

    Raises:
        UserError: where processes would need rows of which some are the same and some are not.
    """
    rows: dict[int, frozenset[int]] = {}
    for part, devices in enumerate(grid):
        for device in devices:
            rows[device.process_index] = rows.get(device.process_index, frozenset()) | {part}
    shares = sorted(set(rows.values()), key=min)
    if sum(map(len, shares)) != len(grid) or len(set(map(len, shares))) > 1:
        raise UserError(
            f"Rows split {len(grid)} ways, with {grid.shape[1]} devices for each part, cannot be shared out to "
            f"{len(rows)} processes so that each reads its own. Write a MESH_MODEL that divides the devices of one "
            "host, or is a multiple of them."
        )
    own = rows[process]
    return RowShare(shares.index(own), len(shares), process == min(one for one in rows if rows[one] == own))


def make_partitioner(config: PartitioningConfig, devices: list[jax.Device] | None = None) -> Partitioner:
    """The partitioner that `config.kind` names, over `devices` (default: all)."""
    if config.kind == "mesh":
        return MeshPartitioner(make_mesh(config, devices))
    if (config.data, config.fsdp, config.model) not in ((-1, 1, 1), (len(devices or jax.devices()), 1, 1)):
        raise UserError(
            f"PARTITIONING = 'pmap' is plain data parallelism, but the mesh asks for data={config.data}, "
            f"fsdp={config.fsdp}, model={config.model}; write PARTITIONING = 'mesh', or leave the mesh's sizes out"
        )
    return PmapPartitioner(devices or jax.devices())


class _OverMesh:
    """What both kinds have in common: a mesh, whose first axes split a batch's rows.

    Attributes:
        mesh: all devices.
        rows: the sharding of a batch.
        replicated: the sharding of what every device has whole.
        row_ways: parts that a batch's rows are split into.
    """

    def __init__(self, mesh: Mesh, row_axes: tuple[str, ...]):
        self.mesh = mesh
        self.rows = NamedSharding(mesh, PartitionSpec(row_axes))
        self.replicated = NamedSharding(mesh, PartitionSpec())
        self.row_ways = math.prod(mesh.shape[axis] for axis in row_axes)

    @property
    def row_share(self) -> RowShare:
        """This process's part of a batch's rows, which it gives to `put`."""
        return row_share(self.mesh.devices.reshape(self.row_ways, -1), jax.process_index())

    def put(self, host_batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """Joins the rows of every host to global arrays; this host's rows go to its devices."""
        return {name: jax.make_array_from_process_local_data(self.rows, rows) for name, rows in host_batch.items()}


class MeshPartitioner(_OverMesh):
    """jit over a mesh: arrays are split as `parallel/sharding.py` says, and XLA adds the collectives."""

    axis_name = None

    def __init__(self, mesh: Mesh):
        super().__init__(mesh, ("data", "fsdp"))

    def shardings(self, shapes: Any, axes: Any) -> Any:
        """The sharding of every array of a tree, given the logical axes in place of each."""
        return jax.tree.map(
            lambda shape, names: NamedSharding(self.mesh, state_spec(names, shape.shape, self.mesh)), shapes, axes
        )

    def jit(self, function: Callable, in_shardings: tuple, out_shardings: Any, donate: tuple[int, ...] = ()):
        """`function` over the mesh; shardings are trees of NamedSharding."""
        jitted = jax.jit(
            function,
            in_shardings=in_shardings,
            out_shardings=out_shardings,
            donate_argnums=donate,
            compiler_options=TPU_COMPILER_OPTIONS if self.mesh.devices.flat[0].platform == "tpu" else None,
        )
        return _InMesh(jitted, self.mesh)

    def compile_train_step(
        self, step: Callable, state_shapes: Any, state_shardings: Any, batch_shapes: Shapes, numbers: int = 0
    ):
        """Compiles `(state, batch, *numbers) -> (state, sums)` ahead of time; the numbers are float32, for all devices.

        The old state's memory is used for the new.
        """
        rows = {name: self.rows for name in batch_shapes}
        given = (state_shardings, rows, *[self.replicated] * numbers)
        jitted = self.jit(step, given, (state_shardings, self.replicated), donate=(0,))
        return jitted.lower(state_shapes, dict(batch_shapes), *[_NUMBER] * numbers).compile()

    def compile_eval_step(self, step: Callable, param_shapes: Any, param_shardings: Any, batch_shapes: Shapes):
        """Compiles `(params, batch) -> sums`."""
        rows = {name: self.rows for name in batch_shapes}
        jitted = self.jit(step, (param_shardings, rows), self.replicated)
        return jitted.lower(param_shapes, dict(batch_shapes)).compile()


class _InMesh:
    """A jitted function that is always traced with its mesh in use, so that the model's constraints apply."""

    def __init__(self, jitted, mesh: Mesh):
        self._jitted, self._mesh = jitted, mesh

    def __call__(self, *args):
        with jax.set_mesh(self._mesh):
            return self._jitted(*args)

    def lower(self, *args):
        with jax.set_mesh(self._mesh):
            return self._jitted.lower(*args)


class PmapPartitioner(_OverMesh):
    """Plain data parallelism: the batch is split over the devices, and each holds the whole state.

    The step is mapped with `jax.shard_map`, which is what `jax.pmap` consists of today, and what its documentation
    recommends for several processes: `jax.pmap` itself cannot be compiled ahead of time there.
    """

    axis_name = PMAP_AXIS

    def __init__(self, devices: list[jax.Device]):
        super().__init__(Mesh(np.asarray(devices), (PMAP_AXIS,), axis_types=(AxisType.Auto,)), (PMAP_AXIS,))
        self.devices = devices

    def shardings(self, shapes: Any, axes: Any) -> Any:
        return jax.tree.map(lambda _: self.replicated, shapes)

    def jit(self, function: Callable, in_shardings: tuple, out_shardings: Any, donate: tuple[int, ...] = ()):
        """`function` over the devices; shardings are trees of NamedSharding."""
        return jax.jit(function, in_shardings=in_shardings, out_shardings=out_shardings, donate_argnums=donate)

    def compile_train_step(
        self, step: Callable, state_shapes: Any, state_shardings: Any, batch_shapes: Shapes, numbers: int = 0
    ):
        return self._map(step, state_shapes, batch_shapes, donate=(0,), numbers=numbers)

    def compile_eval_step(self, step: Callable, param_shapes: Any, param_shardings: Any, batch_shapes: Shapes):
        return self._map(step, param_shapes, batch_shapes)

    def _map(
        self, step: Callable, first_shapes: Any, batch_shapes: Shapes, donate: tuple[int, ...] = (), numbers: int = 0
    ):
        specs = (PartitionSpec(), PartitionSpec(PMAP_AXIS), *[PartitionSpec()] * numbers)
        mapped = jax.shard_map(step, mesh=self.mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=False)
        given = (self.replicated, self.rows, *[self.replicated] * numbers)
        jitted = self.jit(mapped, given, self.replicated, donate)
        return jitted.lower(first_shapes, dict(batch_shapes), *[_NUMBER] * numbers).compile()


Partitioner = MeshPartitioner | PmapPartitioner
