"""Tables and small curves for a terminal of any width."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Sequence

from t5x_mini.terminal import Style

_BLOCKS = "▁▂▃▄▅▆▇█"
_GAP = 3


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of a table: a cell for each column, or none in a heading; `best` is the column that is to stand out."""

    label: str
    cells: tuple[str, ...] = ()
    best: int | None = None


def table(title: str, rows: Sequence[Row], names: Sequence[str], style: Style, width: int) -> list[str]:
    """Lines of a table with a column for each of `names`; where that is wider than `width`, each cell has its line."""
    plain = Style(colour=False)
    cells = [[_marked(cell, i == row.best, plain) for i, cell in enumerate(row.cells)] for row in rows]
    sizes = [max(map(len, column)) for column in zip(names, *filter(None, cells), strict=True)]
    label_size = max(len(title), *(2 + len(row.label) for row in rows if row.cells))
    if label_size + sum(sizes) + _GAP * len(names) > width:
        return [style.title(title), *(line for row in rows for line in _stacked(row, names, style, width))]
    gap = " " * _GAP
    lines = [style.title(gap.join([f"{title:<{label_size}}", *map(str.ljust, names, sizes)]).rstrip())]
    for row, texts in zip(rows, cells, strict=True):
        if not texts:
            lines += _heading(row, style)
            continue
        padding = [" " * (size - len(text)) for size, text in zip(sizes, texts, strict=True)]
        shown = [_marked(cell, i == row.best, style) + padding[i] for i, cell in enumerate(row.cells)]
        lines.append(gap.join([f"  {row.label:<{label_size - 2}}", *shown]).rstrip())
    return lines


def _heading(row: Row, style: Style) -> list[str]:
    return ["", style.title(row.label)]


def _stacked(row: Row, names: Sequence[str], style: Style, width: int) -> list[str]:
    if not row.cells:
        return _heading(row, style)
    margin = 4 + max(map(len, names)) + 2
    lines = [f"  {row.label}"]
    for column, name in enumerate(names):
        first, *rest = textwrap.wrap(row.cells[column], max(width - margin - 1, 20)) or [""]
        lines.append(f"    {name:<{margin - 4}}{_marked(first, column == row.best, style)}".rstrip())
        lines += [" " * margin + _marked(part, column == row.best, style) for part in rest]
    return lines


def _marked(text: str, is_best: bool, style: Style) -> str:
    """The best in bold, or where there is none, with an asterisk."""
    if not is_best:
        return text
    return style.title(text) if style.colour else f"{text}*"


def sparkline(values: Sequence[float], low: float, high: float) -> str:
    """A character for each value, between `low` and `high`."""
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((value - low) * scale)] for value in values)
