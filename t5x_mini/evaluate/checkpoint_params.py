"""A trained model's parameters, for evaluation and inference."""

from __future__ import annotations

from collections.abc import Mapping

import jax

from t5x_mini.train.run import Run


def restore_params(run: Run, path: str | None = None) -> tuple[int, Mapping[str, jax.Array]]:
    """Step and parameters of the checkpoint at `path`, or of the configuration's: CHECKPOINT_PATH, else MODEL_DIR's
    newest.

    The step is 0 where the checkpoint doesn't say.

    Raises:
        UserError: where there is none, or it holds another model.
    """
    from t5x_mini.checkpoint import restore_plan  # Orbax takes a second to import
    from t5x_mini.checkpoint.source import open_source

    source = open_source(path or run.config.evaluate.checkpoint_path or run.config.train.model_dir)
    params = restore_plan.load_params(source, run.shapes.params, run.shardings.params, run.config.model, run.vocabulary)
    return source.origin.step or 0, params
