"""`t5x-mini report`: runs as one HTML page that needs nothing else to be read.

The tables and texts are written here; `web/page.js` draws the curves with uPlot, from data that the page carries.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import math
import shlex
import statistics
import string
from collections.abc import Sequence
from pathlib import Path

from t5x_mini import __version__
from t5x_mini.errors import UserError
from t5x_mini.report import curves, examples
from t5x_mini.report.differences import differences
from t5x_mini.report.html import Html, element, join, run_dot, table
from t5x_mini.report.run_data import RunData, Series, read_runs
from t5x_mini.storage import to_path
from t5x_mini.train.metrics import LOSS
from t5x_mini.whole_file import write_whole

_NONE = "–"
_RECENT = 20
_SECTIONS = (("loss", "Loss"), ("training", "Training"), ("blocks", "Blocks of the model"), ("speed", "Speed"))
_GRIDS = {"loss": "wide", "training": "pairs", "blocks": "pairs", "speed": "small", "evaluation": "small"}
_PICTURES = {
    "masks": ("Attention masks", "who may look at whom: rows are positions that look, columns what they see"),
    "mixture": ("Mixture", "the share that each task has of the training examples"),
}
_TIMES = {
    "steps": "training steps",
    "data": "waiting for data",
    "evaluation": "evaluation",
    "checkpoints": "checkpoints",
    "compilation": "compilation",
}
_FOLDER = Path(__file__).parent


def report(paths: Sequence[str], output: str = "report.html") -> Path:
    """Writes the page about the runs in these folders, and returns where it is.

    Raises:
        UserError: one of them is no run, or the page can't be written.
    """
    if Path(output).suffix not in (".html", ".htm"):
        raise UserError(f"The report is a page: write --output={Path(output).with_suffix('.html')}, not {output}.")
    text = page(read_runs(list(paths)))
    try:
        write_whole(to_path(output), text)
    except OSError as error:
        raise UserError(f"The report can't be written to {output}: {error.strerror}. Write another --output.") from None
    return to_path(output)


def page(runs: Sequence[RunData]) -> str:
    """The whole page as text."""
    charts = curves.charts(runs)
    files = {name: _read(name) for name in ("web/page.html", "web/page.css", "web/page.js")}
    filled = {
        "title": Html(element("title", f"{', '.join(run.name for run in runs)} – t5x_mini report")),
        "style": _read("uplot/uPlot.min.css") + files["web/page.css"],
        "body": _body(runs, charts),
        "data": _json({"runs": [run.name for run in runs], "charts": [dataclasses.asdict(chart) for chart in charts]}),
        "licence": _read("uplot/LICENSE"),
        "uplot": _read("uplot/uPlot.iife.min.js"),
        "script": files["web/page.js"],
    }
    return string.Template(files["web/page.html"]).substitute(filled)


def style() -> str:
    """The style sheet of pages."""
    return _read("web/page.css")


def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _json(data: object) -> str:
    """JSON that may stand in a script element: nothing in it ends the element."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _body(runs: Sequence[RunData], charts: Sequence[curves.Chart]) -> Html:
    parts: list[tuple[str, str, list[Html | None]]] = [
        ("summary", "Summary", [_columns(_summary(runs), _differences(runs))])
    ]
    for name, title in _SECTIONS:
        drawn = [_chart(index, chart) for index, chart in enumerate(charts) if chart.section == name]
        grid = element("div", *drawn, class_=f"charts {_GRIDS[name]}") if drawn else None
        after = {"loss": _not_finite(runs), "speed": _time(runs)}.get(name)
        parts.append((name, title, [grid, after]))
    drawn = [_chart(index, chart) for index, chart in enumerate(charts) if chart.section == "evaluation"]
    grid = element("div", *drawn, class_="charts small") if drawn else None
    parts += [
        ("evaluation", "Evaluation", [_evaluation(runs), grid]),
        ("examples", "Example answers", list(examples.sections(runs))),
        ("pictures", "Masks and mixture", [_pictures(runs)]),
        ("reproduce", "Reproduce", _commands(runs)),
        ("settings", "Settings", [_settings(run) for run in runs]),
    ]
    shown = [(name, title, [part for part in inside if part]) for name, title, inside in parts]
    shown = [part for part in shown if part[2]]
    return join(
        _header(runs, [(name, title) for name, title, _ in shown]),
        _toolbar(runs) if charts else None,
        element(
            "main",
            *(
                element("section", element("h2", title), *inside, id=name, aria_label=title)
                for name, title, inside in shown
            ),
        ),
        element("footer", f"t5x_mini {__version__}. This page needs no network. Charts: uPlot, MIT licence."),
    )


