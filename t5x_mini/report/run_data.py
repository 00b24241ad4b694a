"""What a run's folder says about it, read with neither JAX nor TensorFlow: for `report` and `compare`.

A run that is going on, or whose folder lacks something, is read as far as it goes.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from t5x_mini import config_checks, gin_files
from t5x_mini.checkpoint.retention import best_metric
from t5x_mini.checkpoint.steps import FOLDER, best_step, manifests
from t5x_mini.errors import UserError
from t5x_mini.storage import is_remote, to_path
from t5x_mini.train.metrics import METRICS_FILE, read_metrics

PICTURES = ("loss", "masks", "mixture")
_LOST = "time_lost/"
_CONFIG, _MODEL_INFO, _ANSWERS = "config.gin", "model-info.txt", "inference_eval"
_TASK_STEP, _TASK_SPLIT_STEP = re.compile(r"(.+)-(\d+)"), re.compile(r"(.+?)(?:-([^-]+))?-(\d+)")

Series = list[tuple[int, float]]
"""(step, value), in the order of the steps."""


@dataclasses.dataclass(frozen=True)
class Best:
    """The best evaluation so far, and by which metric."""

    step: int
    metric: str
    value: float


@dataclasses.dataclass(frozen=True)
class Predictions:
    """A file of answers: of an evaluation, or of `t5x-mini infer`.

    Attributes:
        step: of the checkpoint that answered.
        split: None where the file's name doesn't say it, as an evaluation's does not.
        path: of the file.
        count: lines that it has.
        rows: its first ones, with `inputs`, `prediction` and, where the line has them, `targets`, `scores`, `correct`.
    """

    step: int
    split: str | None
    path: Path
    count: int
    rows: tuple[Mapping[str, Any], ...]


@dataclasses.dataclass(frozen=True)
class RunData:
    """A run, from its folder.

    Attributes:
        name: short, and another one for each of the runs that `read_runs` reads.
        folder: as it was given.
        rows: of `metrics.jsonl`, oldest first, about training and evaluation; a step may have several.
        config: what each setting was, `{'BATCH_SIZE': 16, 'TransformerConfig.emb_dim': 128}`; a macro where one is
            used (`%BATCH_SIZE`). Empty without a config.gin.
        model_info: the text of `model-info.txt`, empty without.
        best: of the checkpoints that are there.
        score_rows: `{task: rows}` of `inference_eval/<task>-metrics.jsonl`, each with `step` and the metrics.
        measured: `{split: results}`, the files of `t5x-mini eval`, each with `step`, `tasks` and `metrics`.
        predictions: `{task: newest answers}` of the evaluations during training; of a task that has none, those of
            `t5x-mini eval`, or else of `infer`.
        pictures: `{name: PNG}` of those that are there.
    """

    name: str
    folder: Path
    rows: list[dict[str, float]]
    config: dict[str, object]
    model_info: str
    best: Best | None
    score_rows: dict[str, list[dict[str, float]]]
    measured: dict[str, list[Mapping[str, Any]]]
    predictions: dict[str, Predictions]
    pictures: dict[str, Path]

    @property
    def last_step(self) -> int:
        """The newest step that anything was measured at; 0 before the first."""
        return max((int(row["step"]) for row in self.rows), default=0)

    @property
    def total_steps(self) -> int | None:
        """Where the run is to stop, where its configuration says so."""
        steps = self.config.get("TRAIN_STEPS")
        return steps if isinstance(steps, int) else None

    @property
    def metric_names(self) -> list[str]:
        """All names of metrics, sorted."""
        return sorted({name for row in self.rows for name in row} - {"step"})

    def series(self, name: str) -> Series:
        """A metric against the step; values are not always finite. Of a step measured twice, the newer value."""
        return sorted({int(row["step"]): row[name] for row in self.rows if name in row}.items())

    def last(self, name: str) -> float | None:
        """The newest value of a metric, None where there is none."""
        found = self.series(name)
        return found[-1][1] if found else None

    @property
    def held_out(self) -> dict[str, dict[str, Series]]:
        """`{task: {metric: series}}` of held-out text, token by token; an accuracy is a share."""
        return self._by_task("eval")

    @property
    def scores(self) -> dict[str, dict[str, Series]]:
        """`{task: {metric: series}}` of answers, in per cent.

        From `metrics.jsonl`, and of tasks that it knows nothing of from the files of `inference_eval`.
        """
        found = {task: _by_metric(rows) for task, rows in self.score_rows.items()}
        return dict(sorted((found | self._by_task("inference_eval")).items()))

    @property
    def averages(self) -> dict[str, Series]:
        """`average` and, where all of GLUE was answered, `glue_average`: over the tasks' scores, in per cent."""
        prefix = "inference_eval/"
        names = [name for name in self.metric_names if name.startswith(prefix) and name.count("/") == 1]
        return {name.removeprefix(prefix): self.series(name) for name in names}

    @property
    def time_spent(self) -> dict[str, float]:
        """Seconds by what they went into: `steps` (without waiting for data), and the causes of `time_lost/`.

        Those of all processes that a resumed run had; each counts its losses from 0. Empty where nothing was timed.
        """
        seconds = [row["timing/seconds"] for row in self.rows if math.isfinite(row.get("timing/seconds", math.nan))]
        if not seconds:
            return {}
        lost: dict[str, float] = {}
        before: dict[str, float] = {}
        for row in self.rows:
            now = {name: row[name] for name in row if name.startswith(_LOST)}
            if any(now[name] < before.get(name, 0.0) for name in now):  # another process
                lost = _added(lost, before)
            before = now or before
        lost = _added(lost, before)
        causes = {name.removeprefix(_LOST): value for name, value in lost.items()}
        return {"steps": max(0.0, math.fsum(seconds) - causes.get("data", 0.0)), **causes}

    def _by_task(self, kind: str) -> dict[str, dict[str, Series]]:
        found: dict[str, dict[str, Series]] = {}
        for name in self.metric_names:
            task, _, metric = name.removeprefix(f"{kind}/").partition("/")
            if name.startswith(f"{kind}/") and metric:
                found.setdefault(task, {})[metric] = self.series(name)
        return found


