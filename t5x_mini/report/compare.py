"""`t5x-mini compare`: what sets runs apart and what came of it, side by side in the terminal."""

from __future__ import annotations

import math
import re
import shutil
import statistics
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from t5x_mini.configurables import DEFINITIONS, SCOPED
from t5x_mini.errors import UserError
from t5x_mini.report.differences import Difference, differences
from t5x_mini.report.run_data import RunData, Series, read_runs
from t5x_mini.report.table import Row, sparkline, table
from t5x_mini.terminal import Style, style_for
from t5x_mini.train.metrics import LOSS

_SPEED = "timing/tokens_per_second"
# A training loss is the mean over this share of the run's steps, and over no fewer than so many.
_SMOOTHED_SHARE, _SMOOTHED_STEPS = 0.05, 10
# What a token's loss depends on besides the model: macros, and the fields that they feed.
_TOKENS = ("VOCABULARY", "EXTRA_IDS", "FeedConfig.vocabulary", "FeedConfig.extra_ids")
_OBJECTIVE = ("OBJECTIVE", "LOSS_ON_TARGETS_ONLY", "LABEL_SMOOTHING", "Z_LOSS")
_OBJECTIVE += ("FeedConfig.objective", "FeedConfig.loss_on_targets_only")
_OBJECTIVE += ("LossConfig.label_smoothing", "LossConfig.z_loss")
_TASKS = ("MIXTURE_OR_TASK_NAME", "FeedConfig.mixture_or_task_name")


def compare(paths: Sequence[str]) -> None:
    """Prints where runs differ in configuration, their metrics, and their losses as small curves.

    The first run is the one that the others are compared with.

    Raises:
        UserError: for fewer than two, or a folder that is no run's.
    """
    if len(paths) < 2:
        raise UserError("Compare it with what? Write two runs or more: t5x-mini compare runs/one runs/another")
    runs = read_runs(list(paths))
    print("\n".join(lines(runs, style_for(sys.stdout), shutil.get_terminal_size((120, 40)).columns)))


def lines(runs: Sequence[RunData], style: Style, width: int) -> list[str]:
    """All that `compare` prints of two runs or more, in lines of up to `width` characters where that can be."""
    differing = differences([run.config for run in runs])
    blocks = [
        [f"{style.title(run.name)}: {run.folder}" for run in runs],
        _configuration(runs, differing, style, width),
        _warning(differing, width),
        _measured(runs, differing, style, width),
        *(_curve(title, runs, series, style, width) for title, series in _losses(runs)),
    ]
    return [line for block in blocks if block for line in (*block, "")][:-1]


def incomparable(differing: Sequence[Difference]) -> tuple[list[str], list[str]]:
    """Settings for which losses are of other tokens or another objective: the held-out losses of a task; and those
    for which losses in training are."""
    held_out = [
        difference.name
        for difference in differing
        if difference.name in (*_TOKENS, *_OBJECTIVE) or _is_of_a_task(difference)
    ]
    return held_out, held_out + [difference.name for difference in differing if difference.name in _TASKS]


def _is_of_a_task(difference: Difference) -> bool:
    """Whether an objective differs, or a task that all of the runs define."""
    owner = difference.name.rpartition("/")[2].partition(".")[0]  # SpanCorruption of my_text/SpanCorruption.mean_span
    return owner in SCOPED and (owner not in DEFINITIONS or None not in difference.values)


def _warning(differing: Sequence[Difference], width: int) -> list[str]:
    held_out, training = incomparable(differing)
    text = ""
    if held_out:
        text = f"Losses can't be compared: they are of other tokens, or of another objective ({', '.join(held_out)})."
    elif training:
        text = (
            f"Losses in training can't be compared: they are of other data ({', '.join(training)}). Held-out losses "
            "and scores of one task can."
        )
    return textwrap.wrap(text, width)


# ---------------------------------------------------------------------------------------------------- tables


def _configuration(runs: Sequence[RunData], differing: Sequence[Difference], style: Style, width: int) -> list[str]:
    unknown = [run.name for run in runs if not run.config]
    notes = [f"{name} has no config.gin: how it was configured isn't known" for name in unknown]
    if not differing:
        return notes or ["The configurations are the same."]
    rows = [Row(one.name, tuple("-" if value is None else value for value in one.values)) for one in differing]
    return table("what differs in the configuration", rows, [run.name for run in runs], style, width) + notes