def _header(runs: Sequence[RunData], sections: Sequence[tuple[str, str]]) -> Html:
    names = [
        element(
            "li",
            run_dot(index),
            element("b", run.name) if len(runs) > 1 else None,
            " ",
            element("span", _status(run), class_="note"),
        )
        for index, run in enumerate(runs)
    ]
    links = [element("a", title, href=f"#{name}") for name, title in sections]
    return element(
        "header",
        element("h1", runs[0].name if len(runs) == 1 else f"{len(runs)} runs"),
        element("ul", *names, class_="runs"),
        element("nav", *links, aria_label="On this page"),
    )


def _status(run: RunData) -> str:
    total, loss = run.total_steps, run.last(LOSS)
    if not run.rows:
        return "no step yet"
    if loss is not None and not math.isfinite(loss):
        return f"stopped at step {run.last_step:,}: the loss was not finite"
    if total is None:
        return f"step {run.last_step:,}"
    return f"complete, {run.last_step:,} steps" if run.last_step >= total else f"step {run.last_step:,} of {total:,}"


def _toolbar(runs: Sequence[RunData]) -> Html:
    chips = [
        element(
            "button", run_dot(index), run.name, type="button", class_="chip", aria_pressed="true", data_run=str(index)
        )
        for index, run in enumerate(runs)
    ]
    return element(
        "div",
        element("div", *chips, class_="chips", role="group", aria_label="Runs to show") if len(runs) > 1 else None,
        element(
            "label",
            "Smoothing ",
            element("input", type="range", id="smoothing", min="0", max="20", value="3", step="0.5"),
            element("output", "3 %", for_="smoothing", id="smoothed"),
        ),
        element("button", "log steps", type="button", class_="chip", id="log-x", aria_pressed="false"),
        class_="toolbar",
        role="toolbar",
        aria_label="All charts",
    )


# Summary


def _summary(runs: Sequence[RunData]) -> Html:
    facts = [_facts(run) for run in runs]
    names = dict.fromkeys(name for fact in facts for name in fact)
    rows = [[name, *(fact.get(name, _NONE) for fact in facts)] for name in names]
    return table(["", *(run.name for run in runs)], rows, "Summary of the runs")


def _columns(*parts: Html | None) -> Html:
    """Side by side where there is room."""
    return element("div", *(element("div", part) for part in parts if part), class_="columns")


def _facts(run: RunData) -> dict[str, str]:
    found = {"status": _status(run)}
    for label, name in (("task", "MIXTURE_OR_TASK_NAME"), ("architecture", "ARCHITECTURE")):
        if run.config.get(name) is not None:
            found[label] = str(run.config[name])
    total = next((line for line in run.model_info.splitlines() if line.startswith("total: ")), None)
    if total:
        found["model"] = total.removeprefix("total: ")
    recent = [value for _, value in run.series(LOSS)[-_RECENT:] if math.isfinite(value)]
    if recent:
        found[f"training loss, last {_RECENT} rows"] = f"{statistics.fmean(recent):.3f} nats per token"
    losses = [metrics[LOSS][-1][1] for metrics in run.held_out.values() if LOSS in metrics]
    if losses:
        label = "held-out loss" if len(losses) == 1 else f"held-out loss, mean of {len(losses)} tasks"
        found[label] = f"{statistics.fmean(losses):.3f} nats per token"
    for name, series in run.averages.items():
        found[f"{name.replace('_', ' ')} of all tasks" if name == "average" else name.replace("_", " ")] = (
            f"{series[-1][1]:.1f} %"
        )
    if run.best:
        found["best"] = f"{run.best.metric} {run.best.value:.4g} at step {run.best.step:,}"
    speeds = [value for _, value in run.series("timing/tokens_per_second") if math.isfinite(value)]
    if speeds:
        found["speed, median"] = f"{statistics.median(speeds):,.0f} tokens per second"
    if run.time_spent:
        found["time"] = _duration(sum(run.time_spent.values()))
    return found


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    if hours >= 1:
        return f"{int(hours):,} h {int(minutes) % 60} min"
    return f"{int(minutes)} min {int(seconds) % 60} s" if minutes >= 1 else f"{seconds:.1f} s"


