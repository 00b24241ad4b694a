#!/usr/bin/env python
"""Memory of T5 1.1 base's train step with rows of thousands of tokens, with plain and with flash attention.

    python benchmarks/long_rows.py                                       # libtpu is needed, and no TPU; minutes a plan
    python benchmarks/long_rows.py --inputs 2048 --remat minimal

Compiles the step for 16 chips of TPU v5e, 4 rows on each, and prints a JSON line a plan: compiled, not run. Cycles are
the compiler's estimate, and have neither collectives nor what the kernel of flash attention takes.
"""

import argparse
import itertools
import json
from collections.abc import Sequence
from typing import Any

from t5x_mini.plan.compile import plan
from t5x_mini.plan.topologies import GIB

FILES = ("gin/runs/pretrain.gin", "gin/models/t5_1_1/base.gin")
TOPOLOGY, ROWS = "v5e:4x4", 64


def measured(attention: str, remat: str, inputs: int, targets: int) -> dict[str, Any]:
    """One plan; a device's memory in GiB."""
    bindings = ["MESH_DATA=1", "MESH_FSDP=16", "MESH_MODEL=1", "PRNG_IMPL=rbg", f"BATCH_SIZE={ROWS}"]
    bindings += [f"TASK_FEATURE_LENGTHS={{'inputs': {inputs}, 'targets': {targets}}}"]
    made = plan(FILES, [*bindings, f"ATTENTION={attention}", f"REMAT={remat}"], TOPOLOGY)
    memory = made.memory
    return {
        "attention": attention,
        "remat": remat,
        "inputs": inputs,
        "targets": targets,
        "rows": ROWS,
        "temporaries": round(memory.temporaries / GIB, 2),
        "total": round(memory.total / GIB, 2),
        "available": round(memory.available / GIB, 2),
        "fits": memory.fits,
        "cycles": made.cycles,
        "notes": made.notes,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, nargs="+", default=[2048, 4096])
    parser.add_argument("--targets", type=int, default=512)
    parser.add_argument("--remat", nargs="+", default=["none", "minimal"])
    parser.add_argument("--attention", nargs="+", default=["plain", "flash"])
    given = parser.parse_args(arguments)
    for inputs, remat, attention in itertools.product(given.inputs, given.remat, given.attention):
        print(json.dumps(measured(attention, remat, inputs, given.targets)), flush=True)


if __name__ == "__main__":
    main()
