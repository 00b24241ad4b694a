"""Pictures of the attention masks of the three architectures, from the masks that the model uses.

`matrix` is the picture of Figure 3 of the T5 paper (Raffel et al., 2020), `lines` that of its Figure 4.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import Literal, get_args

import jax
import numpy as np
from jaxtyping import Bool, Int
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from t5x_mini.errors import UserError
from t5x_mini.model import masks
from t5x_mini.model.config import Architecture
from t5x_mini.storage import to_path

Style = Literal["matrix", "lines"]
# Above these, cells are thinner than a pixel and lines can't be told apart.
_MAX_POSITIONS = {"matrix": 1024, "lines": 64}

_TITLES = {
    "encoder_decoder": "encoder–decoder",
    "causal_lm": "causal language model",
    "prefix_lm": "prefix language model",
}
_INK, _MUTED = "#202124", "#5f6368"
_MAY, _MAY_NOT = "#27496d", "#e9edf2"
_FULLY_VISIBLE, _CAUSAL = "#3c4043", "#c3c8cf"
_ENCODER, _DECODER = "#8cbf88", "#7fa8d9"
_BOS = r"$\langle s \rangle$"

# All lengths below are inches on the page.
_SIDE = 3.3
_MARGIN = 0.35
_BETWEEN = 0.75
_SMALLEST_LABELLED = 0.19
_SPAN_LABEL = 0.7
_BLOCK_HEIGHT = 0.26


def draw_masks(inputs: int, targets: int, style: Style, path: str | os.PathLike[str]) -> pathlib.Path:
    """Draws what each architecture lets every output see, for one example without padding, as a PNG.

    x are input tokens and y target tokens. A position is named by the token it reads or by the token it writes; a
    decoder reads one behind, starting with <s>. The decoder-only architectures see inputs and targets in one row.

    Args:
        inputs: tokens of the example's inputs.
        targets: tokens of its targets.
        style: `matrix`, with a dark cell where an output (row) may attend to an input (column); or `lines`, with
            blocks joined by dark lines where attention is fully visible and light lines where it is causal.
        path: of the PNG; replaced if it is there, its folder made if it is not.

    Returns:
        `path`.

    Raises:
        UserError: a length below 1, too many positions to tell apart, or an unknown style.
    """
    _check(inputs, targets, style)
    return _save((_matrix_figure if style == "matrix" else _lines_figure)(inputs, targets), path)


def draw_mask(architecture: Architecture, inputs: int, targets: int, path: str | os.PathLike[str]) -> pathlib.Path:
    """Draws the `matrix` of one architecture alone; arguments, result and errors as in `draw_masks`."""
    _check(inputs, targets, "matrix")
    return _save(_matrix_figure(inputs, targets, (architecture,)), path)


def visible_cells(architecture: Architecture, inputs: int, targets: int) -> masks.Masks:
    """The model's own masks for one example without padding: boolean numpy arrays `[queries, keys]`, or None."""
    make = jax.jit(masks.make_masks, static_argnums=0)  # one program to compile, not twenty
    made = make(architecture, _batch(architecture, inputs, targets))
    return masks.Masks(*(None if mask is None else np.asarray(mask)[0, 0] for mask in made))


def _save(figure: Figure, path: str | os.PathLike[str]) -> pathlib.Path:
    path = to_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        figure.savefig(file, format="png", dpi=200)
    return path


def _batch(architecture: Architecture, inputs: int, targets: int) -> dict[str, np.ndarray]:
    """One row in the layout of SeqIO's feature converters; the tokens themselves don't matter."""
    if architecture == "encoder_decoder":
        return {"encoder_input_tokens": _ones(inputs), "decoder_target_tokens": _ones(targets)}
    return {
        "decoder_target_tokens": _ones(inputs + targets),
        "decoder_causal_attention": _prefix(inputs, targets)[None].astype(np.int32),
    }


def _ones(length: int) -> Int[np.ndarray, "1 length"]:
    return np.ones((1, length), np.int32)


def _prefix(inputs: int, targets: int) -> Bool[np.ndarray, " length"]:
    """One longer than the inputs: the position that reads the last input belongs to them too."""
    return np.arange(inputs + targets) <= inputs