def _differences(runs: Sequence[RunData]) -> Html | None:
    if len(runs) < 2:
        return None
    title = element("h3", "Settings that differ")
    missing = [run.name for run in runs if not run.config]
    note = element("p", f"without a config.gin: {', '.join(missing)}", class_="note") if missing else None
    found = differences([run.config for run in runs])
    if not found:
        return join(title, note, element("p", "None, but for their folders."))
    rows = [[row.name, *(_NONE if value is None else element("code", value) for value in row.values)] for row in found]
    return join(title, note, table(["setting", *(run.name for run in runs)], rows, "Settings that differ"))


# Charts and tables


def _chart(index: int, chart: curves.Chart) -> Html:
    buttons = element("button", "log", type="button", class_="chip log-y", aria_pressed=str(chart.log_y).lower())
    unit = element("span", chart.unit, class_="note") if chart.unit else None
    head = element("div", element("h3", chart.title, " ", unit), buttons, class_="head")
    drawing = element("div", class_="plot", role="img", aria_label=_in_words(chart))
    return element("figure", head, drawing, class_="chart", data_chart=str(index))


def _in_words(chart: curves.Chart) -> str:
    """What who can't see the chart should know of it."""
    ends = []
    for curve in chart.curves:
        points = [(step, value) for step, value in curve.mean or curve.raw if value is not None]
        if points:
            (first, start), (last, end) = points[0], points[-1]
            ends.append(f"{curve.label} goes from {start:.3g} at step {first} to {end:.3g} at step {last}")
    return f"{chart.title}{f' ({chart.unit})' if chart.unit else ''}: {'; '.join(ends) or 'no finite value'}."


def _not_finite(runs: Sequence[RunData]) -> Html | None:
    found = []
    for run in runs:
        steps = [step for step, value in run.series(LOSS) if not math.isfinite(value)]
        if steps:
            found.append(f"{run.name}: the loss was not finite at {len(steps):,} step(s), first at step {steps[0]:,}")
    return element("p", "; ".join(found), ".", class_="warning") if found else None


def _time(runs: Sequence[RunData]) -> Html | None:
    timed = [run for run in runs if sum(run.time_spent.values()) > 0]
    if not timed:
        return None
    rows, bars = [], []
    for run in timed:
        spent, total = run.time_spent, sum(run.time_spent.values())
        # A new cause of lost time is shown as well, in the last colour.
        parts = [
            element(
                "span",
                class_=f"t-{name if name in _TIMES else 'other'}",
                style=f"flex-grow:{value / total:.5f}",
                title=f"{_TIMES.get(name, name)}: {value / total:.1%}",
            )
            for name, value in spent.items()
            if value > 0
        ]
        bars.append(element("div", run.name, class_="who"))
        bars.append(element("div", *parts, class_="stack", role="img", aria_label=f"{run.name}: see the table below"))
    for name in dict.fromkeys(name for run in timed for name in run.time_spent):
        swatch = element("span", class_=f"swatch t-{name if name in _TIMES else 'other'}", aria_hidden="true")
        cells = [_share_of_time(run, name) for run in timed]
        rows.append([join(swatch, _TIMES.get(name, name)), *cells])
    rows.append(["together", *(_duration(sum(run.time_spent.values())) for run in timed)])
    return join(
        element("h3", "Where the time went"),
        element("div", *bars, class_="stacks"),
        table(["", *(run.name for run in timed)], rows, "Where the time went"),
    )


