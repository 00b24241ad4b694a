"""What to change so that a step fits: sensible combinations of mesh, remat and microbatches, tried."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

from t5x_mini.errors import UserError
from t5x_mini.plan.figures import Plan
from t5x_mini.plan.report import dominant
from t5x_mini.plan.topologies import GIB, Topology

_MEMORY_SAVING = (("none", 1), ("minimal", 1), ("full", 1), ("full", 4))


@dataclasses.dataclass(frozen=True)
class Choice:
    """One combination, and what came of it: a plan, or why there is none."""

    bindings: tuple[str, ...]
    plan: Plan | None = None
    error: str = ""

    @property
    def fits(self) -> bool:
        return self.plan is not None and bool(self.plan.memory.fits)


def choices(topology: Topology, slices: int = 1) -> Iterator[tuple[str, ...]]:
    """Bindings to try: parameters split over more and more devices, and for each less and less kept.

    Slices lie along `data`; `model` stays within a host of four chips, where it costs least.
    """
    devices = topology.devices
    # All, a quarter, a sixteenth, ... of the devices share the parameters.
    shared = [devices // 4**power for power in range(devices.bit_length()) if devices // 4**power]
    meshes = [(fsdp, 1) for fsdp in shared] + ([(devices // 4, 4)] if devices >= 4 else [])
    for fsdp, model in meshes:
        data = devices * slices // (fsdp * model)
        mesh = (f"MESH_DATA={data}", f"MESH_FSDP={fsdp}", f"MESH_MODEL={model}")
        for remat, parts in _MEMORY_SAVING:
            yield (*mesh, f"REMAT={remat}", f"NUM_MICROBATCHES={parts}")


def search(
    compile_with: Callable[[Sequence[str]], Plan], topology: Topology, slices: int = 1, say: Callable = print
) -> list[Choice]:
    """Tries the choices, and sorts them: what fits by its step's time, then the others by how far they are off.

    What keeps less than a combination that fits is not tried with the same mesh: it would only be slower.

    Args:
        compile_with: plans with further bindings.
        topology: what to plan for.
        slices: of it.
        say: prints a line of progress.
    """
    found: list[Choice] = []
    done: set[tuple[str, ...]] = set()
    for bindings in choices(topology, slices):
        if bindings[:3] in done:
            continue
        try:
            made = Choice(bindings, plan=compile_with(bindings))
        except UserError as error:
            made = Choice(bindings, error=str(error))
        found.append(made)
        say(_line(made))
        # Where the state alone is too large, keeping less of the activations changes nothing.
        if made.fits or (made.plan and made.plan.memory.temporaries is None) or made.error:
            done.add(bindings[:3])
    return sorted(found, key=_rank)


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
