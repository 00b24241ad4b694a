"""Text on a terminal: what matters in colour, or where there is none, in brackets and asterisks."""

from __future__ import annotations

import bisect
import dataclasses
import math
import os
from typing import TextIO

_SPANS = ("\x1b[1;31m", "\x1b[1;34m", "\x1b[1;35m", "\x1b[1;32m", "\x1b[1;36m", "\x1b[1;33m")
_BOLD, _DIM, _OFF = "\x1b[1m", "\x1b[2m", "\x1b[0m"
# From cheap to costly, green to red, of the 256 colours: each can be read on a dark and on a light ground.
_COSTS = tuple(f"\x1b[38;5;{colour}m" for colour in (36, 71, 106, 142, 172, 202, 196))
_COST_EDGES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


@dataclasses.dataclass(frozen=True)
class Style:
    """How to mark what matters: in colour, or where there is none, with brackets and asterisks."""

    colour: bool

    def span(self, text: str, number: int) -> str:
        """The `number`-th masked span: another colour than its neighbours."""
        return f"{_SPANS[number % len(_SPANS)]}{text}{_OFF}" if self.colour else f"[{text}]"

    def loss(self, text: str) -> str:
        return f"{_BOLD}{text}{_OFF}" if self.colour else f"{text}*"

    def cost(self, text: str, nats: float) -> str:
        """A token that costs `nats`: in the colour of that, or with the number behind it."""
        return f"{_COSTS[_cost_level(nats)]}{text}{_OFF}" if self.colour else f"{text} {nats:.2f}"

    def title(self, text: str) -> str:
        return f"{_BOLD}{text}{_OFF}" if self.colour else text

    def aside(self, text: str) -> str:
        return f"{_DIM}{text}{_OFF}" if self.colour else text


def style_for(stream: TextIO) -> Style:
    """Colour on a terminal, unless NO_COLOR says otherwise (https://no-color.org)."""
    return Style(stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb")


def cost_legend(style: Style) -> str:
    """What explains `Style.cost`."""
    if not style.colour:
        return "behind each token that carries loss"
    names = [f"up to {_COST_EDGES[0]:g}", *(f"{edge:g}" for edge in _COST_EDGES[1:]), "more"]
    return "  ".join(f"{colour}{name}{_OFF}" for colour, name in zip(_COSTS, names, strict=True))


def _cost_level(nats: float) -> int:
    return len(_COST_EDGES) if math.isnan(nats) else bisect.bisect_left(_COST_EDGES, nats)
