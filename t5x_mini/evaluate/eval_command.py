"""`t5x-mini eval`: what checkpoints reach on a split of their task, or of all tasks of a mixture."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax

from t5x_mini.config import RunConfig
from t5x_mini.errors import UserError
from t5x_mini.evaluate.checkpoint_params import restore_params
from t5x_mini.evaluate.evaluator import Evaluator
from t5x_mini.evaluate.inference_files import without_nan
from t5x_mini.evaluate.results import Results
from t5x_mini.parallel import hosts
from t5x_mini.storage import to_path
from t5x_mini.train.best import Best, value_of
from t5x_mini.train.metrics import LOSS
from t5x_mini.train.run import assemble
from t5x_mini.whole_file import write_whole


def evaluate(config: RunConfig) -> list[Results]:
    """Measures the checkpoints that EVAL_CHECKPOINTS names, prints tables, and writes `<split>-<step>.json` for each.

    In the file, `tasks` holds T5X's numbers by task: loss, and accuracy token by token. `metrics` holds those of the
    answers, in per cent, of each task that has some; beside them stand their averages. The answers themselves are under
    `<split>/inference_eval` (`inference_files.py`).

    Raises:
        UserError: where there is no such checkpoint, or no task with the split; where none of the tasks that have
            metrics has labels; for a metric that does not exist.
    """
    paths = _checkpoints(config)
    run = assemble(config)
    folder = to_path(config.evaluate.eval_output_dir or to_path(config.train.model_dir) / "eval")
    evaluator = Evaluator(run, folder=folder / config.evaluate.split)
    _check(evaluator, config)
    hosts.wait_for_all("the first measurement")
    results = []
    for path in paths:
        step, params = restore_params(run, path)
        results.append(evaluator.measure(params, step))
        file = folder / f"{evaluator.split}-{step}.json"
        if jax.process_index() == 0:
            write_whole(file, json.dumps(without_nan(_as_json(results[-1])), indent=1) + "\n")
        hosts.say("\n".join([*table(results[-1]), f"written to {file}\n"]))
    if len(results) > 1:
        hosts.say("\n".join(comparison(results, config.train.best_metric)))
    return results


def table(results: Results) -> list[str]:
    """The numbers of one checkpoint, a task a line."""
    rows = [("", "loss", "accuracy", "answers")]
    for task, row in results.losses.items():
        answers = ", ".join(f"{name} {value:.2f}" for name, value in results.scores.get(task, {}).items())
        rows.append((task, f"{row[LOSS]:.4f}", f"{row['accuracy']:.2%}", answers))
    averages = ", ".join(f"{name} {value:.2f}" for name, value in results.averages.items())
    if len(results.losses) > 1:
        rows.append(("all", f"{results.loss:.4f}", "", averages))
    return [f"step {results.step}, {results.split} (loss in nats a token, accuracy token by token):", *_aligned(rows)]


def comparison(results: Sequence[Results], metric: str | None = None) -> list[str]:
    """Several checkpoints, a step a line, with a mark at the best.

    Args:
        results: in the order of the steps.
        metric: what decides (`train/best.py`); None, or one that was not measured: the average of the answers' metrics,
            or else the loss.
    """
    metric = metric if metric and _is_known(results[0], metric) else "average" if results[0].scores else "loss"
    best = Best(metric, patience=None, eval_period=1)
    for one in results:
        best.add(one)
    names = list(results[0].averages)
    if metric not in ("loss", *names):
        names.append(metric)
    rows = [("step", "loss", *names, "")]
    for one in results:
        values = (f"{value_of(one, name):.2f}" for name in names)
        rows.append((str(one.step), f"{one.loss:.4f}", *values, "<- best" if one.step == best.step else ""))
    return [f"{results[0].split}, the best by {metric}:", *_aligned(rows)]


def _checkpoints(config: RunConfig) -> list[str]:
    """Paths of what EVAL_CHECKPOINTS names, in the order of their steps."""
    which = config.evaluate.eval_checkpoints
    path = config.evaluate.checkpoint_path or config.train.model_dir
    if which == "last":
        return [path]
    from t5x_mini.checkpoint.locate import BEST, locate
    from t5x_mini.checkpoint.steps import FOLDER, steps_of

    run_dir = path.rstrip("/").removesuffix(f"/{FOLDER}")
    steps = steps_of(run_dir)
    if not steps:
        raise UserError(
            f"EVAL_CHECKPOINTS = {which!r} chooses among a run's checkpoints, and {path} is no run's folder. Write one "
            "(--gin.CHECKPOINT_PATH=runs/quickstart), or --gin.EVAL_CHECKPOINTS=last for a single checkpoint."
        )
    if which == "best":
        steps = [locate(f"{run_dir}/{FOLDER}/{BEST}")[1]]
    return [f"{run_dir}/{FOLDER}/{step}" for step in steps]


def _check(evaluator: Evaluator, config: RunConfig) -> None:
    if not evaluator.held_out.batches:
        raise UserError(
            f"No task of {config.feed.mixture_or_task_name} has a split '{evaluator.split}'; write another: "
            "--gin.EvaluateConfig.split=train"
        )
    if evaluator.unscored and not evaluator.scored:
        raise UserError("\n".join(evaluator.unscored.values()))
    for why in evaluator.unscored.values():
        hosts.say(why)


def _is_known(results: Results, metric: str) -> bool:
    try:
        value_of(results, metric)
    except UserError:
        return False
    return True


def _as_json(results: Results) -> dict[str, Any]:
    named: Mapping[str, Any] = {"tasks": results.losses, "metrics": results.scores}
    return {"step": results.step, "split": results.split, **named, **results.averages}


def _aligned(rows: Iterable[Sequence[str]]) -> list[str]:
    """Columns; the first and the last begin, the others end, one under another."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *numbers, last in rows:
        cells = [first.ljust(widths[0]), *map(str.rjust, numbers, widths[1:-1]), last]
        lines.append(("  " + "  ".join(cells)).rstrip())
    return lines
