"""HTML from Python values, all text escaped."""

from __future__ import annotations

import html

RUN_COLOURS = 8
"""That page.css has; runs above them begin again."""


class Html(str):
    """Text that is HTML already."""


def element(tag: str, *children: str | None, **attributes: str | bool | None) -> Html:
    """`<tag attributes>children</tag>`: children that are not `Html` are escaped, None is left out.

    Args:
        attributes: `class_` and `for_` stand for `class` and `for`, `aria_label` for `aria-label`. True is an attribute
            without a value; None and False leave it out.
    """
    written = "".join(_attribute(name, value) for name, value in attributes.items() if value not in (None, False))
    if tag in ("img", "input", "br"):
        return Html(f"<{tag}{written}>")
    return Html(f"<{tag}{written}>{join(*children)}</{tag}>")


def join(*children: str | None) -> Html:
    """The children one after the other."""
    return Html("".join(child if isinstance(child, Html) else html.escape(child) for child in children if child))


def _attribute(name: str, value: str | bool) -> str:
    name = name.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{html.escape(str(value))}"'


def table(head: list[str], rows: list[list[str]], label: str) -> Html:
    """A table that scrolls sideways where it is too wide; the first cell of a row is its heading."""
    titles = element("tr", *(element("th", cell, scope="col") for cell in head))
    lines = [
        element("tr", element("th", row[0], scope="row"), *(element("td", cell) for cell in row[1:])) for row in rows
    ]
    inside = element("table", element("thead", titles), element("tbody", *lines))
    return element("div", inside, class_="scroll", tabindex="0", role="region", aria_label=label)


def run_dot(index: int) -> Html:
    """The mark of a run, in its colour."""
    return element("span", class_=f"dot {run_colour(index)}", aria_hidden="true")


def run_colour(index: int) -> str:
    """The class that gives an element a run's colour as background."""
    return f"r{index % RUN_COLOURS}"
