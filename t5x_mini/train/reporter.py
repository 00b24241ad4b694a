"""From the sums of each step to a row of metrics, a line on the screen, and a judgement (`divergence.py`)."""

from __future__ import annotations

import dataclasses
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from t5x_mini import storage_errors
from t5x_mini.errors import FolderLostError, UserError
from t5x_mini.evaluate.results import Results
from t5x_mini.train import best, blocks, first_loss, flops, markdown, metrics
from t5x_mini.train.divergence import Divergence
from t5x_mini.train.metrics import LOSS
from t5x_mini.train.progress import Progress
from t5x_mini.train.run import Run

_VECTORS = ("grad_rms", "update_ratio")
_EXAMPLES = 8
_log = logging.getLogger(__name__)


@dataclasses.dataclass
class _Pending:
    step: int
    sums: dict[str, jax.Array]


class Reporter:
    """Turns the sums of each step into metrics, a step late, and has them judged, which may stop the run.

    Attributes:
        last_good: the newest checkpoint, to be named if the run has to stop.
        logged: the numbers of the last step that was reported, its evaluation's too, to be kept with its checkpoint.
    """

    def __init__(
        self,
        run: Run,
        clock: metrics.Clock,
        folder: pathlib.Path,
        first_step: int,
        last_good: str | pathlib.Path | None,
        *,
        resumed: bool,
        enabled: bool,
        divergence: Divergence | None = None,
    ):
        """
        Args:
            run: what is trained.
            clock: of this process; what it says is lost is reported with each step.
            folder: of the run, where metrics and pictures go.
            first_step: updates made before this process.
            last_good: the checkpoint that this process starts from, if any.
            resumed: whether it goes on with what another one began, so that its first step is not the run's.
            enabled: whether this process writes. One of a run does; all of them stop.
            divergence: judges the steps; None: without a history.
        """
        config = run.config
        lengths = config.feed.task_feature_lengths
        device = run.partitioner.mesh.devices.flat[0]
        self._run, self._folder, self._first_step = run, folder, first_step
        self._beginning = None if resumed else first_step + 1
        self._device_count = run.partitioner.mesh.devices.size
        self._flops = flops.train_flops(
            config.model, config.feed.batch_size, lengths.get("inputs", 0), lengths["targets"]
        )
        self._peak = flops.peak_flops(device.device_kind, device.platform)
        self._blocks = blocks.names({name: run.shapes.params[name] for name in run.shapes.opt_state})
        self._clock = clock
        self._divergence = divergence or Divergence(config.train)
        self.last_good = last_good
        self.logged: dict[str, float] = {}
        self._pending: _Pending | None = None
        self._owes_pictures = False
        self._writer = metrics.MetricWriter(folder, first_step or None) if enabled else None
        self._progress = Progress(run.total_steps, first_step) if enabled else None

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        if not self._writer:
            return
        self._progress.close()
        if kind is FolderLostError:  # in a bucket, the file would be written over another's
            return
        try:
            self._writer.close()
        except UserError as error:  # the rows up to the newest checkpoint are where they belong: a save syncs them
            _log.warning("%s", error)

    def describe(self, config: str, model_info: str) -> None:
        """Shows what the run is, beside its metrics: its configuration and its parameters; pictures when the first step
        is over, which would have had to wait for them."""
        if not self._writer:
            return
        self._owes_pictures = True
        self._writer.text("config.gin", markdown.code(config), self._first_step)
        self._writer.text("model-info", markdown.code(model_info), self._first_step)

    def add(self, step: int, sums: dict[str, jax.Array]) -> None:
        """Takes a step that has just been started, and reports the one before it, which is finished."""
        self.flush()
        self._pending = _Pending(step, sums)

    def flush(self) -> None:
        """Waits for the last step that was added, and reports it."""
        if self._pending is None:
            return
        step, sums = self._pending.step, jax.device_get(self._pending.sums)
        self._pending = None
        vectors = {name: sums.pop(name) for name in _VECTORS if name in sums}
        sums = {name: float(value) for name, value in sums.items()}
        row = metrics.step_metrics(
            sums,
            seconds=self._clock.lap(),
            flops=self._flops,
            device_count=self._device_count,
            peak_flops=self._peak,
        )
        self.logged = {best.TRAINING + name: value for name, value in row.items()}
        if self._writer:
            self._writer.write(step, row | self._statistics(step, vectors) | self._clock.report())
            self._progress.update(step, row[LOSS], row["timing/tokens_per_second"])
            if step == self._beginning and sums["weights"]:
                self._note_first_loss(step, (sums["loss"] - sums["z_loss"]) / sums["weights"])
            if self._owes_pictures:
                self._draw_pictures()
        note = self._divergence.judge(step, row, self.last_good)
        if note and self._writer:
            _log.warning("%s", note)

    def sync(self) -> None:
        """Returns once all that was reported is where it belongs; what is pending (`flush`) is not."""
        if self._writer:
            self._writer.sync()

    def add_evaluation(self, step: int, results: Results) -> None:
        """Reports an evaluation: a row of all its numbers, and a line on the screen for each task."""
        self.logged |= best.measured(results)
        if not self._writer:
            return
        self._writer.write(step, results.flat())
        for task in {**results.losses, **results.scores}:
            self._progress.note(f"step {step}: {task}: {_in_words(results, task)}")
        if len(results.scores) > 1:
            averages = (f"{name.replace('_', ' ')} {value:.2f}" for name, value in results.averages.items())
            self._progress.note(f"step {step}: {', '.join(averages)}")

    def add_examples(self, step: int, answers: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Shows the first few of each task's answers, rows of a `<task>-<step>.jsonl`, in TensorBoard."""
        for task, rows in answers.items():
            if self._writer and rows:
                self._writer.text(f"examples/{task}", markdown.examples(rows[:_EXAMPLES]), step)

    def finish(self, step: int) -> pathlib.Path | None:
        """Reports the last step, and draws `loss.png` of them all; its path, where one was written."""
        self.flush()
        if not self._writer:
            return None
        from t5x_mini.train.plot import loss_plot

        try:
            plot = loss_plot(self._folder / metrics.METRICS_FILE, self._folder / "loss.png")
            self._writer.image("pictures/loss", plot, step)
        except (OSError, UserError) as error:
            _log.warning("%s can't be drawn: %s", self._folder / "loss.png", storage_errors.in_words(error))
            return None
        return plot

    def _statistics(self, step: int, vectors: Mapping[str, np.ndarray]) -> dict[str, float]:
        """`grad_rms/<block>` and `update_ratio/<block>`, at the run's first step and then once a period."""
        period = self._run.config.train.statistics_period
        if not vectors or (step % period and step != self._beginning):
            return {}
        return {
            f"{name}/{block}": float(value)
            for name, vector in vectors.items()
            for block, value in zip(self._blocks, vector, strict=True)
        }

    def _draw_pictures(self) -> None:
        self._owes_pictures = False
        from t5x_mini.train.pictures import run_pictures  # matplotlib

        try:
            for name, path in run_pictures(self._run, self._folder).items():
                self._writer.image(f"pictures/{name}", path, self._first_step)
        except (OSError, UserError) as error:
            _log.warning("The pictures of %s can't be drawn: %s", self._folder, storage_errors.in_words(error))

    def _note_first_loss(self, step: int, loss: float) -> None:
        config = self._run.config
        fresh = config.train.initial_checkpoint_path is None
        self._progress.note(first_loss.describe(step, loss, config.model.vocab_size, config.loss, fresh=fresh))


def _in_words(results: Results, task: str) -> str:
    """`held-out loss 2.314 nats a token, accuracy 51.2%; answers: f1 80.21, accuracy 75.00`."""
    parts = []
    if task in results.losses:
        row = results.losses[task]
        parts.append(f"held-out loss {row[LOSS]:.3f} nats a token, accuracy {row['accuracy']:.1%}")
    if task in results.scores:
        scores = results.scores[task].items()
        parts.append("answers: " + ", ".join(f"{name} {value:.2f}" for name, value in scores))
    return "; ".join(parts)