def _check(inputs: int, targets: int, style: str) -> None:
    if style not in get_args(Style):
        raise UserError(f"there is no style {style!r} of mask figure; write --style=matrix or --style=lines.")
    for name, length in (("inputs", inputs), ("targets", targets)):
        if length < 1:
            raise UserError(f"a mask figure needs at least one position on each side, but {name} is {length}.")
    limit, total = _MAX_POSITIONS[style], inputs + targets
    if total > limit:
        advice = "Ask for less, or write --style=matrix." if style == "lines" else "Ask for less."
        raise UserError(
            f"a mask figure in style {style!r} can show {limit} positions, but inputs + targets is {total}. {advice}"
        )


def _names(letter: str, length: int) -> list[str]:
    return [f"${letter}_{{{index}}}$" for index in range(1, length + 1)]


def _read_and_written(inputs: int, targets: int) -> tuple[list[str], list[str]]:
    """Names of the positions of a decoder by what they read and by what they write."""
    written = _names("x", inputs) + _names("y", targets)
    return [_BOS, *written[:-1]], written


def _page(width: float, height: float) -> tuple[Figure, Axes]:
    """A page whose coordinates are inches."""
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height), autoscale_on=False)
    axes.set_axis_off()
    return figure, axes


# --- matrix ----------------------------------------------------------------------------------------------------------


def _matrix_figure(inputs: int, targets: int, architectures: Sequence[Architecture] = tuple(_TITLES)) -> Figure:
    gap = 0.3  # between the blocks of the encoder-decoder; holds a line of text
    left, bottom, label_room = 0.95, 1.15, 0.75
    has_blocks = "encoder_decoder" in architectures
    top = bottom + _SIDE + (gap if has_blocks else 0)
    widths = [_SIDE + (gap if architecture == "encoder_decoder" else 0) for architecture in architectures]
    lefts = [left + sum(widths[:panel]) + panel * (_BETWEEN + label_room) for panel in range(len(widths))]
    figure, axes = _page(lefts[-1] + widths[-1] + _MARGIN, top + 0.75)
    cell = _SIDE / (inputs + targets)
    for architecture, edge, width in zip(architectures, lefts, widths, strict=True):
        if architecture == "encoder_decoder":
            _encoder_decoder_panel(axes, inputs, targets, edge, bottom, top, cell, gap)
        else:
            _one_stack_panel(axes, architecture, inputs, targets, edge, bottom, cell)
        _titles(axes, architecture, edge, width, bottom, top)
    _legend_of_cells(axes, figure.get_figwidth() / 2)
    return figure


def _encoder_decoder_panel(
    axes: Axes, inputs: int, targets: int, left: float, bottom: float, top: float, cell: float, gap: float
) -> None:
    found = visible_cells("encoder_decoder", inputs, targets)
    x, (read, written) = _names("x", inputs), _read_and_written(0, targets)
    middle, lower = left + inputs * cell + gap, top - inputs * cell - gap
    _cells(axes, found.encoder, left, top, cell)
    _cells(axes, found.cross, left, lower, cell)
    _cells(axes, found.decoder, middle, lower, cell)
    for text, horizontal, vertical, side in (
        ("encoder self-attention", left, top, "left"),
        ("cross-attention", left, lower, "left"),
        ("decoder self-attention", middle + targets * cell, lower, "right"),
    ):
        axes.text(horizontal, vertical + 0.07, text, color=_MUTED, fontsize=8.5, ha=side)
    _column_names(axes, [(left, x), (middle, read)], bottom, cell)
    _row_names(axes, [(top, x), (lower, written)], left, cell)


def _one_stack_panel(
    axes: Axes, architecture: Architecture, inputs: int, targets: int, left: float, bottom: float, cell: float
) -> None:
    read, written = _read_and_written(inputs, targets)
    upper = bottom + _SIDE
    _cells(axes, visible_cells(architecture, inputs, targets).decoder, left, upper, cell)
    # Names are kept with the half they belong to: <s> and the x, then the y.
    spans = [(left, read[: inputs + 1]), (left + (inputs + 1) * cell, read[inputs + 1 :])]
    _column_names(axes, spans, bottom, cell)
    _row_names(axes, [(upper, written[:inputs]), (upper - inputs * cell, written[inputs:])], left, cell)


def _cells(axes: Axes, mask: np.ndarray, left: float, top: float, cell: float) -> None:
    queries, keys = mask.shape
    right, bottom = left + keys * cell, top - queries * cell
    axes.imshow(
        mask,
        cmap=ListedColormap([_MAY_NOT, _MAY]),
        vmin=0,
        vmax=1,
        extent=(left, right, bottom, top),
        interpolation="nearest",
        aspect="auto",
    )
    if cell < 0.05:
        return
    across = [[(left, top - row * cell), (right, top - row * cell)] for row in range(queries + 1)]
    down = [[(left + column * cell, bottom), (left + column * cell, top)] for column in range(keys + 1)]
    axes.add_collection(LineCollection(across + down, colors="white", linewidths=min(1.6, 10 * cell)))


