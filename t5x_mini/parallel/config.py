"""How the devices share the work."""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartitioningConfig:
    """The device mesh.

    Attributes:
        kind: `mesh` (jit and NamedSharding: batch, parameters and layers' widths can all be split) or `pmap` (plain
            data parallelism: every device holds the whole model).
        data: devices along `data`: rows of the batch are split, parameters copied. -1: all that are left.
        fsdp: devices along `fsdp`: rows of the batch are split, and so are parameters and optimiser state.
        model: devices along `model`: heads, MLP width and vocabulary are split (tensor parallelism).
    """

    kind: Literal["mesh", "pmap"] = "mesh"
    data: int = -1
    fsdp: int = 1
    model: int = 1