def _measured(runs: Sequence[RunData], differing: Sequence[Difference], style: Style, width: int) -> list[str]:
    """The table of all that was measured."""
    held_out_differs, training_differs = incomparable(differing)
    sections = [
        ("loss in training, nats a token, mean of the last steps", _training(runs, not training_differs)),
        ("held-out loss, nats a token", _held_out(runs, not held_out_differs)),
        ("scores at the last evaluation, per cent", _scores(runs, _last_step)),
        ("scores at the best evaluation, per cent", _scores(runs, best_step)),
        ("speed, and where the time went", _time(runs)),
    ]
    rows = _sizes(runs) + [row for title, rows in sections if rows for row in (Row(title), *rows)]
    mark = "bold" if style.colour else "*"
    note = f"{mark}: the better one; in brackets: against {runs[0].name}"
    return [*table("what was measured", rows, [run.name for run in runs], style, width), "", style.aside(note)]


def _sizes(runs: Sequence[RunData]) -> list[Row]:
    return [Row("steps", tuple(map(_steps, runs))), Row("parameters", tuple(map(_parameters, runs)))]


def _steps(run: RunData) -> str:
    unfinished = run.total_steps is not None and run.last_step != run.total_steps
    return f"{run.last_step:,} of {run.total_steps:,}" if unfinished else f"{run.last_step:,}"


def _parameters(run: RunData) -> str:
    found = re.search(r"^total: ([\d,]+) parameters", run.model_info, re.MULTILINE)
    return found[1] if found else "-"


def _training(runs: Sequence[RunData], comparable: bool) -> list[Row]:
    """The smoothed loss at each run's end, and where these are not the same step, at the last one that all have."""
    series = [run.series(LOSS) for run in runs]
    ends = [found[-1][0] for found in series if found]
    better = "lower" if comparable else None
    rows = [_row("at its last step", [smoothed(found, max(ends)) for found in series], better)] if ends else []
    if len(ends) == len(runs) and len(set(ends)) > 1:
        rows.append(_row(f"at step {min(ends):,}", [smoothed(found, min(ends)) for found in series], better))
    return rows


def smoothed(series: Series, end: int) -> float | None:
    """The mean of the finite values over the last twentieth of the steps up to `end`, and over 10 steps at least.

    Of a series that ends before `end`, at its own end. NaN where no value is finite, None where there is none.
    """
    series = [point for point in series if point[0] <= end]
    if not series:
        return None
    last = series[-1][0]
    values = [value for step, value in series if step > last - max(_SMOOTHED_STEPS, round(_SMOOTHED_SHARE * last))]
    finite = [value for value in values if math.isfinite(value)]
    return statistics.fmean(finite) if finite else math.nan


def _held_out(runs: Sequence[RunData], comparable: bool) -> list[Row]:
    better = "lower" if comparable else None
    rows = []
    for task in _names(run.held_out for run in runs):
        found = [run.held_out.get(task, {}).get(LOSS, []) for run in runs]
        lowest = [min(series, key=_loss_of, default=(None, None)) for series in found]
        rows.append(_row(f"{task}, last", [series[-1][1] if series else None for series in found], better))
        rows.append(_row(f"{task}, lowest", [value for _, value in lowest], better))
        rows.append(Row("  at step", tuple("-" if step is None else f"{step:,}" for step, _ in lowest)))
    return rows


def _loss_of(point: tuple[int, float]) -> float:
    return point[1] if math.isfinite(point[1]) else math.inf


def _last_step(run: RunData) -> int | None:
    steps = [series[-1][0] for metrics in run.scores.values() for series in metrics.values()]
    return max(steps, default=None)


def best_step(run: RunData) -> int | None:
    """The step that the run chose its best checkpoint at; where it chose none, the one with the highest average."""
    scored = {step for metrics in run.scores.values() for series in metrics.values() for step, _ in series}
    if run.best is not None and run.best.step in scored:
        return run.best.step
    average = [point for point in run.averages.get("average", []) if math.isfinite(point[1])]
    return max(average, key=lambda point: point[1])[0] if average else None


