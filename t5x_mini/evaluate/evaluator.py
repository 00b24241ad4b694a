"""`t5x-mini eval`: loss and accuracy of a checkpoint on a split of its task, or of every task of a mixture."""

from __future__ import annotations

import json
import pathlib

import jax

from t5x_mini.config import RunConfig
from t5x_mini.errors import UserError
from t5x_mini.evaluate.checkpoint_params import restore_params
from t5x_mini.evaluate.held_out import HeldOut
from t5x_mini.train.run import assemble


def evaluate(config: RunConfig) -> dict[str, dict[str, float]]:
    """Measures, prints, and writes `<split>-<step>.json`; returns `{task: {metric: value}}`.

    Raises:
        UserError: where there is no checkpoint, or no task with the split.
    """
    run = assemble(config)
    step, params = restore_params(run)
    held_out = HeldOut(run, config.evaluate.split, config.train.eval_steps)
    if not held_out.batches:
        raise UserError(
            f"No task of {config.feed.mixture_or_task_name} has a split '{config.evaluate.split}'; write another: "
            "--gin.EvaluateConfig.split=train"
        )
    results = held_out.measure(params)
    if jax.process_index() == 0:
        folder = pathlib.Path(config.evaluate.eval_output_dir or pathlib.Path(config.train.model_dir) / "eval")
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{config.evaluate.split}-{step}.json"
        file.write_text(json.dumps({"step": step, "split": config.evaluate.split, "tasks": results}, indent=1) + "\n")
        for task, row in results.items():
            print(
                f"step {step}: {task}, {config.evaluate.split}: loss "
                f"{row['loss_per_nonpadding_target_token']:.4f} nats a token, accuracy {row['accuracy']:.2%}"
            )
        print(f"written to {file}")
    return results
