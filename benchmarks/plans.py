#!/usr/bin/env python
"""The plans of T5 1.1 on TPU slices, and docs/plans.md, their table.

    python benchmarks/plans.py --sizes base large --kinds v5e
    python benchmarks/plans.py --table

Compiles each size in each architecture for each slice, one at a time, minutes each: all of it takes a day on two
cores. A plan is a file in --folder; what is there already is not made again, so that the command can be stopped and
started at any time. --table only writes the table of those that are there. Needs libtpu (`pip install '.[plan]'`), and
no TPU.
"""

import argparse
import dataclasses
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

from t5x_mini.errors import UserError
from t5x_mini.plan.compile import plan
from t5x_mini.plan.figures import Plan
from t5x_mini.plan.report import CAVEAT, dominant
from t5x_mini.plan.topologies import GIB, parse

ARCHITECTURES = ("encoder_decoder", "prefix_lm", "causal_lm")
# The slice of each kind that a size is planned for, the rows of its batch, and how many devices share the parameters.
SLICES = {
    "base": ({"v4": "v4:2x2x1", "v5e": "v5e:4x4", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}, 256),
    "large": ({"v4": "v4:2x2x2", "v5e": "v5e:4x4", "v5p": "v5p:2x2x1", "v6e": "v6e:2x4"}, 128),
    "xl": ({"v4": "v4:2x2x4", "v5e": "v5e:4x4", "v5p": "v5p:2x2x2", "v6e": "v6e:4x4"}, 128),
    "xxl": ({"v4": "v4:4x4x4", "v5e": "v5e:16x16", "v5p": "v5p:2x4x4", "v6e": "v6e:8x8"}, 256),
}


@dataclasses.dataclass(frozen=True)
class Case:
    size: str
    architecture: str
    topology: str
    rows: int

    @property
    def bindings(self) -> list[str]:
        """Parameters split over all devices of a small slice, and over 16 of a large one."""
        fsdp = min(parse(self.topology).devices, 16)
        mesh = ["MESH_DATA=-1", f"MESH_FSDP={fsdp}", "MESH_MODEL=1"]
        return [*mesh, f"BATCH_SIZE={self.rows}", f"ARCHITECTURE={self.architecture}", "REMAT=full", "PRNG_IMPL=rbg"]

    @property
    def files(self) -> list[str]:
        return ["gin/runs/pretrain.gin", f"gin/models/t5_1_1/{self.size}.gin"]

    @property
    def file_name(self) -> str:
        return f"{self.size}-{self.architecture}-{self.topology.replace(':', '-')}.json"


def cases(sizes: list[str], kinds: list[str], architectures: list[str]) -> Iterator[Case]:
    for size, kind, architecture in itertools.product(sizes, kinds, architectures):
        slices, rows = SLICES[size]
        yield Case(size, architecture, slices[kind], rows)


def make(case: Case, folder: Path) -> None:
    try:
        found = plan(case.files, case.bindings, case.topology).as_json()
    except UserError as error:
        print(json.dumps({"plan": case.file_name, "error": str(error)}), flush=True)
        return
    (folder / case.file_name).write_text(json.dumps(found, indent=1) + "\n")
    kept = {name: found[name] for name in ("mfu", "compile_s")}
    print(json.dumps({"plan": case.file_name, "fits": found["memory"]["fits"], **kept}), flush=True)


def row(case: Case, made: Plan) -> str:
    memory = made.memory
    cells = [case.size, case.architecture, case.topology, str(case.rows), f"{made.mesh['fsdp']}"]
    cells += [f"{size / GIB:.2f}" for size in (memory.parameters, memory.optimizer, memory.temporaries or 0)]
    cells += [f"{memory.total / GIB:.2f} of {memory.available / GIB:.2f}"]
    if made.flops is None:
        return "| " + " | ".join([*cells, f"no: {dominant(memory)}", "", "", ""]) + " |"
    sent = sum(one.sent for one in made.collectives)
    times = made.times
    cells += ["yes", f"{made.flops / 1e12:.2f}", f"{sent / 1e9:.2f}"]
    cells += [f"{times.fastest:.3f} to {times.slowest:.3f}, {made.mfu[0]:.0%} to {made.mfu[1]:.0%}"]
    return "| " + " | ".join(cells) + " |"


def table(chosen: list[Case], folder: Path) -> str:
    head = (
        "| T5 1.1 | architecture | slice | rows | fsdp | parameters | optimizer | temporaries | total GiB | fits "
        "| TFLOPs | sent GB | seconds a step, MFU |"
    )
    lines = [head, "|" + "---|" * 13]
    for case in chosen:
        path = folder / case.file_name
        if path.is_file():
            lines.append(row(case, Plan.from_json(json.loads(path.read_text()))))
    return "\n".join(lines)


def page(chosen: list[Case], folder: Path) -> str:
    return "\n".join(
        (
            "# Plans of T5 1.1 on TPU slices",
            "",
            "Made by `python benchmarks/plans.py` on a machine without a TPU; run again, it makes what is missing.",
            "A row is `t5x-mini plan` of gin/runs/pretrain.gin: Adafactor, 512 + 114 tokens, bfloat16, REMAT = 'full'.",
            "Memory, FLOPs and what is sent are of one device and one step.",
            CAVEAT,
            "",
            table(chosen, folder),
            "",
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = ["v4", "v5e", "v5p", "v6e"]
    parser.add_argument("--sizes", nargs="+", default=list(SLICES), choices=list(SLICES))
    parser.add_argument("--kinds", nargs="+", default=kinds, choices=kinds)
    parser.add_argument("--architectures", nargs="+", default=list(ARCHITECTURES), choices=ARCHITECTURES)
    parser.add_argument("--folder", type=Path, default=Path("runs/plans"), help="of the plans (default: runs/plans)")
    parser.add_argument("--output", type=Path, default=Path("docs/plans.md"), help="the table (default: docs/plans.md)")
    parser.add_argument("--table", action="store_true", help="write the table of the plans that are there, no more")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for case in cases(arguments.sizes, arguments.kinds, arguments.architectures):
        if not arguments.table and not (arguments.folder / case.file_name).is_file():
            make(case, arguments.folder)
    everything = list(cases(list(SLICES), kinds, list(ARCHITECTURES)))
    arguments.output.write_text(page(everything, arguments.folder))


if __name__ == "__main__":
    main()
