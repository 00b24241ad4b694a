"""How often the loops of a compiled program run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from t5x_mini.plan.hlo_text import Instruction

_INTEGERS = ("s32", "u32", "s64", "u64")  # a loop over the parts of a product that is gathered on the way counts in u32


def trips(loop: Instruction, where: str, computations: Mapping[str, Sequence[Instruction]]) -> int:
    """How often a loop's body runs: from the bound in its condition, its counter's first value and its step.

    A loop that may end earlier, as decoding does when all have answered, is taken to run to its bound. 1 where the
    condition has no constant to compare with.

    Args:
        loop: the instruction `while`.
        where: the computation in which it stands.
        computations: of the program.
    """
    condition = computations[loop.attribute("condition")]
    bound = max((line.integer for line in condition if line.integer is not None), default=None)
    index = next((line for line in condition if line.opcode == "get-tuple-element" and _is_counter(line)), None)
    if bound is None or index is None:
        return 1
    including = any("direction=LE" in line.attributes for line in condition)
    place = int(index.attribute("index"))
    carried = _first_values(loop, computations[where])
    start = carried[place] if place < len(carried) else None
    step = _step(computations[loop.attribute("body")], place, carried)
    return max(-(-(bound + including - (start or 0)) // step), 0)


def _first_values(loop: Instruction, lines: Sequence[Instruction]) -> list[int | None]:
    """What a loop begins with, of each thing that it carries; None for all but constants."""
    named = {line.name: line for line in lines}
    made = named.get(loop.operands[0])
    if made is None or made.opcode != "tuple":
        return []
    return [_constant(name, named, []) for name in made.operands]


def _step(body: Sequence[Instruction], place: int, carried: Sequence[int | None]) -> int:
    """What a turn adds to the counter; 1 where the body's text does not tell, as in a fusion."""
    named = {line.name: line for line in body}
    root = next(line for line in body if line.is_root)
    added = _behind_copies(root.operands[place], named) if root.opcode == "tuple" else None
    if added is None or added.opcode != "add":
        return 1
    steps = [_constant(name, named, carried) for name in added.operands if not _is_carried(name, named, place)]
    return (steps[0] if len(steps) == 1 else None) or 1


def _constant(name: str, named: Mapping[str, Instruction], carried: Sequence[int | None]) -> int | None:
    """The value behind a name: of a constant, or of one that the loop carries unchanged."""
    line = _behind_copies(name, named)
    if line is not None and line.opcode == "get-tuple-element" and carried:
        return carried[int(line.attribute("index"))]
    return None if line is None else line.integer


def _is_carried(name: str, named: Mapping[str, Instruction], place: int) -> bool:
    line = _behind_copies(name, named)
    return line is not None and line.opcode == "get-tuple-element" and int(line.attribute("index")) == place


def _behind_copies(name: str, named: Mapping[str, Instruction]) -> Instruction | None:
    line = named.get(name)
    while line is not None and line.opcode in ("copy", "bitcast"):
        line = named.get(line.operands[0])
    return line


def _is_counter(line: Instruction) -> bool:
    return [array.shape for array in line.arrays] == [()] and line.arrays[0].dtype in _INTEGERS
