"""The training loop: restore or start, step, measure, save.

The device is never kept waiting for Python: batches are put on the device ahead of time, the numbers of a step are
read while the next one runs, and checkpoints are written behind the steps that follow.
"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

import jax

from t5x_mini import config as config_module
from t5x_mini.checkpoint.run_item import Training
from t5x_mini.errors import Terminated, UserError
from t5x_mini.feed import feeds
from t5x_mini.feed.batch import Prefetcher, prefetch
from t5x_mini.feed.position import Position
from t5x_mini.parallel import mesh
from t5x_mini.parallel.hosts import say, wait_for_all
from t5x_mini.storage import to_path
from t5x_mini.train import completion, metrics
from t5x_mini.train.best import Best
from t5x_mini.train.model_info import model_info, summary
from t5x_mini.train.preemption import Preemption
from t5x_mini.train.reporter import Reporter
from t5x_mini.train.run import Run, assemble
from t5x_mini.train.start import assemble_to_train, compile_step, initial_state
from t5x_mini.train.state import TrainState

if TYPE_CHECKING:
    from t5x_mini.checkpoint.manager import Checkpoints
    from t5x_mini.config import RunConfig
    from t5x_mini.evaluate.evaluator import Evaluator


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
    with _Training(assemble_to_train(config)) as training:
        training.run()


class _Training:
    """One process's part in a run, from opening its folder to the last checkpoint."""

    def __init__(self, run: Run):
        from t5x_mini.checkpoint.manager import Checkpoints  # Orbax takes a second to import

        self.config, self.assembled = run.config, run
        self.folder = to_path(run.config.train.model_dir)
        self.clock = metrics.Clock()
        self.is_primary = jax.process_index() == 0
        if self.is_primary:
            self.folder.mkdir(parents=True, exist_ok=True)
        self.checkpoints: Checkpoints = Checkpoints(
            run.config.train.model_dir,
            run.config.checkpoint,
            run.vocabulary,
            feeds.vocabulary_source(run.config.feed),
            run.config.train.best_metric,
        )
        train = run.config.train
        self.best = Best(train.best_metric, train.patience, train.eval_period) if train.best_metric else None

    def __enter__(self) -> _Training:
        return self

    def __exit__(self, _, error: BaseException | None, __) -> None:
        if isinstance(error, jax.errors.JaxRuntimeError) and jax.process_count() > 1:
            return  # another process may be gone, and closing would wait for it
        self.checkpoints.close()

    def run(self) -> None:
        # The order of a start: say what it is; state (checkpoint, initial checkpoint or fresh); data, where the state
        # left it; compile; go. What can be refused is refused before what takes long.
        self._announce()
        state, position = self._first_state()
        first_step = int(state.step)
        if self._is_complete(first_step):
            return
        feed = self._feed(position)
        pictures = self._describe()
        say("compiling the step, and reading held-out text ...")
        with self.clock.lost("compilation"):
            step = compile_step(self.assembled)
            evaluator = self._evaluator()
            wait_for_all("the first step")
        with (
            prefetch(feed, self.assembled.partitioner.put, self.config.feed.prefetch) as batches,
            Reporter(
                self.assembled,
                self.clock,
                self.folder,
                first_step,
                self._origin(),
                resumed=self.checkpoints.latest_step() is not None,
                enabled=self.is_primary,
            ) as reporter,
        ):
            reporter.describe(config_module.operative_config(), model_info(self.assembled), pictures)
            with Preemption() as preemption:
                state = self._steps(step, state, batches, evaluator, reporter, preemption)
            reporter.finish(int(state.step))
        self._finish(state, evaluator)

    def _is_complete(self, step: int) -> bool:
        """Whether there is nothing left to do, which is said."""
        why = None
        if step >= self.assembled.total_steps:
            why = f"step {step} of {self.assembled.total_steps}."
        elif self.best and self.best.exhausted:
            why = f"it stopped early, at step {step} (PATIENCE = {self.config.train.patience}): {self.best}."
        if why:
            say(f"The run in {self.folder} is complete: {why}")
            self._mark_complete(step)  # it may have been ended after its last checkpoint, before it could say so
        return why is not None

    def _steps(
        self,
        step,
        state: TrainState,
        batches: Prefetcher,
        evaluator: Evaluator | None,
        reporter: Reporter,
        preemption: Preemption,
    ) -> TrainState:
        total, eval_period = self.assembled.total_steps, self.config.train.eval_period
        self.clock.lap()
        for done in range(int(state.step) + 1, total + 1):
            with self.clock.lost("data"):
                batch, position = next(batches)
            state, sums = step(state, batch)
            reporter.add(done, sums)
            is_best = stops = False
            terminated = preemption.reached(done) and done < total  # there is no time left but to save
            if evaluator and (done % eval_period == 0 or done == total) and not terminated:
                reporter.flush()
                with self.clock.lost("evaluation"):
                    is_best = self._evaluate(evaluator, state, done, reporter)
                stops = self.best is not None and self.best.exhausted
            if done % self.config.checkpoint.period == 0 or done == total or is_best or stops or terminated:
                reporter.flush()  # what is saved is known to be finite
                with self.clock.lost("checkpoints"):
                    reporter.sync()  # a restart goes on from the checkpoint, and keeps the rows before it
                    self._save(state, position, is_best)
                reporter.last_good = self._checkpoint(done)
            if terminated:
                self.checkpoints.wait()
                raise Terminated(
                    f"SIGTERM: stopped after step {done:,} of {total:,}, which is saved in {self.folder}. The same "
                    "command goes on from there."
                )
            if stops:
                break
        reporter.flush()
        return state

    def _evaluate(self, evaluator: Evaluator, state: TrainState, step: int, reporter: Reporter) -> bool:
        """Measures, reports, and says whether it is the best so far."""
        results = evaluator.measure(state.params, step)
        reporter.add_evaluation(step, results)
        reporter.add_examples(step, evaluator.examples)
        return self.best is not None and self.best.add(results)

    def _first_state(self) -> tuple[TrainState, bytes | None]:
        step = self.checkpoints.latest_step()
        if step is not None:
            run = self.assembled
            restored = self.checkpoints.restore(step, run.shapes, run.shardings, self.config.model, run.partitioner)
            say(f"resuming from step {step} in {self.folder}")
            if self.best:
                self.best.resume(step, self.checkpoints.best())
            return restored.state, restored.position
        state, origin = initial_state(self.assembled)
        if origin:
            say(origin)
        return state, None

    def _feed(self, position: bytes | None):
        share = self.assembled.partitioner.row_share
        feed = feeds.make_feed(
            self.config.feed,
            self.config.model.architecture,
            host_index=share.index,
            host_count=share.count,
            snapshot_every=self.config.checkpoint.period,
        )
        if position is not None:
            feed.restore(Position.from_bytes(position))
        if self.config.feed.data_feed == "tokens":
            say("\n".join(feed.describe()))
        return feed

    def _evaluator(self) -> Evaluator | None:
        if not self.config.train.eval_period:
            return None
        from t5x_mini.evaluate.evaluator import Evaluator

        evaluator = Evaluator(self.assembled, folder=self.folder)
        if evaluator.held_out.batches:
            if self.best:
                self.best.check(evaluator.held_out.batches, evaluator.scored)
            return evaluator
        split = self.config.evaluate.split
        if self.best:
            raise UserError(
                f"BEST_METRIC = {self.config.train.best_metric!r} needs a split {split!r}, and no task has one: write "
                "BEST_METRIC=None, or the split that there is: --gin.EvaluateConfig.split=test."
            )
        say(f"no evaluation: the task has no split '{split}'")
        return None

    def _save(self, state: TrainState, position: Position, is_best: bool) -> None:
        config, partitioner = self.config, self.assembled.partitioner
        training = Training(
            learning_rate=float(config.schedule(int(state.step))),
            loss_normalizing_factor=1 if config.loss.normalizing_factor is None else config.loss.normalizing_factor,
            dropout_rate=config.model.dropout_rate,
            feature_lengths=dict(config.feed.task_feature_lengths),
        )
        best = self.best.found if is_best else None
        self.checkpoints.save(state, position.to_bytes(), config.model, partitioner, training, best)

    def _finish(self, state: TrainState, evaluator: Evaluator | None) -> None:
        self.checkpoints.wait()
        if self.is_primary:
            self._conclude(state, evaluator)
        wait_for_all(f"{self.folder} is finished")  # who reads it next reads all of it

    def _conclude(self, state: TrainState, evaluator: Evaluator | None) -> None:
        step = int(state.step)
        early = self.best is not None and self.best.exhausted and step < self.assembled.total_steps
        say(
            f"{'stopped early' if early else 'done'}: step {step}; checkpoints, metrics and loss.png are in "
            f"{self.folder}{f'; {self.best}' if self.best else ''}"
        )
        if self.config.train.closing_report:
            from t5x_mini.evaluate.report import closing_report

            say(closing_report(self.assembled, state.params, evaluator and evaluator.held_out))
        self._mark_complete(step)

    def _mark_complete(self, step: int) -> None:
        if self.is_primary:
            completion.mark(self.folder, step, self.assembled.total_steps)

    def _announce(self) -> None:
        run = self.assembled
        say(f"{run.config.model.architecture}, {summary(run).removeprefix('total: ')}")
        say(f"{run.config.partitioning.kind} over {mesh.describe(run.partitioner.mesh)}")

    def _describe(self) -> dict[str, pathlib.Path]:
        """Writes down what the run is, and gives its pictures by name."""
        # Not before the state and the data are accepted: a refused run leaves another's description alone.
        if not self.is_primary:
            return {}
        from t5x_mini.train.pictures import run_pictures  # matplotlib

        completion.unmark(self.folder)
        (self.folder / "config.gin").write_text(config_module.operative_config())
        (self.folder / "model-info.txt").write_text(model_info(self.assembled))
        return run_pictures(self.assembled, self.folder)

    def _checkpoint(self, step: int) -> pathlib.Path:
        return self.folder / "checkpoints" / str(step)

    def _origin(self) -> str | pathlib.Path | None:
        """The checkpoint that this process starts from."""
        step = self.checkpoints.latest_step()
        return self.config.train.initial_checkpoint_path if step is None else self._checkpoint(step)
