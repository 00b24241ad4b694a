"""Texts for TensorBoard and W&B, which render Markdown: code as it is, and tables of a model's answers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_LONGEST_CELL = 400
_VERDICTS = {True: "right", False: "wrong", None: ""}
# All that Markdown or HTML gives a meaning: `<extra_id_0>` would be taken for a tag, and not be seen.
_SPECIAL = re.compile(r"[\\`*_{}\[\]()#+\-.!|<>&~:]")


def code(text: str) -> str:
    """The text as it is, in a block of code."""
    longest = max((len(ticks) for ticks in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text.rstrip()}\n{fence}"


def examples(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table of answers: inputs, target, prediction, and whether it is right, where that can be said.

    Args:
        rows: of a `<task>-<step>.jsonl`: `inputs`, `targets`, `prediction`, and `correct` where known.
    """
    lines = ["| inputs | target | prediction | |", "|---|---|---|---|"]
    for row in rows:
        cells = [_cell(row.get(name)) for name in ("inputs", "targets", "prediction")]
        lines.append(f"| {' | '.join(cells)} | {_VERDICTS[row.get('correct')]} |")
    return "\n".join(lines)


def _cell(value: object) -> str:
    """The value's text in one line, of at most so many characters, shown as it is by any renderer."""
    text = " ".join(("" if value is None else str(value)).split())
    if len(text) > _LONGEST_CELL:
        text = f"{text[: _LONGEST_CELL - 1]}…"
    return _SPECIAL.sub(lambda special: f"&#{ord(special[0])};", text)
