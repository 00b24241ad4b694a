"""Tables of text, for a terminal and for a page. The first line is the head."""

from __future__ import annotations

from collections.abc import Sequence

Lines = Sequence[Sequence[str]]


def aligned(lines: Lines, left: int = 1) -> list[str]:
    """Each line with its cells under one another, the first `left` columns flush left and the others flush right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    formats = [f"{{:{'<' if place < left else '>'}{width}}}" for place, width in enumerate(widths)]
    return ["   ".join(form.format(cell) for form, cell in zip(formats, line, strict=True)) for line in lines]


def markdown(lines: Lines, left: int = 1) -> str:
    """The same as a table of Markdown."""
    head, *rest = lines
    rule = ["---" if place < left else "---:" for place in range(len(head))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *rest)) + "\n"
