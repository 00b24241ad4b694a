"""The hardware that a plan can be made for: chips with their published figures, and the names of slices."""

from __future__ import annotations

import dataclasses
import math
import re

from t5x_mini import config_checks
from t5x_mini.errors import UserError

GIB = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """A kind of chip.

    Attributes:
        devices: JAX devices of one chip; all other figures are of one device, not of the chip.
        hbm: bytes of memory that a program may use.
        hbm_bandwidth: bytes a second.
        peak_flops: dense bfloat16 operations a second.
        clock: cycles a second; 0 where no cycles are estimated.
        link: bytes a second that one link to a neighbour carries one way; 0 where that isn't published.
        dcn: bytes a second to other slices or hosts; 0 where that isn't published.
        axes: dimensions of its torus; 0 for what has none.
    """

    devices: int = 1
    hbm: float
    hbm_bandwidth: float
    peak_flops: float
    clock: float = 0.0
    link: float = 0.0
    dcn: float = 0.0
    axes: int = 0


# HBM: what libtpu 0.0.52 says is available, in its error for a program that is too large; it is less than is published.
# Bandwidth, FLOP/s, links and data-centre network: the page of each in docs.cloud.google.com/tpu/docs (v3, v4, v5e,
# v5p, v6e, tpu7x), in which a chip's bidirectional ICI bandwidth is that of all its links, both ways; links of v3 and
# v4: Jouppi et al. 2023 (arxiv.org/abs/2304.01433), table 4, and so are their clocks. The clocks of the others are the
# published FLOP/s over the FLOPs of a cycle of their matrix units.
TPUS = {
    "v3": Chip(devices=2, hbm=15.48 * GIB, hbm_bandwidth=450e9, peak_flops=61.5e12, clock=0.94e9, link=35e9, axes=2),
    "v4": Chip(hbm=30.75 * GIB, hbm_bandwidth=1228e9, peak_flops=275e12, clock=1.05e9, link=50e9, axes=3),
    "v5e": Chip(hbm=15.75 * GIB, hbm_bandwidth=819e9, peak_flops=197e12, clock=1.5e9, link=50e9, dcn=25e9 / 8, axes=2),
    "v5p": Chip(
        hbm=95.73 * GIB, hbm_bandwidth=2765e9, peak_flops=459e12, clock=1.75e9, link=100e9, dcn=50e9 / 8, axes=3
    ),
    "v6e": Chip(
        hbm=31.24 * GIB, hbm_bandwidth=1638e9, peak_flops=918e12, clock=1.75e9, link=100e9, dcn=100e9 / 8, axes=2
    ),
    "tpu7x": Chip(
        devices=2,
        hbm=94.74 * GIB,
        hbm_bandwidth=3690e9,
        peak_flops=1153.5e12,
        clock=2.2e9,
        link=50e9,
        dcn=50e9 / 8,
        axes=3,
    ),
}
# NVIDIA's data sheets. `link` is one way of NVLink, all of it.
GPUS = {
    "a100": Chip(hbm=80e9, hbm_bandwidth=2039e9, peak_flops=312e12, link=300e9),
    "h100": Chip(hbm=80e9, hbm_bandwidth=3350e9, peak_flops=989e12, link=450e9),
    "h200": Chip(hbm=141e9, hbm_bandwidth=4800e9, peak_flops=989e12, link=450e9),
}

# Names of gcloud's accelerator types: the kind, and whether the number counts cores (two a chip) or chips.
_ACCELERATORS = {
    "v3": ("v3", 2),
    "v4": ("v4", 2),
    "v5p": ("v5p", 2),
    "v5litepod": ("v5e", 1),
    "v5e": ("v5e", 1),
    "v6e": ("v6e", 1),
}
_EXAMPLES = "v5e:4x4, v4:4x4x4, v4-32, v5litepod-16, v6e-8, gpu:8xh100, cpu"


