"""What a step measured, under T5X's names, and the files it is written to.

A step on the device returns sums. `step_metrics` turns them into named numbers on the host, `Clock` says what the time
between steps went into, and `MetricWriter` writes a row to `metrics.jsonl`, TensorBoard and, if asked, W&B.

A row of `metrics.jsonl` is one JSON object: `step` (updates done), then flat names. Training rows have T5X's names
(`loss`, `timing/seconds`); evaluation rows have `eval/<task>/` in front of them. JSON has no word for what is not
finite: such values are the strings `NaN`, `Infinity` and `-Infinity`, which Python's `float` and JavaScript's `Number`
both understand, and `read_metrics` makes floats of them again.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import os
import pathlib
import secrets
import time
from collections.abc import Callable, Iterator, Mapping

from t5x_mini.errors import UserError
from t5x_mini.growing_file import GrowingFile
from t5x_mini.storage import is_remote, to_path
from t5x_mini.train import tensorboard

METRICS_FILE = "metrics.jsonl"
LOSS = "loss_per_nonpadding_target_token"
SKIPPED = "skipped_update"
_NOT_FINITE = ("NaN", "Infinity", "-Infinity")


def loss_metrics(sums: Mapping[str, float]) -> dict[str, float]:
    """Loss and accuracy of a batch, for training and evaluation alike; T5X's `compute_base_metrics`.

    `loss` includes z-loss and has the run's own normaliser; the `_per_` names divide the plain sum by a count of
    tokens (nats per token) and can be compared between runs. Where T5X's count would be 0, the value is NaN.

    Args:
        sums: `loss` (with z-loss) and `z_loss`, sums over weighted tokens in nats; `objective`, what is minimised,
            times `normalizer`, what the run divides its loss by; `correct`, the weighted count of right arg-max
            predictions; `weights`, the sum of loss weights; `target_tokens`, all decoder positions.
    """
    loss, z_loss, positions = sums["loss"], sums["z_loss"], sums["target_tokens"]
    return {
        "accuracy": _ratio(sums["correct"], sums["weights"]),
        "loss": _ratio(sums["objective"], sums["normalizer"]),
        LOSS: _ratio(loss, sums["weights"]),
        "loss_per_all_target_tokens": _ratio(loss, positions),
        "z_loss": _ratio(z_loss, sums["normalizer"]),
        "z_loss_per_all_target_tokens": _ratio(z_loss, positions),
        "cross_ent_loss": _ratio(loss - z_loss, sums["normalizer"]),
        "cross_ent_loss_per_all_target_tokens": _ratio(loss - z_loss, positions),
        "non_padding_fraction/loss_weights": _ratio(sums["weights"], positions),
    }


def speed_metrics(
    sums: Mapping[str, float], *, seconds: float, flops: float, device_count: int, peak_flops: float | None
) -> dict[str, float]:
    """How fast a step was. A "core" is a JAX device, as in T5X.

    `timing/tokens_per_second` counts real tokens, encoder's and decoder's; `mfu` counts the work on padding as well,
    because the device does it. T5X's `target_tokens_per_second` counts all decoder positions.

    Args:
        sums: `seqs` (rows), `target_tokens` (decoder positions), `nonpadding_tokens` (encoder and decoder).
        seconds: wall-clock time of the step.
        flops: model FLOPs of the step on all devices (`flops.train_flops`).
        device_count: devices that shared the step.
        peak_flops: of one device; None where it is not known, and then there is no `mfu`.
    """
    rates = {
        "timing/seqs_per_second": _ratio(sums["seqs"], seconds),
        "timing/target_tokens_per_second": _ratio(sums["target_tokens"], seconds),
        "timing/tokens_per_second": _ratio(sums["nonpadding_tokens"], seconds),
        "model_tflops_per_second": _ratio(flops / 1e12, seconds),
    }
    per_core = {f"{name}_per_core": rate / device_count for name, rate in rates.items()}
    mfu = {} if peak_flops is None else {"mfu": per_core["model_tflops_per_second_per_core"] * 1e12 / peak_flops}
    steps = {
        "timing/seconds": seconds,
        "timing/steps_per_second": _ratio(1.0, seconds),
        "timing/seqs": sums["seqs"],
    }
    return {**steps, **rates, **per_core, **mfu}


def step_metrics(
    sums: Mapping[str, float], *, seconds: float, flops: float, device_count: int, peak_flops: float | None
) -> dict[str, float]:
    """Everything one training step reports; see `loss_metrics` and `speed_metrics` for the names they explain.

    Args:
        sums: what both of them need, and `all_tokens` (encoder and decoder positions), `grad_norm` (of the gradient
            before clipping), `param_norm`, `learning_rate` and, where updates may be skipped, `skipped_update`, which
            are passed through.
        seconds: wall-clock time of the step.
        flops: model FLOPs of the step on all devices.
        device_count: devices that shared the step.
        peak_flops: of one device, or None.
    """
    real = _ratio(sums["nonpadding_tokens"], sums["all_tokens"])
    return {
        **loss_metrics(sums),
        "non_padding_fraction/overall": real,
        "padding_fraction": 1.0 - real,
        "learning_rate": sums["learning_rate"],
        "grad_norm": sums["grad_norm"],
        "param_norm": sums["param_norm"],
        **{name: sums[name] for name in (SKIPPED,) if name in sums},
        **speed_metrics(sums, seconds=seconds, flops=flops, device_count=device_count, peak_flops=peak_flops),
    }


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator) / float(denominator) if denominator else math.nan


class Clock:
    """Where this process's time went, other than into steps.

    `with clock.lost("evaluation"):` counts what happens inside; a cause inside another is counted once, as the inner
    one. `lap` gives the time of a step.
    """

    CAUSES = ("data", "checkpoints", "evaluation", "compilation")

    def __init__(self, now: Callable[[], float] = time.perf_counter):
        self._now = now
        self._seconds = dict.fromkeys(self.CAUSES, 0.0)
        self._running: list[str] = []
        self._since = self._lap_start = now()
        self._lap_pauses = 0.0

    @contextlib.contextmanager
    def lost(self, cause: str) -> Iterator[None]:
        """Counts the time inside the block as lost to `cause`, one of `CAUSES`; anything else is a ValueError."""
        if cause not in self.CAUSES:
            raise ValueError(f"no time is lost to {cause!r}; the causes are {', '.join(self.CAUSES)}")
        self._settle()
        self._running.append(cause)
        try:
            yield
        finally:
            self._settle()
            self._running.pop()

    def report(self) -> dict[str, float]:
        """Seconds lost so far by this process, as `time_lost/<cause>`."""
        self._settle()
        return {f"time_lost/{cause}": seconds for cause, seconds in self._seconds.items()}

    def lap(self) -> float:
        """Seconds since the last lap (or the start), without checkpoints, evaluation and compilation.

        Waiting for data stays in: it is what makes steps slow, and T5X's timings have it too.
        """
        self._settle()
        pauses = sum(self._seconds.values()) - self._seconds["data"]
        seconds = (self._since - self._lap_start) - (pauses - self._lap_pauses)
        self._lap_start, self._lap_pauses = self._since, pauses
        return seconds

    def _settle(self) -> None:
        """Books the time since the last look on the innermost running cause."""
        now = self._now()
        if self._running:
            self._seconds[self._running[-1]] += now - self._since
        self._since = now


class MetricWriter:
    """Writes rows of metrics under one directory; every row is on disk when `write` returns, or in a bucket half a
    minute later (`GrowingFile`).

    `metrics.jsonl`, TensorBoard events under `tensorboard/`, and W&B when the package is installed and one of
    WANDB_PROJECT, WANDB_API_KEY and WANDB_MODE is set (and WANDB_MODE is not `disabled`). The W&B run is found again
    by the id kept in `wandb_run_id.txt`. One process of a run writes, not all.

    A resumed run repeats the steps after its checkpoint, so what an earlier process wrote about them goes first: rows
    and half-written lines are dropped from `metrics.jsonl` in one rename, and TensorBoard is told to forget them. (W&B
    can't forget; it keeps the first of two values at a step.)

    Args:
        directory: of the run; made if need be.
        resume_step: rows up to this step stay. None for a run that starts afresh: nothing stays.
    """

    def __init__(self, directory: str | os.PathLike[str], resume_step: int | None = None):
        directory = to_path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / METRICS_FILE
        self._file = GrowingFile(path, _rows_until(path, resume_step))
        first_step = 0 if resume_step is None else resume_step + 1
        self._tensorboard = tensorboard.EventFile(directory / "tensorboard", first_step)
        self._wandb = _wandb_run(directory, resume=resume_step is not None)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Appends one row. Values are numbers or 0-d arrays."""
        values = {name: float(value) for name, value in metrics.items()}
        row = {"step": int(step), **{name: _to_json(value) for name, value in values.items()}}
        self._file.write(f"{json.dumps(row, allow_nan=False)}\n".encode())
        self._tensorboard.scalars(int(step), values)
        if self._wandb is not None:
            self._wandb.log(values, step=int(step))

    def text(self, tag: str, markdown: str, step: int) -> None:
        """Shows a text in TensorBoard, which renders Markdown, and in W&B. `metrics.jsonl` has numbers alone."""
        self._tensorboard.text(int(step), tag, markdown)
        if self._wandb is not None:
            import wandb

            page = markdown.replace("<", "&lt;")  # entities stay: a browser reads them as Markdown does
            self._wandb.log({tag: wandb.Html(f"<pre>{page}</pre>")}, step=int(step))

    def image(self, tag: str, png: str | os.PathLike[str], step: int) -> None:
        """Shows a picture, a PNG's path, in TensorBoard and W&B."""
        data = to_path(png).read_bytes()
        self._tensorboard.image(int(step), tag, data)
        if self._wandb is not None:
            import wandb
            from PIL import Image

            self._wandb.log({tag: wandb.Image(Image.open(io.BytesIO(data)))}, step=int(step))

    def sync(self) -> None:
        """Returns once all rows are where they belong; raises UserError where they can't be. TensorBoard's, from which
        no run goes on, are only tried."""
        self._file.sync()
        try:
            self._tensorboard.sync()
        except UserError as error:
            logging.getLogger(__name__).warning("%s It is tried again; the run goes on.", error)

    def close(self) -> None:
        self._file.close()
        self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()

    def __enter__(self) -> MetricWriter:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def read_metrics(path: str | os.PathLike[str]) -> list[dict]:
    """The rows of a `metrics.jsonl`, oldest first: `step` an int, all else floats, not always finite.

    A line that a kill cut short is left out, and so is what else is no row.
    """
    rows = map(_row, to_path(path).read_bytes().splitlines())
    return [row for row in rows if row is not None]


def _row(line: bytes) -> dict | None:
    try:
        row = json.loads(line, parse_int=_number)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or type(row.get("step")) is not int or row["step"] < 0:
        return None
    row = {name: _from_json(value) for name, value in row.items()}
    return row if all(value is None or type(value) in (int, float) for value in row.values()) else None


def _number(digits: str) -> int | float:
    """Whole numbers that are none of ours, of more digits than 64 bits have, are floats."""
    return int(digits) if len(digits) < 19 else float(digits)


def is_evaluated(directory: pathlib.Path, step: int) -> bool:
    """Whether a run's `metrics.jsonl` has a row about an evaluation at this step."""
    path = directory / METRICS_FILE
    return path.exists() and any(row["step"] == step and "loss" not in row for row in read_metrics(path))


def _to_json(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _from_json(value: float | str) -> float:
    return float(value) if value in _NOT_FINITE else value


def _rows_until(path: pathlib.Path, step: int | None) -> bytes:
    """The rows that stay, as lines."""
    if step is None or not path.exists():
        return b""
    rows = (row for row in read_metrics(path) if row["step"] <= step)
    lines = (json.dumps({name: _to_json(value) for name, value in row.items()}) + "\n" for row in rows)
    return "".join(lines).encode()


def _wandb_run(directory: pathlib.Path, *, resume: bool):
    asked = any(os.environ.get(name) for name in ("WANDB_PROJECT", "WANDB_API_KEY", "WANDB_MODE"))
    if not asked or os.environ.get("WANDB_MODE") == "disabled":
        return None
    try:
        import wandb
    except ImportError:
        logging.getLogger(__name__).warning(
            "the environment asks for W&B, but the wandb package is not installed: pip install 't5x_mini[wandb]'"
        )
        return None
    id_file = directory / "wandb_run_id.txt"
    if not (resume and id_file.exists()):
        id_file.write_text(secrets.token_hex(8))
    own_files = None if is_remote(directory) else str(directory)
    return wandb.init(id=id_file.read_text().strip(), resume="allow", dir=own_files)
