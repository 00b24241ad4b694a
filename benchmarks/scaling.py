"""What each way of saving memory does to the plan of T5 1.1 XL, and a plan of each file of gin/hardware: the tables of
docs/scaling.md.

    python benchmarks/scaling.py --folder=plans        # libtpu is needed, and no TPU; minutes a plan
    python benchmarks/scaling.py --folder=plans --only=offload

A plan is compiled once and kept in the folder as JSON; the tables are of those that are there.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path

import plans

from t5x_mini.plan.figures import Plan
from t5x_mini.plan.topologies import GIB

_SPLIT_16 = {"BATCH_SIZE": 128, "PRNG_IMPL": "'rbg'", "MESH_DATA": 1, "MESH_FSDP": 16, "REMAT": "'full'"}


@dataclasses.dataclass(frozen=True)
class Case:
    """One plan: a model of T5 1.1, bindings of macros, and the hardware."""

    bindings: Mapping[str, object]
    topology: str = "v5e:4x4"
    slices: int = 1
    step: str = "train"
    model: str = "xl"
    hardware: str | None = None

    def make(self, path: Path) -> None:
        files = ["gin/runs/pretrain.gin", f"gin/models/t5_1_1/{self.model}.gin"]
        files += [f"gin/hardware/{self.hardware}.gin"] if self.hardware else []
        bindings = [f"{macro}={value}" for macro, value in self.bindings.items()]
        plans.make(path, files, bindings, self.topology, self.slices, self.step)


def _saving(step: str = "train", **changes: object) -> Case:
    return Case(_SPLIT_16 | changes, step=step)


def _hardware(name: str, model: str, rows: int, topology: str, slices: int = 1, **changes: object) -> Case:
    return Case({"BATCH_SIZE": rows} | changes, topology, slices, model=model, hardware=name)


SAVINGS = {
    "full": _saving(),
    "minimal": _saving(REMAT="'minimal'"),
    "offload": _saving(REMAT="'offload'"),
    "none": _saving(REMAT="'none'"),
    "loss_blocks_8": _saving(LOSS_BLOCKS=8),
    "microbatches_4": _saving(NUM_MICROBATCHES=4),
    "minimal_microbatches_4": _saving(REMAT="'minimal'", NUM_MICROBATCHES=4),
    "data_4_fsdp_4": _saving(MESH_DATA=4, MESH_FSDP=4),
    "fsdp_4_model_4": _saving(MESH_FSDP=4, MESH_MODEL=4),
    "eval": _saving("eval"),
    "eval_microbatches_4": _saving("eval", NUM_MICROBATCHES=4),
}
HARDWARE = {
    "one_gpu": _hardware("one_gpu", "large", 2048, "gpu:1xh100", NUM_MICROBATCHES=64),
    "eight_gpus": _hardware("eight_gpus", "xl", 2048, "gpu:8xh100", NUM_MICROBATCHES=16),
    "v4-8": _hardware("v4-8", "large", 128, "v4-8"),
    "v4-32": _hardware("v4-32", "xl", 128, "v4-32"),
    "v5e-16": _hardware("v5e-16", "xl", 128, "v5litepod-16"),
    "v5e-256": _hardware("v5e-256", "xl", 2048, "v5litepod-256"),
    "v6e-64": _hardware("v6e-64", "xl", 1024, "v6e-64"),
    "two_v5e-256": _hardware("two_v5e-256", "xl", 4096, "v5litepod-256", 2),
}
CASES = SAVINGS | HARDWARE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--only", choices=CASES, action="append", help="may be given several times")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name in arguments.only or CASES:
        CASES[name].make(arguments.folder / f"{name}.json")
    for cases in (SAVINGS, HARDWARE):
        print(
            "\n| plan | state | temporaries | total, GiB | fits | TFLOP a device | million cycles |\n"
            + "|---" * 7
            + "|"
        )
        for name in cases:
            if made := plans.read(arguments.folder / f"{name}.json"):
                print(row(name, made))


def row(name: str, made: Plan) -> str:
    """A line of a table: memory of one device, and what it computes in a step. A blank was not compiled."""
    memory = made.memory
    sizes = [memory.parameters + memory.optimizer + memory.batch, memory.temporaries, memory.total]
    cells = ["" if size is None else f"{size / GIB:.2f}" for size in sizes]
    cells.append({True: "yes", False: "no", None: ""}[memory.fits])
    cells += [f"{made.flops / 1e12:.1f}", f"{made.cycles / 1e6:.0f}"] if made.flops else ["", ""]
    return "| " + " | ".join([name, *cells]) + " |"


if __name__ == "__main__":
    main()
