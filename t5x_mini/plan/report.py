"""A plan in words and columns."""

from __future__ import annotations

from t5x_mini.plan import topologies
from t5x_mini.plan.figures import Memory, Plan
from t5x_mini.plan.topologies import GIB

CAVEAT = (
    "No chip was asked: memory and FLOPs are the compiler's, the step's time is an estimate from its cycles and "
    "published bandwidths."
)


def report(plan: Plan) -> str:
    """The plan for a terminal."""
    parts = [_heading(plan), _memory(plan), _work(plan), _collectives(plan), _time(plan), _advice(plan)]
    notes = [f"note: {note}." for note in plan.notes]
    return "\n\n".join(filter(None, [*parts, "\n".join(notes)]))


def verdict(memory: Memory) -> str:
    """Whether it fits, with the margin."""
    if memory.available is None:
        return "the device's memory is not known"
    margin = memory.available - memory.total
    of = f"of {memory.available / GIB:.2f} GiB"
    if memory.temporaries is None:
        return f"does not fit: {-margin / GIB:.2f} GiB too much" if margin < 0 else f"{of}, without activations"
    if margin < 0:
        return f"does not fit: {-margin / GIB:.2f} GiB too much for {memory.available / GIB:.2f} GiB"
    return f"fits: {margin / GIB:.2f} GiB {of} left ({margin / memory.available:.0%})"


def dominant(memory: Memory) -> str:
    """The largest part of a device's memory, by name."""
    return max(_parts(memory), key=lambda part: part[1] or 0)[0]


def _heading(plan: Plan) -> str:
    settings = plan.settings
    where = f"{plan.slices} slices of {plan.topology}" if plan.slices > 1 else plan.topology
    mesh = ", ".join(f"{axis} {size}" for axis, size in plan.mesh.items())
    lengths = " + ".join(str(length) for length in settings["lengths"].values())
    return "\n".join(
        (
            f"{plan.step} step on {where}: {plan.architecture}, {plan.parameter_count:,} parameters, "
            f"{settings['optimizer']}",
            f"{settings['rows']} rows of {lengths} tokens in {settings['num_microbatches']} microbatch(es), "
            f"remat {settings['remat']}, {settings['dtype']}; mesh: {mesh}",
        )
    )


def _parts(memory: Memory) -> list[tuple[str, int | None]]:
    return [
        ("parameters", memory.parameters),
        ("optimizer state", memory.optimizer),
        ("batch", memory.batch),
        ("activations and temporaries", memory.temporaries),
        ("program", memory.program),
    ]


def _memory(plan: Plan) -> str:
    memory = plan.memory
    lines = ["GiB on each device"]
    for name, size in _parts(memory):
        lines.append(f"  {name:<28}{'not known' if size is None else f'{size / GIB:9.3f}'}")
    lines.append(f"  {'total':<28}{memory.total / GIB:9.3f}  {verdict(memory)}; most are {dominant(memory)}")
    for name, size in memory.largest:
        lines.append(f"    a temporary of {size / GIB:.3f}: {name}")
    if plan.replicated:
        lines.append(f"  whole on several devices of fsdp x model: {', '.join(plan.replicated)}")
    return "\n".join(lines)


def _work(plan: Plan) -> str:
    devices = topologies.parse(plan.topology).devices * plan.slices
    lines = [
        "a step",
        f"  model FLOPs                 {plan.model_flops:9.3e}, {plan.model_flops / devices:.3e} a device",
    ]
    if plan.flops:
        more = plan.flops * devices / plan.model_flops
        lines.append(f"  FLOPs as compiled           {plan.flops * devices:9.3e}, {more:.2f} times the model's")
        lines.append(f"  HBM traffic                 {plan.hbm_bytes / 1e9:9.2f} GB a device")
        lines.append(f"  estimated cycles            {plan.cycles / 1e6:9.1f} million")
    return "\n".join(lines)


def _collectives(plan: Plan, most: int = 8) -> str:
    if not plan.collectives:
        return ""
    lines = [
        "collectives a step, loops counted as often as they run",
        f"  {'kind':<20}{'count':>7}{'MiB':>11}  between",
    ]
    for one in plan.collectives[:most]:
        between = f"{one.slices} slices" if one.slices > 1 else one.group
        lines.append(f"  {one.kind:<20}{one.count:>7}{one.bytes / 2**20:>11.2f}  {between}")
    if rest := plan.collectives[most:]:
        lines.append(f"  and {sum(one.count for one in rest)} smaller ones")
    lines.append(f"  a device sends {sum(one.sent for one in plan.collectives) / 1e9:.2f} GB")
    return "\n".join(lines)


def _time(plan: Plan) -> str:
    times = plan.times
    if times is None:
        return ""
    parts = {
        "matrix products at the chip's peak": times.compute,
        "memory traffic": times.memory,
        "the compiler's cycles": times.cycles,
        "collectives inside a slice": times.ici,
        "collectives between slices": times.dcn,
    }
    lines = ["seconds, each as if alone", *(f"  {name:<36}{value:9.4f}" for name, value in parts.items() if value)]
    if plan.flops is None:
        return "\n".join([*lines, "  A step takes more: activations' traffic and collectives are not in it."])
    low, high = plan.mfu
    lines.append(f"  a step{'':<30}{times.fastest:9.4f} to {times.slowest:.4f}: an MFU of {low:.0%} to {high:.0%}")
    return "\n".join([*lines, f"  {CAVEAT}"])


def _advice(plan: Plan) -> str:
    if plan.memory.fits is not False:
        return ""
    state = plan.memory.parameters + plan.memory.optimizer
    if state > 0.7 * plan.memory.available:
        what = "Parameters and optimizer state must be split further: a larger MESH_FSDP or MESH_MODEL, or more devices"
    else:
        what = "Activations must shrink: REMAT = 'full', more NUM_MICROBATCHES, fewer rows, or a larger MESH_MODEL"
    return f"{what}. --search tries what is sensible."
