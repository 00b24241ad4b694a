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

from t5x_mini.plan.hlo_collectives import Collective, copies, found_in
from t5x_mini.plan.hlo_flops import product_flops
from t5x_mini.plan.hlo_loops import trips
from t5x_mini.plan.hlo_text import Array, Instruction, computations

_FREE = frozenset(
    "parameter constant tuple get-tuple-element bitcast while conditional call iota after-all partition-id "
    "replica-id".split()
)


class Program:
    """A compiled program, read from its text.

    Args:
        text: `Compiled.as_text()`.
    """

    def __init__(self, text: str):
        self.computations, self.entry = computations(text)
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
        counts: dict[Collective, int] = collections.Counter()
        for name, times in self.runs.items():
            for one in found_in(name, self.computations[name], self._devices):
                counts[one] += times
        found = [dataclasses.replace(one, count=count) for one, count in counts.items()]
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
            repeated = times * trips(line, name, self.computations) if line.opcode == "while" else times
            for called in line.called:
                self._visit(called, repeated, total)

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
        made = line.arrays[:1] if line.opcode.endswith(("-start", "send", "recv")) else line.arrays
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
        again = copies(body)
        users = collections.defaultdict(list)
        for one in body:
            if not (one.name in again or (one.is_root and one.opcode == "tuple")):  # these only pass it on
                for operand in one.operands:
                    users[operand].append(one)
        read = {
            int(one.argument): sum(_part(user) for user in users[one.name])
            for one in body
            if one.opcode == "parameter" and all(_is_part(user, one.name) for user in users[one.name])
        }
        root = next(one for one in body if one.is_root)
        results = [lines[name] for name in root.operands] if root.opcode == "tuple" else [root]
        written = {
            place: sum(array.bytes for array in lines[one.operands[1]].arrays)
            for place, one in enumerate(results)
            if one.opcode == "dynamic-update-slice"
        }
        return read, written | {
            place: 0 for place, one in enumerate(results) if one.opcode == "parameter" or one.name in again
        }


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
