"""What `t5x-mini eval` and `t5x-mini infer` read and write."""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Evaluation and inference from a checkpoint.

    Attributes:
        checkpoint_path: a run's folder (its newest checkpoint), one of its checkpoints (`runs/x/checkpoints/1000`), an
            imported one, a Hugging Face folder or hub name, or one of T5X's; None: `MODEL_DIR`.
        eval_checkpoints: which of the run's checkpoints `eval` measures: `last`, `best` or `all`.
        eval_limit: rows of each task whose answers are scored; None: all.
        eval_output_dir: where `eval` writes its metrics; None: `MODEL_DIR/eval`.
        infer_input: what `infer` answers: a text file, an input a line, or a `.jsonl` file with `inputs` (and what
            else there is to hand on) in each line; None: the task's split.
        infer_limit: the first so many rows, of a file or of each task; None: all.
        infer_output_dir: where `infer` writes its answers; None: `MODEL_DIR/infer`.
        rank_classification: tasks with labels are answered by the label that the model finds likeliest; False: by what
            it writes, as T5 does.
        split: the split of the task to read.
    """

    checkpoint_path: str | None = None
    eval_checkpoints: Literal["last", "best", "all"] = "last"
    eval_limit: int | None = None
    eval_output_dir: str | None = None
    infer_input: str | None = None
    infer_limit: int | None = None
    infer_output_dir: str | None = None
    rank_classification: bool = True
    split: str = "validation"
