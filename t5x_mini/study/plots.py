"""Pictures of a study: every cell's scores beside the reference's, and its training loss against the FLOPs spent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from t5x_mini.glue.benchmark import title
from t5x_mini.study.cells import Cell
from t5x_mini.study.outcomes import AVERAGE
from t5x_mini.study.report import Report

# Okabe and Ito's colours, which colour-blind readers tell apart.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555")
_GREY = "#8a8f98"


def draw(report: Report, folder: Path) -> list[Path]:
    """Writes `losses.png` and, of a study that finetunes, `scores.png`."""
    figures = {"losses.png": losses(report)}
    if report.tasks:
        figures = {"scores.png": scores(report)} | figures
    for name, figure in figures.items():
        figure.savefig(folder / name)
    return [folder / name for name in figures]


def scores(report: Report) -> Figure:
    """A row a cell: seeds as dots, means with their spread, chance as a line; the reference in the last panel."""
    panels = [AVERAGE, *(report.tasks if len(report.tasks) > 1 else [])]
    reference = report.reference_columns[:1]
    count, rows = len(panels) + len(reference), len(report.cells)
    figure = Figure(figsize=(3 + 2.3 * count, 1.2 + 0.34 * rows), dpi=110, layout="constrained")
    axes: Sequence[Axes] = np.atleast_1d(figure.subplots(1, count, sharey=True))
    for axis, name in zip(axes, panels, strict=False):
        chance = report.average_chance if name == AVERAGE else report.chance.get(name)
        if chance is not None:
            axis.axvline(chance, color=_GREY, linestyle=":", linewidth=1.2, label="chance")
        for row, cell in enumerate(report.cells):
            spread = report.found[cell.name].get(name)
            if spread is None:
                continue
            colour = _colour(report, cell)
            axis.plot(spread.values, [row] * len(spread.values), ".", color=colour, alpha=0.45, markersize=7)
            error = 0.0 if math.isnan(spread.deviation) else spread.deviation
            axis.errorbar(spread.mean, row, xerr=error, fmt="D", color=colour, markersize=5, capsize=3)
        axis.set_title(title(name), fontsize=10)
        axis.set_xlabel("per cent")
    for name in reference:
        for row, cell in enumerate(report.cells):
            value = report.study.reference.get(cell.name, {}).get(name, math.nan)
            axes[-1].plot(value, row, "D", color=_colour(report, cell), markerfacecolor="none")
        axes[-1].set_title(f"{name}\n{report.study.reference_name}", fontsize=10)
    for axis in axes:
        axis.grid(axis="x", color="#e4e7eb")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(range(rows), [cell.name for cell in report.cells])
    axes[0].invert_yaxis()
    return figure


def losses(report: Report) -> Figure:
    """Means over seeds of the training loss, against counted FLOPs; a panel for each choice of the first axis.

    Objectives are panels of their own because their losses don't compare.
    """
    first = next(iter(report.study.axes))
    panels = list(report.study.axes[first]) if len(report.study.axes) > 1 else [None]
    figure = Figure(figsize=(1.5 + 4.4 * len(panels), 4), dpi=110, layout="constrained")
    for axis, choice in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        for cell in report.cells:
            curves = [outcome.curve for outcome in report.outcomes if outcome.cell == cell.name]
            if not curves or (choice is not None and cell.choices[first] != choice):
                continue
            steps = [step for step, _ in curves[0]]
            mean = np.mean([[loss for _, loss in curve] for curve in curves], axis=0)
            label = ", ".join(name for other, name in cell.choices.items() if choice is None or other != first)
            axis.plot(np.array(steps) * cell.step_flops, mean, color=_colour(report, cell), label=label, linewidth=1.6)
        axis.set_xlabel("counted FLOPs of pretraining")
        axis.set_ylabel("training loss (nats a target token)")
        axis.set_title(choice or report.study.title, fontsize=10)
        axis.grid(color="#e4e7eb")
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=8)
    return figure


def _colour(report: Report, cell: Cell) -> str:
    """By the choice on the last axis."""
    last = list(report.study.axes)[-1]
    return _COLOURS[list(report.study.axes[last]).index(cell.choices[last]) % len(_COLOURS)]
