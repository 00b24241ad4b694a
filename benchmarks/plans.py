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
from collections.abc import Iterator, Sequence
from pathlib import Path

from t5x_mini.errors import UserError
from t5x_mini.plan.compile import plan
from t5x_mini.plan.figures import Plan
from t5x_mini.plan.report import CAVEAT, dominant
from t5x_mini.plan.topologies import GIB, parse

ARCHITECTURES = ("encoder_decoder", "prefix_lm", "causal_lm")
# The slices that a size is planned for, and the rows of its batch on each.
SLICES = {
    "base": {"v4:2x2x1": 256, "v5e:4x4": 256, "v5p:2x2x1": 256, "v6e:2x2": 256},
    "large": {"v4:2x2x2": 128, "v5e:4x4": 128, "v5p:2x2x1": 128, "v6e:2x4": 128},
    "xl": {"v4:2x2x4": 128, "v5e:4x4": 128, "v5p:2x2x2": 128, "v6e:4x4": 128},
    "xxl": {"v4:4x4x4": 256, "v5e:16x16": 2048, "v5p:2x4x4": 256, "v6e:8x8": 512},
}
KINDS = ("v4", "v5e", "v5p", "v6e")

# The nearest thing to a plan that was measured: MaxText's decoder of 16 billion parameters (its file
# MaxText/configs/v5e/16b.sh), AdamW, everything computed again, and the MFU that the README beside it gives. Its flash
# attention has no equal here: each chip gets its tokens, 6 rows of 2048, as 48 rows of 256, where attention is a small
# part of a step.
MEASURED_MFU = 0.611
MEASURED_FILE = "measured-v5e-16x16.json"
MEASURED = (
    ["gin/runs/pretrain.gin", "gin/optimizers/adamw.gin"],
    [
        *("ARCHITECTURE=causal_lm", "TransformerConfig.emb_dim=4096", "TransformerConfig.num_heads=64"),
        *("TransformerConfig.head_dim=128", "TransformerConfig.mlp_dim=28672"),
        *("TransformerConfig.num_decoder_layers=32", "TASK_FEATURE_LENGTHS={'inputs': 128, 'targets': 128}"),
        *("BATCH_SIZE=12288", "STATISTICS_PERIOD=0", "REMAT=full", "MESH_DATA=1", "MESH_FSDP=256", "PRNG_IMPL=rbg"),
    ],
    "v5e:16x16",
)


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


def cases(sizes: Sequence[str], kinds: Sequence[str], architectures: Sequence[str]) -> Iterator[Case]:
    for size, architecture in itertools.product(sizes, architectures):
        for topology, rows in SLICES[size].items():
            if topology.partition(":")[0] in kinds:
                yield Case(size, architecture, topology, rows)


def make(
    path: Path, files: list[str], bindings: list[str], topology: str, slices: int = 1, step: str = "train"
) -> None:
    """Plans, unless it has been done."""
    if path.is_file():
        return
    try:
        found = plan(files, bindings, topology, slices, step).as_json()
    except UserError as error:
        print(json.dumps({"plan": path.name, "error": str(error)}), flush=True)
        return
    path.write_text(json.dumps(found, indent=1) + "\n")
    kept = {name: found[name] for name in ("mfu", "compile_s")}
    print(json.dumps({"plan": path.name, "fits": found["memory"]["fits"], **kept}), flush=True)


def read(path: Path) -> Plan | None:
    return Plan.from_json(json.loads(path.read_text())) if path.is_file() else None


def row(case: Case, made: Plan) -> str:
    memory = made.memory
    cells = [case.size, case.architecture, case.topology, str(case.rows), f"{made.mesh['fsdp']}"]
    cells += [f"{size / GIB:.2f}" for size in (memory.parameters, memory.optimizer, memory.temporaries or 0)]
    cells += [f"{memory.total / GIB:.2f} of {memory.available / GIB:.2f}"]
    if made.flops is None:
        return "| " + " | ".join([*cells, "yes" if memory.fits else f"no: {dominant(memory)}", "", "", ""]) + " |"
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
        if made := read(folder / case.file_name):
            lines.append(row(case, made))
    return "\n".join(lines)


def measured(made: Plan | None) -> str:
    """What was measured of a step like a planned one; '' where that has no plan yet, or doesn't fit."""
    if made is None or made.mfu is None:
        return ""
    low, high = made.mfu
    return "\n".join(
        (
            "## Beside a step that was measured",
            "",
            "None of these plans has met its chips. MaxText's",
            "[README](https://github.com/AI-Hypercomputer/maxtext/tree/main/MaxText/configs/v5e) gives an MFU of",
            f"{MEASURED_MFU:.1%} for its decoder of 16 billion parameters on v5e-256. The plan of such layers,",
            f"{made.parameter_count:,} parameters, with as many tokens on each chip says {low:.0%} to {high:.0%}.",
            "The programs differ: rows are of 256 tokens here and of 2048 there, with flash attention.",
            "",
        )
    )


def page(chosen: list[Case], folder: Path) -> str:
    plans = (read(folder / case.file_name) for case in chosen)
    versions = {note for made in plans if made for note in made.notes if note.startswith("Compiled by")}
    return f"""# Plans of T5 1.1 on TPU slices

{_MADE}

{table(chosen, folder)}

{"; ".join(sorted(versions))}. A row without FLOPs is of a program that jaxlib could not read. A row that is not here
was not made yet.

{measured(read(folder / MEASURED_FILE))}"""


_MADE = f"""\
Made by `python benchmarks/plans.py` on a machine without a TPU; run again, it makes what is missing. A row is
`t5x-mini plan` of gin/runs/pretrain.gin: Adafactor, 512 + 114 tokens, bfloat16, REMAT = 'full'. One of them is

```bash
t5x-mini plan --gin_file=gin/runs/pretrain.gin --gin_file=gin/models/t5_1_1/xl.gin \\
    --gin_file=gin/hardware/v5e-16.gin --gin.BATCH_SIZE=128 --topology=v5e:4x4
```

Memory, FLOPs and what is sent are of one device and one step. {CAVEAT}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=list(SLICES), choices=list(SLICES))
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--architectures", nargs="+", default=list(ARCHITECTURES), choices=ARCHITECTURES)
    parser.add_argument("--folder", type=Path, default=Path("runs/plans"), help="of the plans (default: runs/plans)")
    parser.add_argument("--output", type=Path, default=Path("docs/plans.md"), help="the table (default: docs/plans.md)")
    parser.add_argument("--table", action="store_true", help="write the table of the plans that are there, no more")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for case in cases(arguments.sizes, arguments.kinds, arguments.architectures):
        if not arguments.table:
            make(arguments.folder / case.file_name, case.files, case.bindings, case.topology)
    if not arguments.table:
        make(arguments.folder / MEASURED_FILE, *MEASURED)
    everything = list(cases(list(SLICES), KINDS, ARCHITECTURES))
    arguments.output.write_text(page(everything, arguments.folder).rstrip() + "\n")


if __name__ == "__main__":
    main()