@dataclasses.dataclass(frozen=True)
class Topology:
    """A slice, or a machine.

    Attributes:
        name: as it is asked for, `v5e:4x4`, whatever it was called.
        platform: `tpu`, `gpu` or `cpu`.
        kind: of chip, a key of the tables; `cpu` for a CPU.
        shape: chips along each side.
        note: what a reader may not know about the name that was given; '' for nothing.
    """

    name: str
    platform: str
    kind: str
    shape: tuple[int, ...]
    note: str = ""

    @property
    def chip(self) -> Chip | None:
        """None for a CPU, of which nothing is known."""
        return (TPUS | GPUS).get(self.kind)

    @property
    def chips(self) -> int:
        return math.prod(self.shape)

    @property
    def devices(self) -> int:
        """JAX devices of one slice."""
        return self.chips * (self.chip.devices if self.chip else 1)


def parse(name: str) -> Topology:
    """The topology of that name.

    Args:
        name: `kind:AxBxC`; one of gcloud's accelerator types (`v4-32`, `v5litepod-16`); `gpu:8xh100`; `cpu`, or
            `cpu:8` for so many forced devices.

    Raises:
        UserError: for a name that nothing knows, or a shape that such chips don't come in.
    """
    if name == "cpu" or re.fullmatch(r"cpu:[1-9]\d*", name):
        return Topology(name, "cpu", "cpu", (int(name[4:] or 1),))
    if gpus := re.fullmatch(r"gpu:([1-9]\d*)x(\w+)", name):
        count, kind = gpus.groups()
        if kind not in GPUS:
            raise UserError(f"There is no GPU {kind}{config_checks.closest(kind, GPUS)} Known are {', '.join(GPUS)}.")
        return Topology(name, "gpu", kind, (int(count),))
    if accelerator := re.fullmatch(r"(\w+)-([1-9]\d*)", name):
        return _accelerator(name, accelerator[1], int(accelerator[2]))
    kind, _, sides = name.partition(":")
    if kind not in TPUS or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", sides):
        hint = config_checks.closest(kind, TPUS) if kind not in TPUS else "."
        raise UserError(f"There is no topology {name}{hint} {_known()}")
    shape = tuple(map(int, sides.split("x")))
    if len(shape) != TPUS[kind].axes:
        raise UserError(f"{name}: slices of {kind} have {TPUS[kind].axes} sides, such as {kind}:{_example(kind)}.")
    return Topology(name, "tpu", kind, shape)


def _accelerator(name: str, family: str, count: int) -> Topology:
    if family not in _ACCELERATORS:
        raise UserError(f"There is no topology {name}{config_checks.closest(family, _ACCELERATORS)} {_known()}")
    kind, per_chip = _ACCELERATORS[family]
    chips, rest = divmod(count, per_chip)
    shape = _sides(chips, TPUS[kind].axes)
    if rest or shape is None:
        raise UserError(f"{name}: slices come in powers of two{' from 8 cores' if per_chip == 2 else ''}. {_known()}")
    written = f"{kind}:{'x'.join(map(str, shape))}"
    note = f"{name} counts cores, of which a chip has two" if per_chip == 2 else ""
    return Topology(written, "tpu", kind, shape, note)


def _sides(chips: int, axes: int) -> tuple[int, ...] | None:
    """The shape that gcloud gives so many chips: as near to a cube or square as powers of two come."""
    if chips & (chips - 1) or (axes == 3 and chips < 4):
        return None
    power = chips.bit_length() - 1
    if axes == 3 and chips < 32:  # from whole hosts of 2 x 2 x 1
        return (2, 2, chips // 4)
    return tuple(2 ** ((power + place) // axes) for place in range(axes))


def _example(kind: str) -> str:
    return "x".join("4" * TPUS[kind].axes)


def _known() -> str:
    return f"Kinds are {', '.join(TPUS)}, gpu and cpu; names are like {_EXAMPLES}."
