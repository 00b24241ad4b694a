"""A study as one HTML page that needs nothing else to be read."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from t5x_mini import __version__
from t5x_mini.report import page as report_page
from t5x_mini.report.html import Html, element, join, table
from t5x_mini.study import report as report_module
from t5x_mini.study.report import Report

_ALT = {
    "scores.png": "Scores of every cell: seeds as dots, means with their spread, chance as a dotted line, and the "
    "reference's scores",
    "losses.png": "Training loss of every cell against the counted FLOPs of its pretraining",
}


def page(report: Report, pictures: Sequence[Path], command: str) -> str:
    """The whole page as text.

    Args:
        report: what the study found.
        pictures: PNG files, which the page carries.
        command: that makes the study again.
    """
    title = report.study.title
    head = join(
        Html('<meta charset="utf-8">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html('<meta name="color-scheme" content="light dark">'),
        element("title", title),
        element("style", Html(report_page.style())),
    )
    body = join(
        element("header", element("h1", title), element("p", report_module.size_in_words(report), class_="note")),
        element("main", *_sections(report, pictures, command)),
        element("footer", f"Written by t5x-mini {__version__}."),
    )
    return f'<!DOCTYPE html>\n<html lang="en">\n{element("head", head)}\n{element("body", body)}\n</html>\n'


def _sections(report: Report, pictures: Sequence[Path], command: str) -> list[Html]:
    head, *rows = report_module.lines(report, report.reference_columns)
    sections = [_section("Cells", table(head, rows, "cells"), _list(report_module.notes(report)[1:]))]
    sections += [_section(picture.stem.capitalize(), _picture(picture)) for picture in pictures]
    if report.orderings:
        head, *rows = report_module.ordering_lines(report)
        explained = (
            "Pairs of cells that differ in one choice. An ordering is reproduced, or reversed, where the two are "
            "further apart here than twice the standard error of their difference; not judged where the scores of one "
            "of them are not above chance by twice their spread."
        )
        sections.append(_section("Orderings", element("p", explained, class_="note"), table(head, rows, "orderings")))
    settings = [[cell.name, " ".join(cell.settings)] for cell in report.cells]
    again = join(element("pre", command), table(["cell", "settings of its pretraining"], settings, "settings"))
    return [*sections, _section("Do it again", again)]


def _section(title: str, *inside: Html) -> Html:
    return element("section", element("h2", title), *inside)


def _list(items: Sequence[str]) -> Html:
    return element("ul", *(element("li", item) for item in items))


def _picture(path: Path) -> Html:
    data = base64.b64encode(path.read_bytes()).decode()
    return element("img", src=f"data:image/png;base64,{data}", alt=_ALT[path.name], style="max-width: 100%")