def _share_of_time(run: RunData, name: str) -> str:
    value = run.time_spent.get(name, 0.0)
    return f"{_duration(value)} ({value / sum(run.time_spent.values()):.1%})"


def _evaluation(runs: Sequence[RunData]) -> Html | None:
    during = _measurements(runs, "Evaluations", [curves.measurements(run) for run in runs])
    later = _measurements(runs, "Measured by t5x-mini eval", [curves.measured_later(run) for run in runs])
    if not (during or later):
        return None
    note = element("p", "The newest value; below it the best one and its step.", class_="note")
    title = element("h3", "Measured by ", element("code", "t5x-mini eval")) if later else None
    return join(note, during, title, later)


def _measurements(runs: Sequence[RunData], label: str, by_run: Sequence[list[tuple[str, str, Series]]]) -> Html | None:
    found: dict[tuple[str, str], dict[int, Series]] = {}
    for index, measured in enumerate(by_run):
        for task, metric, series in measured:
            found.setdefault((task, metric), {})[index] = series
    rows = []
    for (task, metric), series_of in sorted(found.items()):
        cells = [_last_and_best(metric, series_of.get(index)) for index in range(len(runs))]
        rows.append([join(task, " ", element("span", metric, class_="note")), *cells])
    return table(["", *(run.name for run in runs)], rows, label) if rows else None


def _last_and_best(metric: str, series: Series | None) -> str:
    if not series:
        return _NONE
    finite = [(step, value) for step, value in series if math.isfinite(value)]
    shown = _value(metric, series[-1][1])
    if not finite:
        return shown
    step, best = (min if "loss" in metric else max)(finite, key=lambda point: point[1])
    return join(shown, element("small", f"best {_value(metric, best)} at {step:,}"))


def _value(metric: str, value: float) -> str:
    if not math.isfinite(value):
        return "not finite"
    if "loss" in metric:
        return f"{value:.3f}"
    return f"{value:.1f}" if metric.endswith("(%)") else f"{value:.1%}"


# Pictures, commands, settings


def _pictures(runs: Sequence[RunData]) -> Html | None:
    """Each picture once, with the names of all runs that have the same."""
    figures = []
    for name, (title, what) in _PICTURES.items():
        same: dict[str, tuple[bytes, list[str]]] = {}
        for run in runs:
            if name in run.pictures:
                data = run.pictures[name].read_bytes()
                same.setdefault(hashlib.sha256(data).hexdigest(), (data, []))[1].append(run.name)
        for data, names in same.values():
            of = ", ".join(names)
            source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
            caption = element("figcaption", element("b", title), f" of {of}: {what}.")
            figures.append(element("figure", element("img", src=source, alt=f"{title} of {of}: {what}"), caption))
    return element("div", *figures, class_="pictures") if figures else None


def _commands(runs: Sequence[RunData]) -> list[Html]:
    return [
        element(
            "div",
            element("div", run_dot(index), run.name, class_="who"),
            element("code", reproduce(run), class_="command"),
            element("button", "copy", type="button", class_="chip copy", aria_label=f"copy the command for {run.name}"),
            class_="copyable",
        )
        for index, run in enumerate(runs)
        if run.config
    ]


def reproduce(run: RunData) -> str:
    """The command that does the run once more, in a folder of its own."""
    folder = str(run.folder).rstrip("/")
    words = [f"--gin_file={folder}/config.gin", f"--gin.MODEL_DIR={folder}_again"]
    return " ".join(["t5x-mini train", *map(shlex.quote, words)])


def _settings(run: RunData) -> Html | None:
    if not (run.config or run.model_info):
        return None
    inside = [element("summary", run.name)]
    if run.config:
        rows = [[name, element("code", repr(value))] for name, value in run.config.items()]
        inside.append(table(["setting", "value"], rows, f"All settings of {run.name}"))
    if run.model_info:
        label = f"Parameters of {run.name}"
        inside.append(element("pre", run.model_info, class_="scroll", tabindex="0", role="region", aria_label=label))
    return element("details", *inside)
