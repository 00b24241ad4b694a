"""What `t5x-mini eval` and `t5x-mini infer` read and write."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Evaluation and inference from a checkpoint.

    Attributes:
        checkpoint_path: a checkpoint (`runs/x/checkpoints/1000`) or a run's folder (its newest); None: `MODEL_DIR`.
        eval_output_dir: where `eval` writes its metrics; None: `MODEL_DIR/eval`.
        infer_output_dir: where `infer` writes its predictions; None: `MODEL_DIR/infer`.
        split: the split of the task to read.
    """

    checkpoint_path: str | None = None
    eval_output_dir: str | None = None
    infer_output_dir: str | None = None
    split: str = "validation"
