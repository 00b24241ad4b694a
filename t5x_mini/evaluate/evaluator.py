"""`t5x-mini eval`: loss, accuracy and metrics of a checkpoint on a split of its task, or of all tasks of a mixture."""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from t5x_mini.config import RunConfig
from t5x_mini.errors import UserError
from t5x_mini.evaluate import answers
from t5x_mini.evaluate.checkpoint_params import restore_params
from t5x_mini.evaluate.held_out import HeldOut
from t5x_mini.evaluate.metrics import glue_average
from t5x_mini.tasks.definitions import TextToTextTask
from t5x_mini.train.run import Run, assemble


def evaluate(config: RunConfig) -> dict[str, Any]:
    """Measures, prints, and writes `<split>-<step>.json`, which it returns too.

    `tasks` holds T5X's numbers by task: loss, and accuracy token by token. `metrics` holds, in per cent, those of each
    text-to-text task that has some, of greedily decoded answers; and `glue_average`, where all of GLUE was measured.

    Raises:
        UserError: where there is no checkpoint, or no task with the split; for a metric that does not exist.
    """
    run = assemble(config)
    step, params = restore_params(run)
    split = config.evaluate.split
    held_out = HeldOut(run, split, config.train.eval_steps)
    if not held_out.batches:
        raise UserError(
            f"No task of {config.feed.mixture_or_task_name} has a split '{split}'; write another: "
            "--gin.EvaluateConfig.split=train"
        )
    scored = answers.scored_tasks(held_out.batches, config.feed)
    results = {"step": step, "split": split, "tasks": held_out.measure(params), "metrics": _score(run, params, scored)}
    average = glue_average(results["metrics"])
    if average is not None:
        results["glue_average"] = average
    if jax.process_index() == 0:
        folder = pathlib.Path(config.evaluate.eval_output_dir or pathlib.Path(config.train.model_dir) / "eval")
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{split}-{step}.json"
        file.write_text(json.dumps(_without_nan(results), indent=1) + "\n")
        print("\n".join([*_lines(results), f"written to {file}"]))
    return results


def _score(run: Run, params: Mapping[str, jax.Array], tasks: Sequence[TextToTextTask]) -> dict[str, dict[str, float]]:
    """Metrics of the answers, by task."""
    if tasks and jax.process_count() > 1:
        names = ", ".join(task.name for task in tasks)
        if jax.process_index() == 0:
            print(f"The answers to {names} are not scored: that is done in one process, and here are several.")
        return {}
    decode = answers.greedy_decoder(run, params)
    split, batches = run.config.evaluate.split, run.config.train.eval_steps
    return {task.name: answers.score(run, decode, task, split, batches) for task in tasks}


def _lines(results: Mapping[str, Any]) -> list[str]:
    lines = []
    for task, row in results["tasks"].items():
        start = f"step {results['step']}: {task}, {results['split']}: "
        loss, accuracy = row["loss_per_nonpadding_target_token"], row["accuracy"]
        lines.append(f"{start}loss {loss:.4f} nats a token, accuracy {accuracy:.2%}")
        if task in results["metrics"]:
            scores = results["metrics"][task].items()
            lines.append(f"{start}answers: " + ", ".join(f"{name} {value:.2f}" for name, value in scores))
    if "glue_average" in results:
        lines.append(f"step {results['step']}: GLUE average {results['glue_average']:.2f}")
    return lines


def _without_nan(value: Any) -> Any:
    """NaN, a correlation's value where all answers are the same, as null: JSON has no NaN."""
    if isinstance(value, Mapping):
        return {name: _without_nan(part) for name, part in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
