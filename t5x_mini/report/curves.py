"""Curves of runs for the page's charts: which there are, and thinned so that a long run fits into a page."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from t5x_mini.report.run_data import RunData, Series
from t5x_mini.train.metrics import LOSS

POINTS = 1500
"""Of a curve at most: more than a screen has columns."""
FEWER_POINTS = 400
"""Where a chart has a curve for each block of a model."""
FEW_TASKS = 3
HELD_OUT = {LOSS: "held-out loss (nats per token)", "accuracy": "held-out tokens right"}

_TRAINING = (
    ("loss", "Loss", "nats per token", LOSS, False),
    ("training", "Tokens right", "share of target tokens", "accuracy", False),
    ("training", "Learning rate", "", "learning_rate", False),
    ("training", "Gradient norm", "before clipping", "grad_norm", True),
    ("training", "Parameter norm", "", "param_norm", False),
    ("speed", "Tokens per second", "encoder and decoder, without padding", "timing/tokens_per_second", False),
    ("speed", "Steps per second", "", "timing/steps_per_second", False),
    ("speed", "Model FLOPs utilisation", "share of the devices' peak", "mfu", False),
)
_SMOOTH_ALREADY = ("learning_rate", "param_norm")
_BLOCKS = (("grad_rms/", "Gradient RMS by block"), ("update_ratio/", "Update RMS / parameter RMS by block"))


@dataclasses.dataclass(frozen=True)
class Curve:
    """A line of a chart.

    Attributes:
        label: in the legend.
        run: index of the run that it is about, which gives the colour.
        raw: as measured, thinned; values that are not finite are None.
        mean: means over equal stretches, to be smoothed further; empty where `raw` is all there is.
        marks: whether every point is a measurement to be seen, as an evaluation is.
    """

    label: str
    run: int
    raw: list[tuple[int, float | None]]
    mean: list[tuple[int, float | None]]
    marks: bool = False


@dataclasses.dataclass(frozen=True)
class Chart:
    """Curves over the training steps.

    Attributes:
        section: of the page where it stands.
        by_curve: each curve has its own colour, where they are all of one run.
        log_y: at first; the page has a switch.
        smoothed: whether the curves are noisy, so that the page's smoothing shows more than it hides.
    """

    section: str
    title: str
    unit: str
    curves: list[Curve]
    log_y: bool = False
    by_curve: bool = False
    smoothed: bool = True


def charts(runs: Sequence[RunData]) -> list[Chart]:
    """All charts that there is something to draw in."""
    found = [_training(runs, *which) for which in _TRAINING]
    found += [_blocks(runs, index, *which) for index in range(len(runs)) for which in _BLOCKS]
    return [chart for chart in [*found, *_evaluations(runs)] if chart.curves]


def thin(series: Series, limit: int) -> list[tuple[int, float | None]]:
    """At most `limit` of the points: the lowest and the highest of equal stretches, the first and the last.

    A value that is not finite is None; it stays only where its stretch has no other.
    """
    if len(series) <= limit:
        return [(step, _number(value)) for step, value in series]
    keep = {0, len(series) - 1}
    values = np.asarray([value for _, value in series], dtype=np.float64)
    for stretch in np.array_split(np.arange(len(series)), (limit - 2) // 2):
        finite = stretch[np.isfinite(values[stretch])]
        ends = (finite[np.argmin(values[finite])], finite[np.argmax(values[finite])]) if len(finite) else stretch[:1]
        keep.update(int(place) for place in ends)
    return [(series[place][0], _number(series[place][1])) for place in sorted(keep)]


def means(series: Series, limit: int) -> list[tuple[int, float | None]]:
    """The mean of the finite values over at most `limit` equal stretches, at each one's middle step."""
    steps, values = (np.asarray(column, dtype=np.float64) for column in zip(*series, strict=True))
    found = []
    for stretch in np.array_split(np.arange(len(series)), min(limit, len(series))):
        finite = values[stretch][np.isfinite(values[stretch])]
        found.append((round(float(np.mean(steps[stretch]))), _number(np.mean(finite)) if len(finite) else None))
    return found


def _number(value: float) -> float | None:
    """With as many digits as can be seen."""
    return float(f"{value:.5g}") if math.isfinite(value) else None


