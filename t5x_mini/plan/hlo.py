"""What a compiled program says of itself: how often each part runs, its arithmetic, traffic and collectives.

`Compiled.cost_analysis()` counts the body of a loop once, so that a net of scanned layers looks 24 times too cheap.
Here the text of the program is read, and everything counts as often as it runs.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import re
from collections.abc import Iterator, Sequence

import numpy as np

from t5x_mini.plan.hlo_flops import product_flops
from t5x_mini.plan.hlo_text import Array, Instruction, computations, device_groups

_FREE = frozenset(
    "parameter constant tuple get-tuple-element bitcast while conditional call iota after-all partition-id "
    "replica-id".split()
)
_KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


@dataclasses.dataclass(frozen=True)
class Collective:
    """Collectives of one kind and size, all of a step together.

    Attributes:
        kind: `all-gather` and so on.
        bytes: of the whole array, gathered or before it is reduced.
        group: devices that take part.
        slices: slices that these are spread over.
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


class Program:
    """A compiled program, read from its text.

    Args:
        text: `Compiled.as_text()`.
        slice_of: the slice of each device, in the order of the mesh; empty: there is one.
    """

    def __init__(self, text: str, slice_of: Sequence[int] = ()):
        self.computations, self.entry = computations(text)
        self._slice_of = np.asarray(slice_of, int)
        counted = re.search(r"num_partitions=(\d+)", text[: text.find("\n")])
        self._devices = int(counted[1]) if counted else 1
        self._shapes = {name: {line.name: line.arrays for line in lines} for name, lines in self.computations.items()}

    @functools.cached_property
    def runs(self) -> dict[str, int]:
        """How often each computation runs in a step."""
        times: dict[str, int] = collections.defaultdict(int)
        self._visit(self.entry, 1, times)
        return dict(times)

    @functools.cached_property
    def _scheduled(self) -> set[str]:
        """The computations whose instructions run one after another: all that are not part of another instruction."""
        found, waiting = set(), [self.entry]
        while waiting:
            name = waiting.pop()
            found.add(name)
            for line in self.computations[name]:
                if line.opcode in ("while", "conditional", "call"):
                    waiting += [called for called in line.called if called not in found]
        return found

    @property
    def flops(self) -> int:
        """Operations of matrix products, a multiply and an add as two."""
        total = 0
        for name, times in self.runs.items():
            shapes = self._shapes[name]
            total += times * sum(product_flops(line, shapes) for line in self.computations[name])
        return total

    @property
    def cycles(self) -> int:
        """The compiler's own estimate of a step's cycles, without what collectives take; 0 where it makes none."""
        return sum(
            times * int(found[1])
            for _, times, line in self._steps()
            if (found := re.search(r'"estimated_cycles":"(\d+)"', line.attributes))
        )

    @property
    def hbm_bytes(self) -> int:
        """Bytes that a step reads from and writes to the device's main memory."""
        return sum(times * self._traffic(name, line) for name, times, line in self._steps())

    @functools.cached_property
    def collectives(self) -> tuple[Collective, ...]:
        """The collectives of a step, those with the most traffic first."""
        counts: dict[tuple, int] = collections.Counter()
        for (kind, size, group, slices), times in self._channels().values():
            counts[kind, size, group, slices] += times
        found = [Collective(*key, count) for key, count in counts.items()]
        return tuple(sorted(found, key=lambda one: -one.sent))

    def largest(self, count: int = 5) -> list[tuple[str, int]]:
        """The largest arrays that a step makes in main memory: where each comes from, and its bytes."""
        sizes: dict[str, int] = {}
        for _, _, line in self._steps():
            if line.opcode in _FREE:
                continue
            for array in line.arrays:
                if array.in_hbm:
                    shape = ",".join(map(str, array.shape))
                    name = f"{array.dtype}[{shape}] {line.op_name.rpartition(')/')[2] or line.opcode}"
                    sizes.setdefault(name, array.bytes)
        return sorted(sizes.items(), key=lambda item: -item[1])[:count]

    def _visit(self, name: str, times: int, total: dict[str, int]) -> None:
        total[name] += times
        for line in self.computations[name]:
            repeated = times * self.trips(line, name) if line.opcode == "while" else times
            for called in line.called:
                self._visit(called, repeated, total)

    def trips(self, loop: Instruction, computation: str) -> int:
        """How often a loop's body runs: from the bound in its condition, and where its counter starts.

        A loop that may end earlier, as decoding does when all have answered, is taken to run to its bound. 1 where the
        condition has no constant to compare with.
        """
        condition = self.computations[loop.attribute("condition")]
        bound = max((line.integer for line in condition if line.integer is not None), default=None)
        index = next((line for line in condition if line.opcode == "get-tuple-element" and _is_counter(line)), None)
        if bound is None or index is None:
            return 1
        including = any("direction=LE" in line.attributes for line in condition)
        start = self._start(loop, computation, int(index.attribute("index")))
        return max(bound + including - start, 0)

    def _start(self, loop: Instruction, computation: str, place: int) -> int:
        """A loop counter's first value, where it is a constant; else 0."""
        lines = {line.name: line for line in self.computations[computation]}
        made = lines.get(loop.operands[0])
        if made is None or made.opcode != "tuple":
            return 0
        value = lines.get(made.operands[place])
        while value is not None and value.opcode in ("copy", "bitcast"):
            value = lines.get(value.operands[0])
        return 0 if value is None else value.integer or 0

    def _steps(self) -> Iterator[tuple[str, int, Instruction]]:
        for name in self._scheduled:
            for line in self.computations[name]:
                yield name, self.runs.get(name, 0), line

    def _traffic(self, name: str, line: Instruction) -> int:
        if line.opcode in _FREE or line.opcode.endswith(("-done", "-update")) or _moves_nothing(line):
            return 0
        shapes = self._shapes[name]
        if line.opcode in ("dynamic-slice", "slice", "gather"):
            return 2 * _in_hbm(line.arrays)
        if line.opcode == "slice-start":  # its arrays: the whole, the slice, and what it waits by
            return line.arrays[1].bytes + _in_hbm(line.arrays[1:2])
        if line.opcode == "dynamic-update-slice":
            return 2 * _in_hbm(shapes[line.operands[1]])
        made = line.arrays[:1] if line.opcode.endswith("-start") else line.arrays
        fused = self._fused(line)
        if fused is None:
            return _in_hbm(made) + sum(_in_hbm(shapes.get(operand, ())) for operand in line.operands)
        read, written = fused
        sizes = [_in_hbm(shapes.get(operand, ())) for operand in line.operands]
        total = sum(min(size, read.get(place, size)) for place, size in enumerate(sizes))
        return total + sum(min(_in_hbm((array,)), written.get(place, array.bytes)) for place, array in enumerate(made))

    def _fused(self, line: Instruction) -> tuple[dict[int, int], dict[int, int]] | None:
        """For a fusion: the bytes of those operands and results of which it touches a part only, by their places."""
        if line.opcode != "fusion":
            return None
        body = self.computations[line.attribute("calls")]
        lines = {one.name: one for one in body}
        users = collections.defaultdict(list)
        for one in body:
            for operand in one.operands:
                users[operand].append(one)
        read = {
            int(one.argument): sum(_part(user) for user in users[one.name])
            for one in body
            if one.opcode == "parameter" and users[one.name] and all(_is_part(u, one.name) for u in users[one.name])
        }
        root = next(one for one in body if one.is_root)
        results = [lines[name] for name in root.operands] if root.opcode == "tuple" else [root]
        written = {
            place: sum(array.bytes for array in lines[one.operands[1]].arrays)
            for place, one in enumerate(results)
            if one.opcode == "dynamic-update-slice"
        }
        return read, written

    def _channels(self) -> dict[tuple, tuple[tuple, int]]:
        """Every collective once: an asynchronous one is repeated in each fusion that it runs beside."""
        found: dict[tuple, tuple[tuple, int]] = {}
        for name, times in self.runs.items():
            scattered = "all-reduce-scatter" in name
            for line in self.computations[name]:
                kind = line.opcode.removesuffix("-start")
                if kind not in _KINDS:
                    continue
                channel = re.search(r"channel_id=(\d+)", line.attributes)
                is_alone = channel is None or line.opcode != kind
                key = (kind, name, line.name) if is_alone else (kind, channel[1])
                shapes = self._shapes[name]
                size = max(
                    sum(a.bytes for a in line.arrays)
                    // (2 if line.opcode.endswith("-start") and len(line.arrays) > 1 else 1),
                    sum(a.bytes for operand in line.operands for a in shapes.get(operand, ())),
                )
                group, slices = self._group(line.attributes)
                kind = "reduce-scatter" if scattered else kind
                if group > 1 or kind == "collective-permute":
                    before = found.get(key, (None, 0))[1]
                    found[key] = (kind, size, group, slices), max(before, times)
        return found

    def _group(self, attributes: str) -> tuple[int, int]:
        """Devices in a group, and slices that it is spread over."""
        groups = device_groups(attributes)
        if groups is None:  # all of them
            groups = np.arange(self._devices)[None]
        if not self._slice_of.size:
            return groups.shape[1], 1
        return groups.shape[1], max(len(set(self._slice_of[group])) for group in groups)


def _is_counter(line: Instruction) -> bool:
    return [(array.dtype, array.shape) for array in line.arrays] == [("s32", ())]


def _moves_nothing(line: Instruction) -> bool:
    targets = ("ConcatBitcast", "AllocateBuffer", "AsyncCollectiveStart", "AsyncCollectiveDone")
    return line.opcode == "custom-call" and any(f'custom_call_target="{name}"' in line.attributes for name in targets)


def _in_hbm(arrays: Sequence[Array]) -> int:
    return sum(array.bytes for array in arrays if array.in_hbm)


def _is_part(user: Instruction, name: str) -> bool:
    parts = ("dynamic-slice", "gather", "slice", "dynamic-update-slice")
    return user.opcode in parts and user.operands[0] == name


def _part(user: Instruction) -> int:
    if user.opcode == "dynamic-update-slice":  # in place: nothing of the old array is read
        return 0
    return sum(array.bytes for array in user.arrays)


# Matrix products