def _scores(runs: Sequence[RunData], step_of: Callable[[RunData], int | None]) -> list[Row]:
    """Every task's metrics, and the averages, at one step of each run."""
    steps = [step_of(run) for run in runs]
    if all(step is None for step in steps):
        return []

    def row(label: str, series: Sequence[Series]) -> Row:
        values = [dict(found).get(step) for found, step in zip(series, steps, strict=True)]
        return _row(label, values, "higher", digits=2)

    rows = [Row("step", tuple("-" if step is None else f"{step:,}" for step in steps))]
    for task in _names(run.scores for run in runs):
        for metric in _names(run.scores.get(task, {}) for run in runs):
            rows.append(row(f"{task} {metric}", [run.scores.get(task, {}).get(metric, []) for run in runs]))
    for name in _names(run.averages for run in runs):
        rows.append(row(name, [run.averages.get(name, []) for run in runs]))
    return rows


def _time(runs: Sequence[RunData]) -> list[Row]:
    speeds = [[value for _, value in run.series(_SPEED) if math.isfinite(value)] for run in runs]
    middle = [statistics.median(values) if values else None for values in speeds]
    rows = [_row("tokens a second, median", middle, "higher", digits=0, relative=True)] if any(speeds) else []
    spent = [run.time_spent for run in runs]
    for cause in _names(spent):
        label = "in steps" if cause == "steps" else f"lost to {cause}"
        rows.append(Row(label, tuple(_duration(seconds[cause]) if cause in seconds else "-" for seconds in spent)))
    return rows


def _row(
    label: str, values: Sequence[float | None], better: str | None, *, digits: int = 3, relative: bool = False
) -> Row:
    """Numbers with what they are more than the first run's, and the better one marked.

    Args:
        better: `lower` or `higher`; None: they can't be compared.
        relative: how many times the first run's, not how much more.
    """
    texts = ["-" if value is None else f"{value:,.{digits}f}" for value in values]
    finite = {place: value for place, value in enumerate(values) if value is not None and math.isfinite(value)}
    if better is None or len(finite) < 2:
        return Row(label, tuple(texts))
    cells = list(texts)
    for place, value in finite.items():
        if place and 0 in finite and (finite[0] or not relative):
            against = f"x {value / finite[0]:.2f}" if relative else f"{value - finite[0]:+.{digits}f}"
            cells[place] += f" ({against})"
    all_the_same = len({texts[place] for place in finite}) == 1
    best = None if all_the_same else (min if better == "lower" else max)(finite, key=finite.__getitem__)
    return Row(label, tuple(cells), best)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60:02d} min" if hours else f"{rest // 60} min {rest % 60:02d} s"


def _names(found: Iterable[Iterable[str]]) -> list[str]:
    """Each name once, in the order in which they come up."""
    return list(dict.fromkeys(name for names in found for name in names))


# ---------------------------------------------------------------------------------------------------- curves


def _losses(runs: Sequence[RunData]) -> list[tuple[str, list[Series]]]:
    """What to draw: the loss in training, and each task's held-out loss."""
    found = [("loss in training", [run.series(LOSS) for run in runs])]
    for task in _names(run.held_out for run in runs):
        found.append((f"held-out loss of {task}", [run.held_out.get(task, {}).get(LOSS, []) for run in runs]))
    return found


def _curve(title: str, runs: Sequence[RunData], series: Sequence[Series], style: Style, width: int) -> list[str]:
    """A line for each run over the steps that all of them have, in one scale; empty for fewer than two such steps."""
    steps = sorted(set.intersection(*({step for step, value in found if math.isfinite(value)} for found in series)))
    if len(steps) < 2:
        return []
    margin = 2 + max(len(run.name) for run in runs) + 2
    ends = [f"{dict(found)[steps[0]]:.3f} to {dict(found)[steps[-1]]:.3f}" for found in series]
    room = max(min(width - margin - 2 - max(map(len, ends)), 80, len(steps)), 2)
    values = [
        [float(np.mean(part)) for part in np.array_split([dict(found)[step] for step in steps], room)]
        for found in series
    ]
    low, high = min(map(min, values)), max(map(max, values))
    drawn = [sparkline(points, low, high) for points in values]
    return [
        style.title(f"{title}, steps {steps[0]:,} to {steps[-1]:,}"),
        *(f"  {run.name:<{margin - 2}}{line}  {end}" for run, line, end in zip(runs, drawn, ends, strict=True)),
    ]
