"""Pictures of what a run is, drawn when it starts: what its model may see, and what it is fed."""

from __future__ import annotations

import os
import pathlib

from matplotlib.figure import Figure

from t5x_mini.feed import feeds
from t5x_mini.feed.config import FeedConfig
from t5x_mini.model import mask_figure
from t5x_mini.storage import to_path
from t5x_mini.train.run import Run

_BAR, _MUTED = "#3b6ea8", "#5f6368"
# Tokens of the example that the mask is drawn for: few enough for each to have its name.
_INPUTS, _TARGETS = 6, 4
_BAR_HEIGHT = 0.22


def run_pictures(run: Run, folder: str | os.PathLike[str]) -> dict[str, pathlib.Path]:
    """Draws `masks.png`, of the run's architecture, and `mixture.png` in the folder of a run; their paths by name."""
    folder = to_path(folder)
    masks = mask_figure.draw_mask(run.config.model.architecture, _INPUTS, _TARGETS, folder / "masks.png")
    return {"masks": masks, "mixture": mixture_figure(run.config.feed, folder / "mixture.png")}


def mixture_figure(feed: FeedConfig, path: str | os.PathLike[str]) -> pathlib.Path:
    """Draws the share of the training examples that each task of the run's mixture has, the largest on top.

    Args:
        feed: names the mixture, or a task, which has all of them.
        path: of the PNG; replaced if it is there.

    Returns:
        `path`.

    Raises:
        UserError: as `feeds.rates`.
    """
    path = to_path(path)
    with path.open("wb") as file:
        rates_figure(feed.mixture_or_task_name, feeds.rates(feed)).savefig(file, format="png", dpi=150)
    return path


def rates_figure(title: str, rates: dict[str, float]) -> Figure:
    """The picture of `mixture_figure`, for shares that sum to 1."""
    shares = sorted(rates.items(), key=lambda task: (-task[1], task[0]))
    tasks, widths = zip(*shares, strict=True)
    figure = Figure(figsize=(8, 1.2 + _BAR_HEIGHT * len(tasks)), layout="constrained")
    axes = figure.subplots()
    places = range(len(tasks))
    axes.barh(places, widths, height=0.72, color=_BAR)
    for place, width in zip(places, widths, strict=True):
        axes.annotate(
            _per_cent(width), (width, place), (4, 0), textcoords="offset points", va="center", fontsize=8, color=_MUTED
        )
    axes.set_yticks(places, tasks, fontsize=8.5)
    axes.set_ylim(len(tasks) - 0.4, -0.6)
    axes.set_xlim(0, 1.12 * max(widths))  # room for the last figure
    axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
    axes.set_xlabel("share of the training examples", fontsize=9)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8.5)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", color="#e6e8eb", linewidth=0.8)
    axes.set_axisbelow(True)
    count = f", {len(tasks)} tasks" if len(tasks) > 1 else ""
    figure.suptitle(f"{title}{count}", fontsize=11, color="#202124")
    return figure


def _per_cent(share: float) -> str:
    """Two figures that count: `41%`, `2.7%`, `0.016%`."""
    if share < 1e-5:
        return "<0.001%"
    return f"{100 * share:.0f}%" if share >= 0.0995 else f"{100 * share:.2g}%"