def _curve(label: str, run: int, series: Series, limit: int = POINTS) -> Curve:
    thinned = len(series) > limit
    return Curve(label, run, thin(series, limit), means(series, limit // 2) if thinned else [])


def _marked(label: str, run: int, series: Series) -> Curve:
    return Curve(label, run, thin(series, POINTS), [], marks=True)


def _training(runs: Sequence[RunData], section: str, title: str, unit: str, metric: str, log_y: bool) -> Chart:
    curves = []
    for index, run in enumerate(runs):
        if series := run.series(metric):
            curves.append(_curve(run.name, index, series))
        if section == "loss":
            curves += [_marked(f"{run.name}, held out{of}", index, series) for of, series in _held_out(run, metric)]
    drawn = [curve for curve in curves if any(value is not None for _, value in curve.raw)]
    return Chart(section, title, unit, drawn, log_y, smoothed=metric not in _SMOOTH_ALREADY)


def _held_out(run: RunData, metric: str) -> list[tuple[str, Series]]:
    """A series for each of a few tasks, or the mean of many."""
    by_task = {task: metrics[metric] for task, metrics in run.held_out.items() if metric in metrics}
    if len(by_task) <= FEW_TASKS:
        return [(f": {task}" if len(by_task) > 1 else "", series) for task, series in by_task.items()]
    at_step: dict[int, list[float]] = {}
    for step, value in (point for series in by_task.values() for point in series):
        at_step.setdefault(step, []).append(value)
    return [(f": mean of {len(by_task)} tasks", [(step, float(np.mean(at_step[step]))) for step in sorted(at_step)])]


def _blocks(runs: Sequence[RunData], index: int, prefix: str, title: str) -> Chart:
    run = runs[index]
    names = [name for name in run.metric_names if name.startswith(prefix)]
    curves = [
        _curve(name.removeprefix(prefix), index, run.series(name), FEWER_POINTS) for name in sorted(names, key=_natural)
    ]
    return Chart("blocks", title, run.name, curves, log_y=True, by_curve=True)


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts `layers_10` behind `layers_9`."""
    parts = name.replace("/", "_").split("_")
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _evaluations(runs: Sequence[RunData]) -> list[Chart]:
    """A chart for each metric of each task, where some run has been evaluated more than once."""
    found: dict[tuple[str, str], list[Curve]] = {}
    for index, run in enumerate(runs):
        for task, unit, series in measurements(run):
            found.setdefault((task, unit), []).append(_marked(run.name, index, series))
    return [
        Chart("evaluation", task, unit, curves)
        for (task, unit), curves in sorted(found.items())
        if max(len(curve.raw) for curve in curves) > 1
    ]


def measurements(run: RunData) -> list[tuple[str, str, Series]]:
    """(task, metric in words, series) of what was evaluated during training: answers, their averages, held-out text."""
    found = [("all tasks", f"{name.replace('_', ' ')} (%)", series) for name, series in run.averages.items()]
    found += [(task, f"{name} (%)", series) for task, metrics in run.scores.items() for name, series in metrics.items()]
    found += [
        (task, words, metrics[name])
        for task, metrics in run.held_out.items()
        for name, words in HELD_OUT.items()
        if name in metrics
    ]
    return found


def measured_later(run: RunData) -> list[tuple[str, str, Series]]:
    """The same of what `t5x-mini eval` measured; the split stands behind the task."""
    found: dict[tuple[str, str], Series] = {}
    for split, files in run.measured.items():
        for file in files:
            for task, metrics in file.get("metrics", {}).items():
                for name, value in metrics.items():
                    found.setdefault((f"{task}, {split}", f"{name} (%)"), []).append((file["step"], _float(value)))
            for task, metrics in file.get("tasks", {}).items():
                for name, words in HELD_OUT.items():
                    if name in metrics:
                        found.setdefault((f"{task}, {split}", words), []).append((file["step"], _float(metrics[name])))
    return [(task, words, series) for (task, words), series in found.items()]


def _float(value: float | str | None) -> float:
    """JSON has no NaN: null stands for it."""
    return math.nan if value is None else float(value)
