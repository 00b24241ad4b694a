"""A picture of a task's lengths: how they lie against the limits, and how much of a batch is padding."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

_FEATURES, _LIMIT, _GREY = {"inputs": "#3b6ea8", "targets": "#d9722e"}, "#b3261e", "#5f6368"
_KINDS = {"loss": "#2f8f6b", "no loss": "#a9c6e0", "padding": "#e3e5e8"}
_NAMES = {"loss": "tokens with loss", "no loss": "tokens that are read", "padding": "padding"}


def draw_lengths(
    lengths: Mapping[str, np.ndarray],
    limits: Mapping[str, int],
    shares: Mapping[str, Mapping[str, Mapping[str, float]]],
    title: str,
    png: str,
) -> str:
    """Draws a histogram of each feature's lengths with its limit, and what the positions of a batch hold.

    Args:
        lengths: tokens of each example, by feature.
        limits: tokens that the model reads, by feature; what is longer is cut.
        shares: by architecture and part, as `inspect.padding_shares` measures them.
        png: the picture; replaced if it is there.

    Returns:
        `png`.
    """
    lengths_figure(lengths, limits, shares, title).savefig(png)
    return png


def lengths_figure(
    lengths: Mapping[str, np.ndarray],
    limits: Mapping[str, int],
    shares: Mapping[str, Mapping[str, Mapping[str, float]]],
    title: str,
) -> Figure:
    """The picture of `draw_lengths`."""
    bars = [(architecture, part, kinds) for architecture, parts in shares.items() for part, kinds in parts.items()]
    figure = Figure(figsize=(4.2 * len(lengths) + 0.6, 3.4 + 0.36 * len(bars)), dpi=150, layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(2.8, 0.6 + 0.36 * len(bars)))
    for axes, (name, values) in zip(top.subplots(1, len(lengths), squeeze=False)[0], lengths.items(), strict=True):
        _histogram(axes, name, values, limits[name])
    _bars(bottom.subplots(), bars)
    figure.suptitle(title, fontsize=11, color="#202124")
    return figure


def _histogram(axes: Axes, name: str, values: np.ndarray, limit: int) -> None:
    longest = max(int(values.max()), limit)
    width = max(1, round(longest / 40))
    # Bars end at the limit, so that none is half cut.
    edges = np.arange(limit - width * (limit // width) + 0.5, longest + width + 0.5, width)
    edges = np.concatenate([[edges[0] - width], edges])
    weights = np.full(len(values), 1 / len(values))
    axes.hist(values, bins=edges, weights=weights, color=_FEATURES.get(name, _GREY), rwidth=0.92)
    axes.axvline(limit + 0.5, color=_LIMIT, linewidth=1.3)
    cut = float(np.mean(values > limit))
    side = "right" if limit > 0.45 * longest else "left"
    axes.annotate(
        f"limit {limit}, {'none cut' if not cut else f'{cut:.1%} cut'}",
        (limit + 0.5, 1),
        (4 if side == "right" else -4, 3),
        xycoords=axes.get_xaxis_transform(),
        textcoords="offset points",
        ha=side,
        va="bottom",
        fontsize=8.5,
        color=_LIMIT,
    )
    axes.set_xlim(0, longest + width)
    axes.set_xlabel(f"tokens of the {name}")
    axes.set_ylabel("share of the examples")
    axes.margins(y=0.12)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e8eb", linewidth=0.8)
    axes.set_axisbelow(True)


def _bars(axes: Axes, bars: list[tuple[str, str, Mapping[str, float]]]) -> None:
    heights = np.arange(len(bars))[::-1]
    starts = np.zeros(len(bars))
    for kind, colour in _KINDS.items():
        widths = np.array([kinds[kind] for _, _, kinds in bars])
        axes.barh(heights, widths, left=starts, color=colour, height=0.7, label=_NAMES[kind])
        for height, start, width in zip(heights, starts, widths, strict=True):
            if width >= 0.06:
                ink = "white" if kind == "loss" else "#202124"
                axes.text(start + width / 2, height, f"{width:.0%}", ha="center", va="center", fontsize=8.5, color=ink)
        starts += widths
    axes.set_yticks(heights, [f"{architecture}, {part}" for architecture, part, _ in bars], fontsize=9)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel("share of a batch's positions")
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.legend(frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1), fontsize=8.5, borderaxespad=0.2)
