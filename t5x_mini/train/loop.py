"""The training loop: restore or start, step, measure, save.

The device is never kept waiting for Python: batches are put on the device ahead of time, the numbers of a step are
read while the next one runs, and checkpoints are written behind the steps that follow.
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import TYPE_CHECKING

import jax

from t5x_mini import config as config_module
from t5x_mini.checkpoint.run_item import Training
from t5x_mini.errors import UserError
from t5x_mini.feed import feeds
from t5x_mini.feed.batch import Prefetcher, prefetch
from t5x_mini.feed.position import Position
from t5x_mini.train import metrics
from t5x_mini.train.model_info import model_info, summary
from t5x_mini.train.reporter import Reporter
from t5x_mini.train.run import Run, assemble
from t5x_mini.train.state import TrainState
from t5x_mini.train.step import make_train_step

if TYPE_CHECKING:
    from t5x_mini.checkpoint.manager import Checkpoints
    from t5x_mini.config import RunConfig
    from t5x_mini.evaluate.held_out import HeldOut


def dry_run(config: RunConfig) -> None:
    """Prints the resolved configuration and the parameters, and makes nothing."""
    run = assemble(config)
    print(config_module.operative_config())
    print(model_info(run))
    if config.train.initial_checkpoint_path is not None:
        from t5x_mini.checkpoint import restore_plan, restore_report, source

        plan = restore_plan.make_plan(source.open_source(config.train.initial_checkpoint_path), run)
        print(restore_report.describe(plan, run))
    print(f"would train to step {run.total_steps:,} in {config.train.model_dir}; this was a dry run")


def train(config: RunConfig) -> None:
    """Trains to the last step, resuming what `model_dir` holds, and leaves there everything the run is known by."""
    run = assemble(config)
    if run.vocabulary is None:  # a model whose size was written down
        run = dataclasses.replace(run, vocabulary=feeds.vocabulary_id(config.feed))
        _check_vocabulary_fits(run)
    with _Training(run) as training:
        training.run()


def _check_vocabulary_fits(run: Run) -> None:
    """Ids without a row in the embedding would be NaN, and so would the loss."""
    vocabulary, rows = feeds.vocabulary(run.config.feed), run.config.model.vocab_size
    if vocabulary.vocab_size > rows:
        raise UserError(
            f"The task's vocabulary has {vocabulary.vocab_size} ids, its {vocabulary.extra_ids} EXTRA_IDS included, "
            f"and the model's embedding {rows} rows (TransformerConfig.vocab_size). Write the vocabulary that the "
            "model is made for (VOCABULARY, EXTRA_IDS), or for a new model leave vocab_size at None."
        )


class _Training:
    """One process's part in a run, from opening its folder to the last checkpoint."""

    def __init__(self, run: Run):
        from t5x_mini.checkpoint.manager import Checkpoints  # Orbax takes a second to import

        self.config, self.assembled = run.config, run
        self.folder = pathlib.Path(run.config.train.model_dir)
        self.clock = metrics.Clock()
        self.is_primary = jax.process_index() == 0
        if self.is_primary:
            self.folder.mkdir(parents=True, exist_ok=True)
        self.checkpoints: Checkpoints = Checkpoints(
            run.config.train.model_dir,
            run.config.checkpoint,
            run.vocabulary,
            feeds.vocabulary_source(run.config.feed),
        )

    def __enter__(self) -> _Training:
        return self

    def __exit__(self, *_) -> None:
        self.checkpoints.close()

    def run(self) -> None:
        # The order of a start: say what it is; state (checkpoint, initial checkpoint or fresh); data, where the state
        # left it; compile; go. What can be refused is refused before what takes long.
        self._announce()
        state, position = self._first_state()
        first_step = int(state.step)
        if first_step >= self.assembled.total_steps:
            self._say(f"The run in {self.folder} is complete: step {first_step} of {self.assembled.total_steps}.")
            return
        feed = self._feed(position)
        self._describe()
        self._say("compiling the step, and reading held-out text ...")
        with self.clock.lost("compilation"):
            step = self._compile()
            held_out = self._held_out()
        with (
            prefetch(feed, self.assembled.partitioner.put, self.config.feed.prefetch) as batches,
            Reporter(
                self.assembled, self.clock, self.folder, first_step, self._origin(), enabled=self.is_primary
            ) as reporter,
        ):
            state = self._steps(step, state, batches, held_out, reporter)
        self._finish(state, held_out)

    def _steps(self, step, state: TrainState, batches: Prefetcher, held_out: HeldOut | None, reporter) -> TrainState:
        total, eval_period = self.assembled.total_steps, self.config.train.eval_period
        self.clock.lap()
        for done in range(int(state.step) + 1, total + 1):
            with self.clock.lost("data"):
                batch, position = next(batches)
            state, sums = step(state, batch)
            reporter.add(done, sums)
            if held_out and (done % eval_period == 0 or done == total):
                reporter.flush()
                with self.clock.lost("evaluation"):
                    reporter.add_evaluation(done, held_out.measure(state.params))
            if done % self.config.checkpoint.period == 0 or done == total:
                reporter.flush()  # what is saved is known to be finite
                with self.clock.lost("checkpoints"):
                    self._save(state, position)
                reporter.last_good = self._checkpoint(done)
        reporter.flush()
        return state

    def _first_state(self) -> tuple[TrainState, bytes | None]:
        step = self.checkpoints.latest_step()
        if step is not None:
            run = self.assembled
            restored = self.checkpoints.restore(step, run.shapes, run.shardings, self.config.model, run.partitioner)
            self._say(f"resuming from step {step} in {self.folder}")
            return restored.state, restored.position
        initial = self.config.train.initial_checkpoint_path
        if initial is None:
            return self.assembled.create_state(), None
        from t5x_mini.checkpoint import restore_plan, restore_report
        from t5x_mini.checkpoint.source import open_source

        source = open_source(initial)
        plan = restore_plan.make_plan(source, self.assembled)
        self._say(restore_report.describe(plan, self.assembled))
        return restore_plan.restore(plan, source, self.assembled), None

    def _feed(self, position: bytes | None):
        feed = feeds.make_feed(
            self.config.feed,
            self.config.model.architecture,
            host_index=jax.process_index(),
            host_count=jax.process_count(),
            snapshot_every=self.config.checkpoint.period,
        )
        if position is not None:
            feed.restore(Position.from_bytes(position))
        if self.config.feed.data_feed == "tokens":
            self._say("\n".join(feed.describe()))
        return feed

    def _compile(self):
        config, run = self.config, self.assembled
        step = make_train_step(
            config.model, config.loss, config.optimizer, config.schedule, config.train, run.partitioner.axis_name
        )
        batch = run.batch_shapes(config.feed.batch_size)
        return run.partitioner.compile_train_step(step, run.shapes, run.shardings, batch)

    def _held_out(self) -> HeldOut | None:
        if not self.config.train.eval_period:
            return None
        from t5x_mini.evaluate.held_out import HeldOut

        held_out = HeldOut(self.assembled, self.config.evaluate.split, self.config.train.eval_steps)
        if not held_out.batches:
            self._say(f"no evaluation: the task has no split '{self.config.evaluate.split}'")
        return held_out if held_out.batches else None

    def _save(self, state: TrainState, position: Position) -> None:
        config, partitioner = self.config, self.assembled.partitioner
        training = Training(
            learning_rate=float(config.schedule(int(state.step))),
            loss_normalizing_factor=1 if config.loss.normalizing_factor is None else config.loss.normalizing_factor,
            dropout_rate=config.model.dropout_rate,
            feature_lengths=dict(config.feed.task_feature_lengths),
        )
        self.checkpoints.save(state, position.to_bytes(), config.model, partitioner, training)

    def _finish(self, state: TrainState, held_out: HeldOut | None) -> None:
        self.checkpoints.wait()
        if not self.is_primary:
            return
        from t5x_mini.train.plot import loss_plot

        plot = loss_plot(self.folder / metrics.METRICS_FILE, self.folder / "loss.png")
        self._say(f"done: step {int(state.step)}; checkpoints, metrics and {plot.name} are in {self.folder}")
        if self.config.train.closing_report:
            from t5x_mini.evaluate.report import closing_report

            self._say(closing_report(self.assembled, state.params, held_out))

    def _announce(self) -> None:
        run = self.assembled
        devices = run.partitioner.mesh.devices
        mesh = " x ".join(f"{axis} {size}" for axis, size in run.partitioner.mesh.shape.items())
        kind = devices.flat[0].device_kind
        self._say(f"{run.config.model.architecture}, {summary(run).removeprefix('total: ')}")
        self._say(f"{devices.size} device(s) ({kind}), {run.config.partitioning.kind}: {mesh}")

    def _describe(self) -> None:
        # Not before the state and the data are accepted: a refused run leaves another's description alone.
        if self.is_primary:
            (self.folder / "config.gin").write_text(config_module.operative_config())
            (self.folder / "model-info.txt").write_text(model_info(self.assembled))

    def _checkpoint(self, step: int) -> pathlib.Path:
        return self.folder / "checkpoints" / str(step)

    def _origin(self) -> str | pathlib.Path | None:
        """The checkpoint that this process starts from."""
        step = self.checkpoints.latest_step()
        return self.config.train.initial_checkpoint_path if step is None else self._checkpoint(step)

    def _say(self, text: str) -> None:
        if self.is_primary:
            print(text, flush=True)
