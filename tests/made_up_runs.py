"""Folders of runs as training leaves them, written by hand: for what reads them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import made_up_checkpoints

from t5x_mini.train.metrics import LOSS

CONFIG = """ARCHITECTURE = 'encoder_decoder'
BATCH_SIZE = {batch_size}
MIXTURE_OR_TASK_NAME = 'letters'
MODEL_DIR = '{folder}'
OPTIMIZER_NOTE = '<b>bold</b>'
TRAIN_STEPS = 100

TransformerConfig:
  architecture = %ARCHITECTURE
  emb_dim = {emb_dim}

FeedConfig.batch_size = %BATCH_SIZE
"""
# A PNG of one pixel.
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000" + "1f15c489"
    "0000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
)


def training_row(step: int, loss: float = 1.5, **more: float) -> dict:
    """What a step measured; not all of it."""
    return {
        "step": step,
        "loss": loss,
        LOSS: loss,
        "accuracy": 0.5,
        "learning_rate": 0.001,
        "grad_norm": 0.7,
        "param_norm": 12.0,
        "timing/seconds": 0.5,
        "timing/tokens_per_second": 1000.0,
        "timing/steps_per_second": 2.0,
        "time_lost/data": 0.1 * step,
        "time_lost/compilation": 3.0,
        **more,
    }


def write_lines(file: Path, rows: Iterable[Mapping]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def write_run(folder: Path, *, batch_size: int = 16, emb_dim: int = 32, steps: int = 100) -> Path:
    """A pretraining run with a held-out loss every 50 steps."""
    rows = []
    for step in range(1, steps + 1):
        rows.append(training_row(step, 1 + 4 * math.exp(-step / 20)))
        if step % 50 == 0:
            rows.append({"step": step, f"eval/letters/{LOSS}": 2.0 - step / 100, "eval/letters/accuracy": 0.4})
    write_lines(folder / "metrics.jsonl", rows)
    (folder / "config.gin").write_text(CONFIG.format(folder=folder.name, batch_size=batch_size, emb_dim=emb_dim))
    (folder / "model-info.txt").write_text("embedding  (10, 4)\n\ntotal: 40 parameters, 0.1 MiB\n")
    return folder


def write_answers(folder: Path, task: str, step: int, rows: Iterable[Mapping]) -> None:
    """What an evaluation during training leaves of a task's answers."""
    write_lines(folder / "inference_eval" / f"{task}-{step}.jsonl", rows)


def write_best(folder: Path, step: int, metric: str, value: float) -> None:
    """A checkpoint that is the best, as far as its manifest says."""
    made_up_checkpoints.make(folder, step, metrics={metric: value}, best_metric=metric)
