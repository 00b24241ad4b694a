"""From the sums of each step to a row of metrics, a line on the screen, and a stop where they are not finite."""

from __future__ import annotations

import dataclasses
import math
import pathlib

import jax

from t5x_mini.errors import UserError
from t5x_mini.train import flops, metrics
from t5x_mini.train.progress import Progress
from t5x_mini.train.run import Run

_WORDS = {"loss": "loss", "param_norm": "parameter norm"}


@dataclasses.dataclass
class _Pending:
    step: int
    sums: dict[str, jax.Array]


class Reporter:
    """Turns the sums of each step into metrics, a step late, and stops the run when the loss is not finite.

    Attributes:
        last_good: the newest checkpoint, to be named if the run has to stop.
    """

    def __init__(
        self,
        run: Run,
        clock: metrics.Clock,
        folder: pathlib.Path,
        first_step: int,
        last_good: str | pathlib.Path | None,
        *,
        enabled: bool,
    ):
        config = run.config
        lengths = config.feed.task_feature_lengths
        device = run.partitioner.mesh.devices.flat[0]
        self._device_count = run.partitioner.mesh.devices.size
        self._flops = flops.train_flops(
            config.model, config.feed.batch_size, lengths.get("inputs", 0), lengths["targets"]
        )
        self._peak = flops.peak_flops(device.device_kind, device.platform)
        self._clock = clock
        self.last_good = last_good
        self._pending: _Pending | None = None
        self._writer = metrics.MetricWriter(folder, first_step or None) if enabled else None
        self._progress = Progress(run.total_steps, first_step) if enabled else None

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, *_) -> None:
        if self._writer:
            self._writer.close()
            self._progress.close()

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
        row = metrics.step_metrics(
            {name: float(value) for name, value in sums.items()},
            seconds=self._clock.lap(),
            flops=self._flops,
            device_count=self._device_count,
            peak_flops=self._peak,
        )
        if self._writer:
            self._writer.write(step, row | self._clock.report())
            self._progress.update(step, row["loss_per_nonpadding_target_token"], row["timing/tokens_per_second"])
        self._stop_unless_finite(step, row)

    def add_evaluation(self, step: int, results: dict[str, dict[str, float]]) -> None:
        """Reports held-out metrics, by task."""
        for task, row in results.items():
            if self._writer:
                self._writer.write(step, {f"eval/{task}/{name}": value for name, value in row.items()})
                loss, accuracy = row["loss_per_nonpadding_target_token"], row["accuracy"]
                self._progress.note(
                    f"step {step}: {task}: held-out loss {loss:.3f} nats a token, accuracy {accuracy:.1%}"
                )

    def _stop_unless_finite(self, step: int, row: dict[str, float]) -> None:
        # A finite loss can still have a gradient that ruins the parameters, and those would be saved.
        what = next((name for name in ("loss", "param_norm") if not math.isfinite(row[name])), None)
        if what is None:
            return
        good = "There is no checkpoint before it."
        if self.last_good is not None:
            good = f"The last good checkpoint is {self.last_good}."
        raise UserError(
            f"The {_WORDS[what]} of step {step} is {row[what]}; the run stops. {good} "
            f"Gradient norm {row['grad_norm']:g}, parameter norm {row['param_norm']:g}, learning rate "
            f"{row['learning_rate']:g}: a lower rate, a longer warm-up or --gin.CLIP_GLOBAL_NORM=1.0 usually helps."
        )
