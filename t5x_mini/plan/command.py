"""`t5x-mini plan`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from t5x_mini.errors import UserError
from t5x_mini.plan import compile as compiler
from t5x_mini.plan import search as searching
from t5x_mini.plan import topologies
from t5x_mini.plan.report import report
from t5x_mini.whole_file import write_whole


def plan_command(
    files: Sequence[str],
    bindings: Sequence[str],
    search_paths: Sequence[str],
    *,
    topology: str,
    slices: int,
    step: str,
    search: bool,
    output: str | None,
) -> None:
    """Prints a plan, or the table of a search, and writes it as JSON.

    Raises:
        UserError: what `compile.plan` raises; a search where nothing is compiled.
    """
    asked = topologies.parse(topology)
    if not files:
        raise UserError("Which run is to be planned? Write --gin_file=gin/runs/pretrain.gin.")
    if search and asked.platform != "tpu":
        raise UserError(f"--search compiles, and for {topology} nothing can be compiled here: leave it out.")

    if asked.platform == "tpu":
        print(f"compiling the {step} step for {topology}; large models take minutes each time ...", file=sys.stderr)

    def planned(more: Sequence[str] = ()):
        return compiler.plan(files, [*bindings, *more], topology, slices, step, search_paths)

    if not search:
        made = planned()
        print(report(made))
        _write(output, made.as_json())
        return
    found = searching.search(planned, asked, slices, say=lambda line: print(line, flush=True))
    print(f"\nbest first\n{searching.table(found)}")
    _write(
        output,
        [{"bindings": one.bindings, "error": one.error, **(one.plan.as_json() if one.plan else {})} for one in found],
    )


def _write(output: str | None, made: object) -> None:
    if output:
        write_whole(Path(output), json.dumps(made, indent=2) + "\n")
        print(f"\nwritten to {output}")
