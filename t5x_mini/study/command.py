"""`t5x-mini study`: pretrains and finetunes every cell of a grid, and writes what came out beside what others found.

OUTPUT/<cell>/seed<k>/pretraining.gin .log pretraining/    each run, with its configuration and what it said
OUTPUT/<cell>/seed<k>/finetuning.gin .log finetuning/
OUTPUT/study.html table.md results.json scores.png losses.png
"""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Sequence
from pathlib import Path

import jax

from t5x_mini import config as config_module
from t5x_mini import storage
from t5x_mini.glue import chance
from t5x_mini.study import page, plots, runner, workers
from t5x_mini.study import report as report_module
from t5x_mini.study.cells import Cell, Trial, make_cells, make_trials
from t5x_mini.study.config import Study
from t5x_mini.study.outcomes import read_outcome
from t5x_mini.study.report import Report
from t5x_mini.tasks import registry
from t5x_mini.tasks.definitions import TextToTextTask
from t5x_mini.text_table import aligned
from t5x_mini.train import completion
from t5x_mini.whole_file import write_whole


def study(
    files: Sequence[str],
    *,
    output: str | None = None,
    jobs: int | None = None,
    pretraining: Sequence[str] = (),
    finetuning: Sequence[str] = (),
    dry_run: bool = False,
    bindings: Sequence[str] = (),
    search_paths: Sequence[str] = (),
) -> None:
    """Makes what is left of a study, and writes its page each time a trial is finished.

    Args:
        files: gin files that bind `Study`.
        output: the study's folder; None: `runs/studies/<name of the first file>`.
        jobs: runs side by side at most; None: as many as there are GPUs, or CPU cores.
        pretraining: settings of every pretraining, over the study's.
        finetuning: and of every finetuning.
        dry_run: only say what would be made.
        bindings: as after `--gin.`: of `Study`.
        search_paths: more folders to find gin files in.

    Raises:
        UserError: for what the study or one of its configurations is refused for; for runs that were begun with other
            settings, or failed.
    """
    # This process only counts and draws: the runs are processes of their own, and the devices are theirs.
    jax.config.update("jax_platforms", "cpu")
    made = config_module.load_study(files, bindings, search_paths)
    folder = Path(output or Path("runs/studies") / Path(files[0]).stem)
    storage.check_writable(str(folder), "--output")
    cells = make_cells(made, pretraining, search_paths)
    trials = make_trials(made, cells, folder, finetuning, search_paths)
    _announce(made, cells, trials)
    if dry_run:
        return
    runner.check_begun(trials)
    places = workers.places(jobs)
    _say(f"{len(trials)} trials in {folder}, {len(places)} at a time")
    command = _command(files, bindings, pretraining, finetuning, output)
    runner.make_tokens(trials, places[0], folder)
    runner.make(trials, places, _say, lambda: _write(_report(made, cells, trials), folder, command))
    report = _report(made, cells, trials)
    _write(report, folder, command)
    _say(f"\n{report_module.as_text(report)}\n\nwritten to {folder}/study.html, table.md, results.json and pictures")


def _announce(made: Study, cells: Sequence[Cell], trials: Sequence[Trial]) -> None:
    head = ["cell", "parameters", "steps", "FLOPs a step", "FLOPs"]
    rows = [
        [cell.name, f"{cell.parameters:,}", f"{cell.steps:,}", f"{cell.step_flops:.3g}", f"{cell.flops:.3g}"]
        for cell in cells
    ]
    total = sum(run.flops for trial in trials for run in trial.runs)
    _say("\n".join([made.title, "", *aligned([head, *rows]), ""]))
    _say(f"{len(cells)} cells x {made.seeds} seeds, {sum(len(trial.runs) for trial in trials)} runs, {total:.3g} FLOPs")


def _report(made: Study, cells: Sequence[Cell], trials: Sequence[Trial]) -> Report:
    done = [trial for trial in trials if all(completion.is_marked(run.folder) for run in trial.runs)]
    outcomes = [read_outcome(trial) for trial in done]
    tasks = dict.fromkeys(task for outcome in outcomes for task in outcome.scores)
    return Report(made, cells, outcomes, _chance(list(tasks), trials[0]), _facts(trials[0]))


def _chance(tasks: Sequence[str], trial: Trial) -> dict[str, float]:
    """The mean over a task's metrics of what the best constant answer gets; of tasks that are defined in Python only
    their author knows it."""
    if trial.finetuning is None:
        return {}
    config, found = trial.finetuning.config, {}
    for name in tasks:
        if not registry.is_defined(name, config.feed):
            continue
        task = registry.find(name, config.feed)
        if isinstance(task, TextToTextTask) and task.metrics:
            targets = chance.targets(task, config.evaluate.split, config.evaluate.eval_limit)
            found[name] = statistics.fmean(chance.best_constant(task.metrics, targets).values())
    return found


def _facts(trial: Trial) -> dict[str, str]:
    runs = {run.folder.name: run for run in trial.runs}
    return {
        name: f"{run.config.feed.mixture_or_task_name}, {run.config.feed.batch_size} rows of "
        f"{' + '.join(map(str, run.config.feed.task_feature_lengths.values()))} tokens"
        + (f", {run.steps:,} steps" if name == "finetuning" else "")
        for name, run in runs.items()
    }


def _write(report: Report, folder: Path, command: str) -> None:
    if not report.outcomes:
        return
    write_whole(folder / "results.json", report_module.to_json(report))
    write_whole(folder / "table.md", report_module.as_markdown(report))
    write_whole(folder / "study.html", page.page(report, plots.draw(report, folder), command))


def _command(files, bindings, pretraining, finetuning, output: str | None) -> str:
    options = [*(f"--gin.{binding}" for binding in bindings)]
    options += [f"--pretraining={setting}" for setting in pretraining]
    options += [f"--finetuning={setting}" for setting in finetuning]
    options += [f"--output={output}"] if output else []
    return shlex.join(["t5x-mini", "study", *files, *options])


def _say(text: str) -> None:
    print(text, flush=True)
