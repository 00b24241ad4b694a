"""`t5x-mini infer`: what a checkpoint writes for the inputs of a split, as JSON lines."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib

import jax
import numpy as np
import tqdm

from t5x_mini.config import RunConfig
from t5x_mini.errors import UserError
from t5x_mini.evaluate.checkpoint_params import restore_params
from t5x_mini.evaluate.held_out import read_held_out
from t5x_mini.evaluate.report import split_row
from t5x_mini.feed import feeds
from t5x_mini.model import decoding
from t5x_mini.train.run import assemble


def infer(config: RunConfig) -> list[pathlib.Path]:
    """Decodes greedily and writes `<task>-<step>.jsonl`: a line an example with `inputs`, `targets`, `prediction`.

    Reads EVAL_STEPS batches of each task (None: all). Returns the files.

    Raises:
        UserError: for packed rows, several hosts, or where there is no checkpoint.
    """
    if config.feed.pack:
        raise UserError("`infer` decodes one example a row, but PACK is True; write --gin.PACK=False")
    if jax.process_count() > 1:
        raise UserError(f"`infer` runs in one process, but there are {jax.process_count()}; start it on one host")
    run = assemble(config)
    step, params = restore_params(run)
    folder = pathlib.Path(config.evaluate.infer_output_dir or pathlib.Path(config.train.model_dir) / "infer")
    folder.mkdir(parents=True, exist_ok=True)
    decode = jax.jit(functools.partial(decoding.greedy, config=run.config.model))
    files = []
    for task, batches in read_held_out(run, config.evaluate.split, config.train.eval_steps).items():
        vocabulary = feeds.vocabulary(dataclasses.replace(config.feed, mixture_or_task_name=task))
        files.append(folder / f"{task}-{step}.jsonl")
        with files[-1].open("w", encoding="utf-8") as out:
            for batch in tqdm.tqdm(batches, desc=task, unit=" batches"):
                written = np.asarray(decode(params, dict(batch)))
                for row in range(len(written)):
                    inputs, targets = split_row(batch, row)
                    if not targets.any():  # fills up the last batch
                        continue
                    texts = {"inputs": inputs, "targets": targets, "prediction": written[row]}
                    line = {name: vocabulary.decode(_until_padding(ids)) for name, ids in texts.items()}
                    out.write(json.dumps(line, ensure_ascii=False) + "\n")
        print(f"written to {files[-1]}")
    return files


def _until_padding(ids: np.ndarray) -> list[int]:
    return [int(token) for token in ids if token > 0]