def _added(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    return {name: one.get(name, 0.0) + other.get(name, 0.0) for name in {**one, **other}}


def _by_metric(rows: list[dict[str, float]]) -> dict[str, Series]:
    names = sorted({name for row in rows for name in row} - {"step"})
    return {name: sorted({int(row["step"]): row[name] for row in rows if name in row}.items()) for name in names}


def read_runs(paths: list[str], answers: int = 24) -> list[RunData]:
    """The runs, with names that tell them apart: the last parts of their paths, as many as that takes.

    Args:
        paths: folders of runs.
        answers: rows to read of a file of predictions.

    Raises:
        UserError: one of them is no run's folder, or is given twice.
    """
    folders = [to_path(path) for path in paths]
    for number, folder in enumerate(folders):
        if folder.resolve() in [other.resolve() for other in folders[:number]]:
            raise UserError(f"{folder} is given twice. Write other runs, or it alone.")
    runs = [read_run(folder, answers=answers) for folder in folders]
    return [dataclasses.replace(run, name=name) for run, name in zip(runs, _short_names(folders), strict=True)]


def read_run(path: str | Path, *, answers: int = 24) -> RunData:
    """What a run's folder holds. The run may be going on.

    Args:
        path: its MODEL_DIR.
        answers: rows to read of a file of predictions.

    Raises:
        UserError: there is no such folder, or no run in it.
    """
    folder = to_path(path)
    check_folder(folder)
    return RunData(
        name=folder.resolve().name,
        folder=folder,
        rows=_rows(folder / METRICS_FILE),
        config=_config(folder / _CONFIG),
        model_info=_text(folder / _MODEL_INFO),
        best=_best(folder),
        score_rows={
            file.name.removesuffix("-metrics.jsonl"): _rows(file)
            for file in sorted((folder / _ANSWERS).glob("*-metrics.jsonl"))
        },
        measured=_measured(folder / "eval"),
        predictions=_predictions(folder, answers),
        pictures={name: folder / f"{name}.png" for name in PICTURES if (folder / f"{name}.png").is_file()},
    )


def check_folder(folder: Path) -> None:
    """Raises UserError where there is no run in the folder."""
    if any((folder / name).is_file() for name in (METRICS_FILE, _CONFIG)):
        return
    run = next((parent for parent in folder.parents if (parent / METRICS_FILE).is_file()), None)
    if run is not None:
        raise UserError(f"{folder} is a part of a run: write its folder, {run}.")
    if folder.is_dir():
        inside = [str(run) for run in _runs_in(folder)]
        hint = f" Runs in it: {', '.join(inside[:5])}." if inside else " Write a MODEL_DIR, such as runs/quickstart."
        raise UserError(f"{folder} is not a run: it has neither {METRICS_FILE} nor {_CONFIG}.{hint}")
    known = [str(run) for run in _runs_in(folder.parent)]
    raise UserError(
        f"There is no folder {folder}{config_checks.closest(str(folder), known)} Write a MODEL_DIR, such as "
        "runs/quickstart."
    )


def _runs_in(folder: Path) -> Iterator[Path]:
    if not is_remote(folder) and folder.is_dir():  # a bucket can only be listed with all that is in it
        yield from (file.parent for file in sorted(folder.glob(f"*/{METRICS_FILE}")))


def _short_names(folders: list[Path]) -> list[str]:
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts), default=1) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""


