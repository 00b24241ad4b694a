"""`t5x-mini infer`: what a checkpoint answers to a task's split or to the inputs in a file, as JSON lines."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from t5x_mini.checkpoint.run_item import identity
from t5x_mini.config import RunConfig
from t5x_mini.evaluate import infer_inputs, sentinels
from t5x_mini.evaluate.checkpoint_params import restore_params
from t5x_mini.evaluate.id_predictor import Answer
from t5x_mini.evaluate.infer_inputs import Inputs, Row, Survey
from t5x_mini.evaluate.infer_output import Output
from t5x_mini.evaluate.predictor import Predictor
from t5x_mini.evaluate.progress import progress_bar
from t5x_mini.evaluate.row_batches import bucket, cut
from t5x_mini.feed import feeds
from t5x_mini.model.config import DecodingConfig
from t5x_mini.parallel import hosts
from t5x_mini.parallel.hosts import say
from t5x_mini.parallel.partitioner import RowShare
from t5x_mini.storage import to_path
from t5x_mini.tasks import sources
from t5x_mini.train.run import Run, assemble

_SMALL = ("/rel_embedding", "/scale")  # position biases and norms

Decode = Callable[[Sequence[Sequence[int]], int, int], Sequence[Answer]]
"""From this host's rows of a batch, the length to fill them up to and the batch's number, to their answers."""


def infer(config: RunConfig) -> list[pathlib.Path]:
    """Writes `<task>-<split>-<step>.jsonl` for each task, or `<file>-<step>.jsonl`, and returns these files.

    Each line is an object of T5X's keys: `inputs`, `prediction`, `score` (the log-probability that decoding goes by),
    and `targets` where there are some; then the other keys that the input's line had. With `num_decodes` above 1,
    `prediction` and `score` are lists, the best first; shorter where a beam search found fewer answers. Inputs longer
    than the run's are cut, and their number told.

    Interrupted at any moment and started again, it goes on behind the last batch on the disk, and ends with the same
    file. Several processes that see one folder share each batch's rows.

    Raises:
        UserError: where there is no checkpoint; for inputs that cannot be read; for a file that was begun with other
            inputs, another checkpoint or other settings.
    """
    run = assemble(dataclasses.replace(config, feed=dataclasses.replace(config.feed, pack=False)))
    feed, evaluate = run.config.feed, run.config.evaluate
    limit, decoding = infer_inputs.input_limit(feed), _decoding(run)
    text_of = functools.partial(sentinels.decode, feeds.vocabulary(feed))
    line_of = functools.partial(_line, text_of=text_of, several=decoding.num_decodes > 1)
    step, made_by = _checkpoint(run)
    folder = to_path(evaluate.infer_output_dir or to_path(config.train.model_dir) / "infer")
    decode = None
    files = []
    for inputs in infer_inputs.find(evaluate.infer_input, evaluate.split, feed):
        survey = infer_inputs.survey(inputs, limit, evaluate.infer_limit)
        made_from = {**made_by, "inputs": survey.digest, "rows": survey.rows, "input_length": limit}
        made_from |= {"decoding": dataclasses.asdict(decoding), "dtype": run.config.model.dtype}
        if decoding.method == "sample":  # draws belong to batches
            made_from["rows_a_batch"] = run.eval_rows
        path = folder / f"{inputs.name}{'' if step is None else f'-{step}'}.jsonl"
        output = Output(path, made_from, survey.rows, jax.process_index(), jax.process_count())
        files.append(path)
        done = hosts.on_first(functools.partial(output.prepare, run.eval_rows))
        if done == survey.rows:
            say(f"{path} is complete; to write it again, remove it: rm {path}*")
            continue
        _tell(inputs, survey, limit)
        decode = decode or decoder(run, restore_params(run)[1], decoding)
        output.open(done)
        answer_rows(inputs, survey, output, decode, line_of, run.eval_rows, limit, run.partitioner.row_share)
        hosts.wait_for_all(f"{path} is written")
        if jax.process_index() == 0:
            output.finish()
        say(f"written to {path}")
    return files


def decoder(run: Run, params: Mapping[str, jax.Array], decoding: DecodingConfig) -> Decode:
    """Decodes with these parameters; compiled at the first batch of each length."""
    predictor = Predictor(params, run.config.model, feeds.vocabulary(run.config.feed), run.partitioner)
    share = run.eval_rows // run.partitioner.row_share.count
    return lambda rows, length, batch: predictor.decode(
        rows, decoding, rows=share, input_length=length, seed_offset=batch
    )


def answer_rows(
    inputs: Inputs,
    survey: Survey,
    output: Output,
    decode: Decode,
    line_of: Callable[[Row, Answer], Mapping[str, Any]],
    rows_a_batch: int,
    limit: int,
    part: RowShare,
) -> None:
    """Decodes all rows that `output` has not got, batch by batch, and writes each batch before the next."""
    share = rows_a_batch // part.count
    rows = itertools.islice(inputs.read(sources.Skipped()), output.done, survey.rows)
    with progress_bar(inputs.name, survey.rows, done=output.done) as bar:
        for first in range(output.done, survey.rows, rows_a_batch):
            batch = list(itertools.islice(rows, rows_a_batch))
            ids = [cut(row.ids, limit) for row in batch]
            length = bucket(max(map(len, ids)), limit)  # of all hosts' rows: they compile one program
            own = slice(part.index * share, (part.index + 1) * share)
            found = decode(ids[own], length, first // rows_a_batch)
            lines = (line_of(row, answer) for row, answer in zip(batch[own], found, strict=True))
            if part.is_first:
                output.write(zip(itertools.count(first + part.index * share), lines, strict=False))
            bar.update(len(batch))
    output.close()


def _line(row: Row, answer: Answer, *, text_of: Callable[[Sequence[int]], str], several: bool) -> dict[str, Any]:
    texts = [text_of(ids) for ids in answer.ids]
    scores = [float(str(np.float32(score))) for score in answer.scores]  # as few digits as tell float32s apart
    made = {"prediction": texts if several else texts[0], "score": scores if several else scores[0]}
    line = {**row.line, **made}
    return {key: line[key] for key in ("inputs", "prediction", "score", "targets") if key in line} | line


def _decoding(run: Run) -> DecodingConfig:
    """With the longest answer filled in: as long as the targets that the run was trained on."""
    decoding, longest = run.config.decoding, run.config.feed.task_feature_lengths["targets"]
    return dataclasses.replace(decoding, max_length=decoding.max_length or longest)


def _checkpoint(run: Run) -> tuple[int | None, dict[str, Any]]:
    """The checkpoint's step, and what tells it from others of that step: its model, and a hash of its small arrays."""
    from t5x_mini.checkpoint.source import open_source  # Orbax takes a second to import

    source = open_source(run.config.evaluate.checkpoint_path or run.config.train.model_dir)
    origin, digest = source.origin, hashlib.sha256()
    for name in sorted(name for name in source.shapes if name.startswith("params/") and name.endswith(_SMALL)):
        digest.update(np.ascontiguousarray(source.read(name)).tobytes())
    vocabulary = origin.vocabulary_id or feeds.vocabulary_id(run.config.feed)
    return origin.step, {
        "step": origin.step,
        "checkpoint": digest.hexdigest(),
        "model": identity(origin.model),
        "vocabulary": vocabulary,
    }


def _tell(inputs: Inputs, survey: Survey, limit: int) -> None:
    if survey.cut:
        say(
            f"{inputs.name}: {survey.cut:,} of {survey.rows:,} inputs are longer than {limit} tokens and are cut, the "
            f"first at {survey.first_cut}; the longest has {survey.longest:,}. TASK_FEATURE_LENGTHS sets the limit."
        )
    if survey.skipped:
        say(f"{inputs.name}: {survey.skipped}")
