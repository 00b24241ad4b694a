#!/usr/bin/env python
"""T5 1.1's train step in the TPU's compiler, beside T5X's: compiled, not run.

    python benchmarks/tpu_plans.py
    python benchmarks/tpu_plans.py --rows base-unrolled

Prints one JSON line a row, with T5X's figures where they are known: the same model, global batch, lengths (512 + 114),
optimiser (Adafactor), dtype (bfloat16), no dropout and as much recomputation; the mesh is our own. T5X's were taken
with libtpu 0.0.52 and jax 0.10.2, from programs compiled in the same way. Cycles are the compiler's estimates, summed
over the program's text, each loop's as often as it runs; T5X's are given for the program that has no loops. Memory is
of one device. The unrolled program takes several minutes. Needs libtpu (`pip install '.[plan]'`), and no TPU.
"""

import argparse
import dataclasses
import json
from importlib import metadata

from t5x_mini.errors import UserError
from t5x_mini.plan.compile import plan
from t5x_mini.plan.figures import Plan
from t5x_mini.plan.topologies import GIB


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A step, and what is known of T5X's.

    Attributes:
        size: of T5 1.1.
        topology: as of `t5x-mini plan`.
        rows: of the global batch.
        remat: what the backward pass computes again.
        scanned: layers in a loop, or written out.
        mesh: devices along `data` and `fsdp`.
        loss_blocks: parts of the vocabulary that logits are computed for in turn.
        t5x_temporaries: GiB of a device.
        t5x_cycles: millions; None where the program has loops.
        t5x_fits: whether T5X's program fits in a device's memory.
    """

    size: str
    topology: str
    rows: int
    remat: str
    scanned: bool
    mesh: tuple[int, int]
    loss_blocks: int = 1
    t5x_temporaries: float
    t5x_cycles: float | None = None
    t5x_fits: bool = True

    @property
    def bindings(self) -> list[str]:
        data, fsdp = self.mesh
        mesh = [f"MESH_DATA={data}", f"MESH_FSDP={fsdp}", "MESH_MODEL=1"]
        # T5X computes no statistics of blocks.
        settings = [f"BATCH_SIZE={self.rows}", f"REMAT={self.remat}", f"SCAN_LAYERS={self.scanned}"]
        return [*mesh, *settings, f"LOSS_BLOCKS={self.loss_blocks}", "STATISTICS_PERIOD=0", "PRNG_IMPL=rbg"]


ROWS = {
    "base-unrolled": Row(
        size="base",
        topology="v5e:4x4",
        rows=256,
        remat="none",
        scanned=False,
        mesh=(1, 16),
        t5x_temporaries=4.51,
        t5x_cycles=170,
    ),
    "base-scanned": Row(
        size="base",
        topology="v5e:4x4",
        rows=256,
        remat="minimal",
        scanned=True,
        mesh=(1, 16),
        loss_blocks=4,
        t5x_temporaries=3.38,
    ),
    "xl": Row(
        size="xl",
        topology="v5e:4x4",
        rows=128,
        remat="minimal",
        scanned=True,
        mesh=(1, 16),
        t5x_temporaries=18.25,
        t5x_fits=False,
    ),
    "xxl": Row(
        size="xxl", topology="v4:4x4x4", rows=256, remat="full", scanned=True, mesh=(-1, 16), t5x_temporaries=6.77
    ),
}


def line(name: str, row: Row, made: Plan) -> dict:
    """What is printed of a row."""
    temporaries = (made.memory.temporaries or 0) / GIB
    found = {
        "benchmark": "tpu_plans",
        "row": name,
        "label": "compiled, not run",
        "libtpu": metadata.version("libtpu"),
        "topology": row.topology,
        "mesh": dict(made.mesh),
        "rows": row.rows,
        "remat": row.remat,
        "scanned": row.scanned,
        "loss_blocks": row.loss_blocks,
        "fits": made.memory.fits,
        "state_gib": round((made.memory.parameters + made.memory.optimizer) / GIB, 3),
        "temporaries_gib": round(temporaries, 3),
        "t5x_temporaries_gib": row.t5x_temporaries,
        "t5x_fits": row.t5x_fits,
        "temporaries_to_t5x": round(temporaries / row.t5x_temporaries, 3),
        "mega_cycles": made.cycles and round(made.cycles / 1e6, 1),
        "compile_s": made.compile_s,
    }
    if row.t5x_cycles and made.cycles:
        found |= {"t5x_mega_cycles": row.t5x_cycles, "cycles_to_t5x": round(made.cycles / 1e6 / row.t5x_cycles, 3)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    for name in parser.parse_args().rows:
        row = ROWS[name]
        files = ["gin/runs/pretrain.gin", f"gin/models/t5_1_1/{row.size}.gin"]
        try:
            print(json.dumps(line(name, row, plan(files, row.bindings, row.topology))), flush=True)
        except UserError as error:
            print(json.dumps({"benchmark": "tpu_plans", "row": name, "error": str(error)}), flush=True)


if __name__ == "__main__":
    main()
