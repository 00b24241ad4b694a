"""What the devices of a compiled program send to one another."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence

from t5x_mini.plan.hlo_text import Array, Instruction, device_groups

_KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


@dataclasses.dataclass(frozen=True)
class Collective:
    """Collectives of one kind and size, all of a step together.

    Attributes:
        kind: `all-gather` and so on.
        bytes: of the whole array, gathered or before it is reduced.
        group: devices that take part.
        slices: slices that these are spread over: 1, or `group`, as a device exchanges what is left to be exchanged
            with its likes in the other slices, once its own slice is done.
        count: times in a step.
    """

    kind: str
    bytes: int
    group: int
    slices: int
    count: int

    @property
    def sent(self) -> float:
        """Bytes that a device sends in all, by the ring algorithm."""
        share = (self.group - 1) / self.group
        factor = {"all-reduce": 2 * share, "collective-permute": 1.0}.get(self.kind, share)
        return self.bytes * factor * self.count


def found_in(name: str, lines: Sequence[Instruction], devices: int) -> Iterator[Collective]:
    """Every collective of a computation, with a count of 1.

    Args:
        name: of the computation.
        lines: its instructions.
        devices: of a slice, which are a group where none is written.
    """
    shapes = {line.name: line.arrays for line in lines}
    again = copies(lines)
    for line in lines:
        if line.opcode.removesuffix("-start") in _KINDS and line.name not in again:
            made = _inside_a_slice(line, shapes, devices)
            scattered = made.kind == "all-reduce" and "all-reduce-scatter" in name
            yield dataclasses.replace(made, kind="reduce-scatter") if scattered else made
        elif line.opcode == "send" and "_xla_megascale_transfer_type=" in line.attributes:
            yield _between_slices(line)


def copies(lines: Sequence[Instruction]) -> set[str]:
    """What stands here of an asynchronous collective that another fusion started.

    It is written once more in each fusion that it runs beside, and in the one that ends it; all these have the
    number of their chain. Channels do not tell collectives apart: all that XLA combined have channel 1.
    """
    calls = [line for line in lines if line.opcode == "custom-call"]
    started = {name for line in calls if '"AsyncCollectiveStart"' in line.attributes for name in line.operands}
    chained = {line.name for line in lines if line.opcode in _KINDS and "chain_id=" in line.attributes}
    return chained - started | {line.name for line in calls if '"AsyncCollectiveDone"' in line.attributes}


def _inside_a_slice(line: Instruction, shapes: Mapping[str, tuple[Array, ...]], devices: int) -> Collective:
    kind = line.opcode.removesuffix("-start")
    given = sum(array.bytes for operand in line.operands for array in shapes.get(operand, ()))
    made = sum(array.bytes for array in line.arrays)
    if kind != line.opcode:  # what starts returns what it is given as well, and the flags that it waits by
        made = sum(array.bytes for array in line.arrays if array.shape) - given
    groups = device_groups(line.attributes)
    return Collective(kind, max(given, made), devices if groups is None else groups.shape[1], 1, 1)


def _between_slices(line: Instruction) -> Collective:
    """A program for several slices is that of one, which hands the host what goes to the others.

    Their runtime takes it from there; its requests name the kind of collective, and the slices with the devices:
    `{1,2}x{0:3}`, or `{{100000,100001,200000,200001}}`.
    """
    kind = re.search(r'_xla_megascale_transfer_type="(\w+)"', line.attributes)[1].lower().replace("_", "-")
    target = re.search(r'_xla_megascale_target=("[^"]*"|\{\{[^}]*\})', line.attributes)[1]
    crossed = re.match(r'"\{([^}]*)\}x', target)
    if crossed:
        ranges = [list(map(int, part.split(":"))) for part in crossed[1].split(",")]
        slices = sum(ends[-1] - ends[0] + 1 for ends in ranges)
    else:
        slices = len({int(device) // 100_000 for device in re.findall(r"\d+", target)})
    whole = slices if kind == "all-gather" else 1
    return Collective(kind, line.arrays[0].bytes * whole, slices, slices, 1)
