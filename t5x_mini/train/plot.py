"""A picture of a run: what it learned, on what it trained and on what it was not shown."""

from __future__ import annotations

import os
import pathlib

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from t5x_mini.errors import UserError
from t5x_mini.storage import to_path
from t5x_mini.train.metrics import LOSS, read_metrics

_TRAINING, _NOT_FINITE, _GREY = "#3b6ea8", "#b3261e", "#5f6368"
_HELD_OUT = ("#d9722e", "#2f8f6b", "#8a5fb0", "#b59b1f", "#a34a6d")
_FEW_POINTS = 40
# The mean runs over this share of the points: long enough to see a trend, short enough to see a spike's date.
_SMOOTHING = 1 / 40


def loss_plot(metrics_jsonl: str | os.PathLike[str], png: str | os.PathLike[str]) -> pathlib.Path:
    """Draws the loss per token of training and of each held-out task, and the learning rate, against the step.

    Training appears as measured (faint) and as a centred running mean; steps whose loss was not finite are marked.

    Args:
        metrics_jsonl: what `MetricWriter` wrote.
        png: the picture; replaced if it is there.

    Returns:
        `png`.

    Raises:
        UserError: there is no such file, or no loss in it.
    """
    metrics_jsonl, png = to_path(metrics_jsonl), to_path(png)
    if not metrics_jsonl.exists():
        raise UserError(f"no metrics to plot: there is no {metrics_jsonl}. A training run writes one in its MODEL_DIR.")
    rows = read_metrics(metrics_jsonl)
    tasks = sorted({name for row in rows for name in row if name.startswith("eval/") and name.endswith(f"/{LOSS}")})
    steps, losses = _series(rows, LOSS)
    if not (len(steps) or tasks):
        raise UserError(f"no loss to plot in {metrics_jsonl}: none of its {len(rows)} rows has {LOSS!r}.")

    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(5, 1))
    if len(steps):
        _draw_training(top, steps, losses)
    for index, name in enumerate(tasks):
        label = f"held out: {name.removeprefix('eval/').removesuffix(f'/{LOSS}')}"
        _draw_held_out(top, *_series(rows, name), label, _HELD_OUT[index % len(_HELD_OUT)])
    top.set_ylabel("loss (nats per token)")
    if top.get_legend_handles_labels()[0]:
        top.legend(frameon=False, loc="upper right")
    _draw_learning_rate(bottom, *_series(rows, "learning_rate"))
    bottom.set_xlabel("step")
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    bottom.xaxis.set_major_formatter(EngFormatter(sep=""))
    for axes in (top, bottom):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e6e8eb", linewidth=0.8)
        axes.set_axisbelow(True)
    figure.align_ylabels()
    with png.open("wb") as file:
        figure.savefig(file, format="png")
    return png


def _series(rows: list[dict], name: str) -> tuple[np.ndarray, np.ndarray]:
    points = [(row["step"], row[name]) for row in rows if name in row]
    steps, values = zip(*points, strict=True) if points else ((), ())
    return np.asarray(steps, dtype=np.int64), np.asarray(values, dtype=np.float64)


def _running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """The mean of `width` points around each, of fewer at the ends."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    middle = np.arange(len(values))
    start, end = np.maximum(middle - width // 2, 0), np.minimum(middle + width // 2 + 1, len(values))
    return (sums[end] - sums[start]) / (end - start)


def _draw_training(axes: Axes, steps: np.ndarray, losses: np.ndarray) -> None:
    finite = np.isfinite(losses)
    real_steps, real_losses = steps[finite], losses[finite]
    if len(real_steps) < _FEW_POINTS:
        axes.plot(real_steps, real_losses, color=_TRAINING, linewidth=1.5, marker="o", markersize=3, label="training")
    else:
        # Odd, so that the mean has a point in its middle.
        width = 2 * int(len(real_losses) * _SMOOTHING / 2) + 1
        axes.plot(real_steps, real_losses, color=_TRAINING, linewidth=0.8, alpha=0.25)
        axes.plot(real_steps, _running_mean(real_losses, width), color=_TRAINING, linewidth=1.8, label="training")
    if not finite.all():
        label = f"not finite, first at step {steps[~finite][0]}"
        axes.plot(
            steps[~finite],
            np.zeros(np.sum(~finite)),
            "x",
            color=_NOT_FINITE,
            transform=axes.get_xaxis_transform(),
            clip_on=False,
            zorder=5,
            label=label,
        )


def _draw_held_out(axes: Axes, steps: np.ndarray, losses: np.ndarray, label: str, colour: str) -> None:
    finite = np.isfinite(losses)
    if not finite.any():
        return
    steps, losses = steps[finite], losses[finite]
    axes.plot(steps, losses, color=colour, linewidth=1, marker="o", markersize=5, markeredgecolor="white", label=label)
    axes.annotate(
        f"{losses[-1]:.2f}", (steps[-1], losses[-1]), (4, 6), textcoords="offset points", color=colour, ha="center"
    )


def _draw_learning_rate(axes: Axes, steps: np.ndarray, rates: np.ndarray) -> None:
    axes.plot(steps, rates, color=_GREY, linewidth=1.4)
    axes.set_ylabel("learning\nrate")
    highest = np.max(rates[np.isfinite(rates)], initial=0.0)
    if highest > 0:
        axes.set_ylim(0, 1.15 * highest)
        axes.set_yticks([0, highest], ["0", f"{highest:.2g}"])
