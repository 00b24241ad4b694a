"""What to change so that a step fits: sensible combinations of mesh, remat and microbatches, tried."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence

from t5x_mini.errors import UserError
from t5x_mini.plan.figures import Plan
from t5x_mini.plan.report import dominant
from t5x_mini.plan.topologies import GIB, Topology

# REMAT and NUM_MICROBATCHES, each with less kept than the one before, and slower.
_LADDER = (("none", 1), ("minimal", 1), ("minimal", 4), ("full", 1), ("full", 4), ("full", 16))


@dataclasses.dataclass(frozen=True)
class Choice:
    """One combination, and what came of it: a plan, or why there is none."""

    bindings: tuple[str, ...]
    plan: Plan | None = None
    error: str = ""

    @property
    def fits(self) -> bool:
        return self.plan is not None and bool(self.plan.memory.fits)


def meshes(topology: Topology, slices: int = 1) -> list[tuple[str, str, str]]:
    """Bindings of the meshes to try: parameters split over all of a slice, with `model`, and over fewer and fewer.

    Slices lie along `data`; `model` stays within a host of four chips, where it costs least.
    """
    devices = topology.devices
    fewer = [devices // 4**power for power in range(1, devices.bit_length()) if devices // 4**power]
    sizes = [(devices, 1), *([(devices // 4, 4)] if devices >= 4 else []), *((fsdp, 1) for fsdp in fewer)]
    return [
        (f"MESH_DATA={devices * slices // (fsdp * model)}", f"MESH_FSDP={fsdp}", f"MESH_MODEL={model}")
        for fsdp, model in sizes
    ]


def search(
    compile_with: Callable[[Sequence[str]], Plan], topology: Topology, slices: int = 1, say: Callable = print
) -> list[Choice]:
    """Tries what is sensible, and sorts it: what fits by its step's time, then the others by how far they are off.

    Each try takes minutes, so few are made. On the first mesh, that with the smallest state, bisection finds how much
    can be kept; `model` may let more be kept, and is bisected up to there; where parameters are split less, activations
    are as large as on the first mesh, and only what fitted there is tried. Where all had to be computed again, keeping
    it in the host's memory is tried in its place.

    Args:
        compile_with: plans with further bindings.
        topology: what to plan for.
        slices: of it.
        say: prints a line of progress.
    """
    found: list[Choice] = []
    start = time.monotonic()
    first, *others = meshes(topology, slices)
    halvings = len(_LADDER).bit_length()
    most = halvings + sum(halvings if _has_model(mesh) else 1 for mesh in others) + 1

    def tried(mesh: Sequence[str], saving: tuple[str, int]) -> Choice:
        bindings = (*mesh, f"REMAT={saving[0]}", f"NUM_MICROBATCHES={saving[1]}")
        try:
            made = Choice(bindings, plan=compile_with(bindings))
        except UserError as error:
            made = Choice(bindings, error=str(error))
        found.append(made)
        left = (time.monotonic() - start) / len(found) * (most - len(found)) / 60
        say(f"{_line(made)}\n  tried {len(found)} of at most {most}: {left:.0f} more minutes at most")
        return made

    kept = _most_kept(functools.partial(tried, first), _LADDER)
    for mesh in others:
        if _has_model(mesh):
            _most_kept(functools.partial(tried, mesh), _LADDER if kept is None else _LADDER[: kept + 1])
        elif kept is not None:
            tried(mesh, _LADDER[kept])
    best = min(found, key=_rank)
    if best.fits and "REMAT=full" in best.bindings:
        tried(best.bindings[:3], ("offload", best.plan.settings["num_microbatches"]))
    return sorted(found, key=_rank)


def _has_model(mesh: Sequence[str]) -> bool:
    return mesh[2] != "MESH_MODEL=1"


def _most_kept(tried: Callable[[tuple[str, int]], Choice], ladder: Sequence[tuple[str, int]]) -> int | None:
    """The first of the ladder that fits, by bisection; None where none does."""
    low, high, fitting = 0, len(ladder), None
    while low < high:
        middle = (low + high) // 2
        made = tried(ladder[middle])
        if made.fits:
            high = fitting = middle
        elif made.plan is None and ladder[middle][1] > 1:  # the rows can't be split into so many parts
            high = middle
        elif made.plan is None or made.plan.memory.temporaries is None:
            return None  # no such mesh, or the state alone is too large: keeping less changes nothing
        else:
            low = middle + 1
    return fitting


def table(found: Sequence[Choice]) -> str:
    """All choices, the best first."""
    head = f"{'GiB':>8}  {'step s':>8}  {'MFU':>5}  bindings"
    return "\n".join([head, *map(_line, found)])


def _rank(choice: Choice) -> tuple[int, float]:
    if choice.plan is None:
        return 2, 0.0
    if not choice.fits:
        return 1, choice.plan.memory.total
    return 0, choice.plan.times.slowest


def _line(choice: Choice) -> str:
    bindings = " ".join(f"--gin.{binding}" for binding in choice.bindings)
    if choice.plan is None:
        return f"{'-':>8}  {'-':>8}  {'-':>5}  {bindings}  ({choice.error.partition(';')[0].partition('. ')[0]})"
    size = f"{choice.plan.memory.total / GIB:8.2f}"
    if not choice.fits:
        return f"{size}  {'-':>8}  {'-':>5}  {bindings}  (does not fit: {dominant(choice.plan.memory)})"
    return f"{size}  {choice.plan.times.slowest:8.4f}  {choice.plan.mfu[0]:5.0%}  {bindings}"
