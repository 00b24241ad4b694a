"""`t5x-mini eval`: loss and accuracy of a checkpoint on a split of its task, or of every task of a mixture."""

from __future__ import annotations

import pathlib

import jax

from t5x_mini.config import RunConfig
from t5x_mini.errors import UserError
from t5x_mini.evaluate.checkpoint_params import restore_params
from t5x_mini.evaluate.held_out import HeldOut
from t5x_mini.train.metrics import MetricWriter
from t5x_mini.train.run import assemble


def evaluate(config: RunConfig) -> dict[str, dict[str, float]]:
    """Measures, prints, and writes `metrics.jsonl` and TensorBoard events; returns `{task: {metric: value}}`.

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
        with MetricWriter(folder, step - 1) as writer:
            for task, row in results.items():
                writer.write(step, {f"eval/{task}/{name}": value for name, value in row.items()})
                print(
                    f"step {step}: {task}, {config.evaluate.split}: loss "
                    f"{row['loss_per_nonpadding_target_token']:.4f} nats a token, accuracy {row['accuracy']:.2%}"
                )
        print(f"written to {folder}")
    return results