def _rows(file: Path) -> list[dict[str, float]]:
    return [row for row in read_metrics(file) if "step" in row] if file.is_file() else []


def _config(file: Path) -> dict[str, object]:
    if not file.is_file():
        return {}
    return {binding.label: binding.value for binding in gin_files.read_file(str(file), [""])}


def _best(folder: Path) -> Best | None:
    step = best_step(folder / FOLDER)
    if step is None:
        return None
    known = manifests(folder)
    metric = best_metric(known)
    return Best(step, metric, known[step].metrics[metric])


def _measured(folder: Path) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for file in sorted(folder.glob("*-*.json")):
        try:
            results = json.loads(_text(file))
            found.setdefault(str(results["split"]), []).append({**results, "step": int(results["step"])})
        except (ValueError, KeyError, TypeError):  # cut short, or another's
            continue
    return {split: sorted(rows, key=lambda row: row["step"]) for split, rows in found.items()}


def _predictions(folder: Path, limit: int) -> dict[str, Predictions]:
    found: dict[str, tuple[int, str | None, Path]] = _newest_of_infer(folder / "infer")  # the later wins
    for answers in sorted((folder / "eval").glob(f"*/{_ANSWERS}")):
        found |= _newest(answers, answers.parent.name)
    found |= _newest(folder / _ANSWERS, None)
    return {
        task: Predictions(step, split, file, *_head(file, limit)) for task, (step, split, file) in sorted(found.items())
    }


def _newest(folder: Path, split: str | None) -> dict[str, tuple[int, str | None, Path]]:
    """`<task>-<step>.jsonl` of the newest step, by task."""
    return _last_by_task(
        (named[1], int(named[2]), split, file)
        for file in folder.glob("*.jsonl")
        if (named := _TASK_STEP.fullmatch(file.stem))
    )


def _newest_of_infer(folder: Path) -> dict[str, tuple[int, str | None, Path]]:
    """`<task>-<split>-<step>.jsonl`, or `<file>-<step>.jsonl`."""
    return _last_by_task(
        (named[1], int(named[3]), named[2], file)
        for file in folder.glob("*.jsonl")
        if (named := _TASK_SPLIT_STEP.fullmatch(file.stem))
    )


def _last_by_task(files: Iterable[tuple[str, int, str | None, Path]]) -> dict[str, tuple[int, str | None, Path]]:
    ordered = sorted(files, key=lambda file: (file[1], str(file[3])))
    return {task: (step, split, file) for task, step, split, file in ordered}


def _head(file: Path, limit: int) -> tuple[int, tuple[Mapping[str, Any], ...]]:
    """How many lines the file has, and the first ones that are JSON objects."""
    rows: list[Mapping[str, Any]] = []
    count = 0
    with file.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            count += 1
            if len(rows) < limit:
                try:
                    row = json.loads(line)
                except ValueError:
                    continue
                if isinstance(row, dict):
                    rows.append(row)
    return count, tuple(rows)