def _column_names(axes: Axes, spans: Sequence[tuple[float, list[str]]], top: float, cell: float) -> None:
    """Names under the columns of each span (its left edge and its names); one range a span where cells are small."""
    if cell >= _SMALLEST_LABELLED:
        for left, names in spans:
            for index, name in enumerate(names):
                axes.text(left + (index + 0.5) * cell, top - 0.14, name, ha="center", va="center", fontsize=9)
        return
    edges = [(left, left + len(names) * cell) for left, names in spans if names]
    centres = _apart([sum(edge) / 2 for edge in edges], edges[0][0], edges[-1][1])
    for (start, end), centre, (_, names) in zip(edges, centres, spans, strict=False):
        inset = min(0.02, (end - start) / 4)
        axes.plot([start + inset, end - inset], [top - 0.07] * 2, color=_MUTED, linewidth=1, solid_capstyle="butt")
        axes.text(centre, top - 0.2, _range(names), ha="center", va="center", fontsize=9)


def _row_names(axes: Axes, spans: Sequence[tuple[float, list[str]]], right: float, cell: float) -> None:
    """Names to the left of the rows of each span (its top edge and its names)."""
    if cell >= _SMALLEST_LABELLED:
        for top, names in spans:
            for index, name in enumerate(names):
                axes.text(right - 0.08, top - (index + 0.5) * cell, name, ha="right", va="center", fontsize=9)
        return
    edges = [(top - len(names) * cell, top) for top, names in spans]
    centres = _apart([sum(edge) / 2 for edge in reversed(edges)], edges[-1][0], edges[0][1])[::-1]
    for (start, end), centre, (_, names) in zip(edges, centres, spans, strict=True):
        inset = min(0.02, (end - start) / 4)
        axes.plot([right - 0.07] * 2, [start + inset, end - inset], color=_MUTED, linewidth=1, solid_capstyle="butt")
        axes.text(right - 0.2, centre, _range(names), ha="center", va="center", fontsize=9, rotation=90)


def _apart(centres: list[float], start: float, end: float) -> list[float]:
    """Moves the centres of at most two labels so that they stay inside and don't touch."""
    if len(centres) == 1:
        return centres
    first, second = centres
    half = _SPAN_LABEL / 2
    return [float(np.clip(first, start + half, end - 3 * half)), float(np.clip(second, start + 3 * half, end - half))]


def _range(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}"


def _titles(axes: Axes, architecture: str, left: float, width: float, bottom: float, top: float) -> None:
    axes.text(left + width / 2, top + 0.38, _TITLES[architecture], ha="center", fontsize=13, color=_INK)
    axes.text(left + width / 2, bottom - 0.42, "reads (keys)", ha="center", va="center", fontsize=9, color=_MUTED)
    height = (bottom + top) / 2
    axes.text(left - 0.52, height, "writes (queries)", rotation=90, ha="center", va="center", fontsize=9, color=_MUTED)


def _legend_of_cells(axes: Axes, centre: float) -> None:
    for text, colour, left in (("may attend", _MAY, centre - 1.15), ("may not", _MAY_NOT, centre + 0.25)):
        axes.add_patch(Rectangle((left, 0.22), 0.16, 0.16, color=colour))
        axes.text(left + 0.24, 0.3, text, va="center", fontsize=9.5, color=_INK)


# --- lines -----------------------------------------------------------------------------------------------------------


