"""A trained model's parameters, for evaluation and inference."""

from __future__ import annotations

from collections.abc import Mapping

import jax

from t5x_mini.train.run import Run


def restore_params(run: Run) -> tuple[int, Mapping[str, jax.Array]]:
    """Step and parameters of the checkpoint that the configuration names: CHECKPOINT_PATH, else MODEL_DIR's newest.

    Raises:
        UserError: where there is none, or it holds another model.
    """
    from t5x_mini.checkpoint.manager import Checkpoints, locate  # Orbax takes a second to import

    run_dir, step = locate(run.config.evaluate.checkpoint_path or run.config.train.model_dir)
    checkpoints = Checkpoints(run_dir, vocabulary=run.vocabulary)
    params = checkpoints.restore_params(
        step, run.shapes.params, run.shardings.params, run.config.model, run.partitioner
    )
    checkpoints.close()
    return step, params
