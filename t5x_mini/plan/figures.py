"""A plan: what a step needs of the hardware it was compiled for, in numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from t5x_mini.plan.hlo_collectives import Collective
from t5x_mini.plan.topologies import Chip


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one device.

    Attributes:
        parameters: of the model.
        optimizer: its state.
        batch: rows of the batch, the step's number and the key of its randomness.
        temporaries: activations and all else that the step makes on its way; None where nothing was compiled.
        program: the compiled program itself.
        available: what the device has; None where that is not known.
        largest: the largest temporaries: where each comes from, and its bytes.
    """

    parameters: int
    optimizer: int
    batch: int
    temporaries: int | None
    program: int
    available: float | None
    largest: tuple[tuple[str, int], ...] = ()

    @property
    def total(self) -> int:
        return self.parameters + self.optimizer + self.batch + (self.temporaries or 0) + self.program

    @property
    def fits(self) -> bool | None:
        """None where the device's memory is not known."""
        return None if self.available is None else self.total <= self.available


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds a step would take if it did one thing alone.

    Attributes:
        compute: its matrix products, at the chip's peak.
        memory: its traffic with main memory, at the published bandwidth.
        ici: its collectives, over the links of one axis of the torus.
        dcn: those between slices.
        cycles: the compiler's own estimate of all but collectives; 0 where there is none.
    """

    compute: float
    memory: float = 0.0
    ici: float = 0.0
    dcn: float = 0.0
    cycles: float = 0.0

    @property
    def fastest(self) -> float:
        """A step in which collectives hide behind the arithmetic."""
        return max(self.compute, self.memory, self.ici + self.dcn, self.cycles)

    @property
    def slowest(self) -> float:
        """A step in which they hide behind nothing."""
        return max(self.compute, self.memory, self.cycles) + self.ici + self.dcn


@dataclasses.dataclass(frozen=True)
class Plan:
    """What `t5x-mini plan` found.

    Attributes:
        topology: `v5e:4x4`.
        slices: of that topology.
        step: `train`, `eval` or `decode`.
        architecture: of the model.
        mesh: devices along each axis.
        settings: what can be changed about the memory: rows, microbatches, remat, dtype, ...
        parameter_count: of the model.
        replicated: parameters over 1 % of the model that are not split over all of fsdp x model.
        memory: of a device.
        model_flops: of a step, on all devices together (`train/flops.py`).
        flops: that a device executes in a step, remat included; None where nothing was compiled, or it doesn't fit.
        hbm_bytes: that a device reads and writes.
        cycles: the compiler's estimate.
        collectives: of a step.
        times: None where nothing is known of the device.
        mfu: with the slowest and the fastest step.
        compile_s: seconds that compiling took.
        notes: what the reader should know of how it was made.
    """

    topology: str
    slices: int
    step: str
    architecture: str
    mesh: Mapping[str, int]
    settings: Mapping[str, Any]
    parameter_count: int
    replicated: tuple[str, ...]
    memory: Memory
    model_flops: float
    flops: float | None = None
    hbm_bytes: int | None = None
    cycles: int | None = None
    collectives: tuple[Collective, ...] = ()
    times: Times | None = None
    mfu: tuple[float, float] | None = None
    compile_s: float = 0.0
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """All of it, with what follows from it: totals, and whether it fits."""
        made = dataclasses.asdict(self)
        made["memory"] |= {"total": self.memory.total, "fits": self.memory.fits}
        if self.times:
            made["times"] |= {"fastest": self.times.fastest, "slowest": self.times.slowest}
        return made

    @classmethod
    def from_json(cls, made: Mapping[str, Any]) -> Plan:
        """The plan that `as_json` wrote."""
        values = {field.name: made[field.name] for field in dataclasses.fields(cls)}
        values["memory"] = _made(Memory, values["memory"])
        values["times"] = values["times"] and _made(Times, values["times"])
        values["collectives"] = tuple(Collective(**one) for one in values["collectives"])
        values |= {name: tuple(values[name]) for name in ("replicated", "notes")}
        values["mfu"] = values["mfu"] and tuple(values["mfu"])
        return cls(**values)


def _made(cls: type, values: Mapping[str, Any]) -> Any:
    named = {field.name: values[field.name] for field in dataclasses.fields(cls)}
    if "largest" in named:
        named["largest"] = tuple(map(tuple, named["largest"]))
    return cls(**named)


def step_times(
    chip: Chip, flops: float, hbm_bytes: int = 0, cycles: int = 0, collectives: tuple[Collective, ...] = ()
) -> Times:
    """What a step's parts take on this chip.

    A ring over one axis of the torus uses a link each way.
    """
    ici = dcn = 0.0
    for one in collectives:
        if one.slices > 1:
            dcn += one.sent / chip.dcn if chip.dcn else 0.0
        elif chip.link:
            ici += one.sent / (2 * chip.link if chip.axes else chip.link)
    return Times(
        compute=flops / chip.peak_flops,
        memory=hbm_bytes / chip.hbm_bandwidth,
        ici=ici,
        dcn=dcn,
        cycles=cycles / chip.clock if chip.clock else 0.0,
    )