def _lines_figure(inputs: int, targets: int) -> Figure:
    heights = (1.35, 2.9, 4.45)
    between_stacks = 0.35
    # Wide enough for the title, then for names side by side, and no wider than a README's page bears.
    width = float(np.clip(0.44 * (inputs + targets), 2.4, 5.0))
    column = width / (inputs + targets)
    lefts = [_MARGIN, _MARGIN + width + between_stacks + _BETWEEN]
    lefts.append(lefts[1] + width + _BETWEEN)
    figure, axes = _page(lefts[2] + width + _MARGIN, heights[-1] + 1.15)

    found = visible_cells("encoder_decoder", inputs, targets)
    encoder = lefts[0] + column * (np.arange(inputs) + 0.5)
    decoder = lefts[0] + inputs * column + between_stacks + column * (np.arange(targets) + 0.5)
    # The decoder stands one floor higher, so that what it reads of the encoder comes from below, like all else.
    _lines(axes, found.encoder, encoder, encoder, heights[0], heights[1], _FULLY_VISIBLE)
    _lines(axes, found.decoder, decoder, decoder, heights[1], heights[2], _CAUSAL)
    _lines(axes, found.cross, decoder, encoder, heights[1], heights[2], _FULLY_VISIBLE)
    _blocks(axes, encoder, heights[:2], column, _ENCODER)
    _blocks(axes, decoder, heights[1:], column, _DECODER)
    read, written = _read_and_written(0, targets)
    _block_names(axes, encoder, _names("x", inputs), heights[0], column, below=True)
    _block_names(axes, decoder, read, heights[1], column, below=True)
    _block_names(axes, decoder, written, heights[2], column, below=False)
    for name, positions, height in (("encoder", encoder, heights[0]), ("decoder", decoder, heights[1])):
        axes.text(positions.mean(), height - 0.62, name, color=_MUTED, fontsize=9.5, ha="center", va="center")
    _panel_title(axes, "encoder_decoder", lefts[0] + (width + between_stacks) / 2, heights[-1])

    read, written = _read_and_written(inputs, targets)
    prefix = _prefix(inputs, targets)
    for architecture, left in (("causal_lm", lefts[1]), ("prefix_lm", lefts[2])):
        mask = visible_cells(architecture, inputs, targets).decoder
        in_prefix = prefix[:, None] & prefix[None, :] & (architecture == "prefix_lm")
        positions = left + column * (np.arange(inputs + targets) + 0.5)
        for floor in (0, 1):
            low, high = heights[floor], heights[floor + 1]
            _lines(axes, mask & ~in_prefix, positions, positions, low, high, _CAUSAL)
            _lines(axes, mask & in_prefix, positions, positions, low, high, _FULLY_VISIBLE)
        _blocks(axes, positions, heights, column, _DECODER)
        _block_names(axes, positions, read, heights[0], column, below=True)
        _block_names(axes, positions, written, heights[2], column, below=False)
        _panel_title(axes, architecture, left + width / 2, heights[-1])
    _legend_of_lines(axes, figure.get_figwidth() / 2)
    return figure


def _lines(
    axes: Axes, mask: np.ndarray, queries: np.ndarray, keys: np.ndarray, low: float, high: float, colour: str
) -> None:
    """A line from each key's block (below) to each query's block (above) that may attend to it."""
    low, high = low + _BLOCK_HEIGHT / 2, high - _BLOCK_HEIGHT / 2
    lines = [[(keys[key], low), (queries[query], high)] for query, key in np.argwhere(mask)]
    width, order = (1.1, 2) if colour == _FULLY_VISIBLE else (1.4, 1)
    axes.add_collection(LineCollection(lines, colors=colour, linewidths=width * min(1, 9 / len(queries)), zorder=order))


def _blocks(axes: Axes, positions: np.ndarray, heights: Sequence[float], column: float, colour: str) -> None:
    wide, high = min(0.6 * column, _BLOCK_HEIGHT), _BLOCK_HEIGHT
    for left in positions - wide / 2:
        for middle in heights:
            axes.add_patch(
                FancyBboxPatch(
                    (left, middle - high / 2),
                    wide,
                    high,
                    boxstyle=f"round,pad=0,rounding_size={0.2 * wide}",
                    facecolor=colour,
                    edgecolor="white",
                    linewidth=min(1.5, 4 * column),
                    zorder=3,
                )
            )


def _block_names(
    axes: Axes, positions: np.ndarray, names: list[str], height: float, column: float, *, below: bool
) -> None:
    height += -0.32 if below else 0.32
    if column < 0.3:
        centre, names, positions = positions.mean(), [_range(names)], positions[:1]
        positions = np.array([centre])
    for position, name in zip(positions, names, strict=True):
        axes.text(position, height, name, ha="center", va="center", fontsize=11, color=_INK)


def _panel_title(axes: Axes, architecture: str, centre: float, top: float) -> None:
    axes.text(centre, top + 0.78, _TITLES[architecture], ha="center", va="center", fontsize=13, color=_INK)


def _legend_of_lines(axes: Axes, centre: float) -> None:
    for text, colour, left in (("fully visible", _FULLY_VISIBLE, centre - 1.45), ("causal", _CAUSAL, centre + 0.35)):
        axes.plot([left, left + 0.35], [0.3, 0.3], color=colour, linewidth=2)
        axes.text(left + 0.43, 0.3, text, va="center", fontsize=9.5, color=_INK)
