"""The text of a compiled program (`Compiled.as_text()`), read into instructions."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator

import numpy as np

_BITS = {"pred": 8, "token": 0, "s4": 4, "u4": 4, "s2": 2, "u2": 2}
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](?:\{([^}]*)\})?")
_NAME = re.compile(r"%([\w.-]+)")
_CALLED = re.compile(r"(calls|to_apply|body|condition|true_computation|false_computation)=%([\w.-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


@dataclasses.dataclass(frozen=True)
class Array:
    """An array in a program: its type, its shape, and whether it lies in the device's main memory."""

    dtype: str
    shape: tuple[int, ...]
    in_hbm: bool

    @property
    def bytes(self) -> int:
        bits = _BITS.get(self.dtype) or int("".join(re.findall(r"\d+", self.dtype)[:1]) or 8)
        return math.prod(self.shape) * bits // 8 if self.dtype != "token" else 0


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line: `%name = shape opcode(operands), attributes`."""

    name: str
    arrays: tuple[Array, ...]
    opcode: str
    operands: tuple[str, ...]
    argument: str
    attributes: str
    is_root: bool

    @property
    def op_name(self) -> str:
        """What in the traced function it came from."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else ""

    @property
    def called(self) -> list[str]:
        """The computations that it runs, those that only say how to add up two numbers aside."""
        if self.opcode not in ("while", "fusion", "call", "conditional", "async-start", "map"):
            return []
        names = [name for kind, name in _CALLED.findall(self.attributes) if kind != "condition"]
        branches = _BRANCHES.search(self.attributes)
        return names + (_NAME.findall(branches[1]) if branches else [])

    @property
    def integer(self) -> int | None:
        """The value of a constant that is a whole number; None for all else."""
        is_one = self.opcode == "constant" and re.fullmatch(r"-?\d+", self.argument)
        return int(self.argument) if is_one else None

    def attribute(self, name: str) -> str:
        """What stands after `name=`."""
        return re.search(rf"\b{name}=%?([\w.-]+)", self.attributes)[1]


def computations(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """The instructions of every computation by its name, and the name of the one that the program begins with."""
    found, entry = {}, ""
    for name, is_entry, lines in _blocks(text):
        found[name] = [made for line in lines if (made := _instruction(line))]
        entry = name if is_entry else entry
    return found, entry


def device_groups(attributes: str) -> np.ndarray | None:
    """`[groups, devices]`, in any of the ways that groups are written, or from the pairs of a permutation.

    None where all devices are one group.
    """
    if iota := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes):
        shape, dims, order = (list(map(int, part.split(","))) if part else None for part in iota.groups())
        devices = np.arange(math.prod(dims)).reshape(dims)
        return (devices.transpose(order) if order else devices).reshape(shape[0], -1)
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=[^{]*)? \{([^}]*)\}", attributes):
        return _groups_of_mesh(*named.groups())
    listed = re.search(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,]+\}(?:,\{[\d,]+\})*)\}", attributes)
    if listed:
        rows = [list(map(int, row.split(","))) for row in re.findall(r"\{([\d,]+)\}", listed[1])]
        return np.asarray([row for row in rows if len(row) == len(rows[0])])
    if re.search(r"replica_groups=(?!\{\})", attributes):
        raise ValueError(f"groups of devices written in a way that is not known: {attributes[:200]}")
    return None


def _groups_of_mesh(mesh: str, axes: str) -> np.ndarray:
    """Devices that differ along these axes alone; `'b':(2)4` is a part of an axis: 4, behind 2 others."""
    sizes: dict[str, int] = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh)}
    dims, chosen = [], []
    parts = {name: (before, size) for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", axes)}
    for name, size in sizes.items():
        before, within = (int(part or 0) for part in parts.get(name, (size, 1)))
        if name in parts and not within:  # the whole axis
            before, within = 1, size
        chosen.append(len(dims) + 1)
        dims += [before, within, size // (before * within)]
    devices = np.arange(math.prod(dims)).reshape(dims)
    return np.moveaxis(devices, chosen, range(-len(chosen), 0)).reshape(-1, math.prod(dims[i] for i in chosen))


def _blocks(text: str) -> Iterator[tuple[str, bool, list[str]]]:
    name, is_entry, lines = "", False, []
    for line in text.splitlines():
        if line.endswith("{") and not line.startswith((" ", "HloModule")):
            found = _NAME.search(line)
            name, is_entry, lines = found[1] if found else "", line.startswith("ENTRY"), []
        elif line == "}" and name:
            yield name, is_entry, lines
            name = ""
        elif name:
            lines.append(line)


def _instruction(line: str) -> Instruction | None:
    head, equals, rest = line.strip().partition(" = ")
    if not equals:
        return None
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    start = rest.index("(")
    close = _closing(rest, start)
    argument = rest[start + 1 : close]
    return Instruction(
        name=head.removeprefix("ROOT ").lstrip("%"),
        arrays=tuple(_arrays(shape)),
        opcode=rest[:start],
        operands=tuple(_NAME.findall(argument)),
        argument=argument,
        attributes=rest[close + 1 :],
        is_root=head.startswith("ROOT"),
    )


def _arrays(shape: str) -> Iterator[Array]:
    for dtype, dims, layout in _ARRAY.findall(shape):
        space = re.search(r"S\((\d+)\)", layout)
        yield Array(dtype, tuple(map(int, filter(None, dims.split(",")))), space is None)


def _closing(text: str, start: int) -> int:
    """Where the parenthesis that opens at `start` closes."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, start):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.start()
    raise ValueError(f"no closing parenthesis in {text[start : start + 80]!r}")
