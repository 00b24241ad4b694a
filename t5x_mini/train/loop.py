"""The training loop: restore or start, step, measure, save.

The device is never kept waiting for Python: batches are put on the device ahead of time, the numbers of a step are
read while the next one runs, and checkpoints are written behind the steps that follow.
"""

from __future__ import annotations

import contextlib
import functools
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax

from t5x_mini import config as config_module
from t5x_mini.checkpoint.run_item import Training
from t5x_mini.checkpoint.steps import steps_of
from t5x_mini.errors import SaveError, Terminated, UserError
from t5x_mini.feed import feeds
from t5x_mini.feed.batch import Prefetcher, prefetch
from t5x_mini.feed.position import Position
from t5x_mini.parallel.hosts import on_first, say, wait_for_all
from t5x_mini.storage import to_path
from t5x_mini.train import completion, describe, drift, metrics, roll_back
from t5x_mini.train import run as run_module
from t5x_mini.train.best import Best, check_training, full_name, is_of_training
from t5x_mini.train.divergence import Diverged, Divergence, past
from t5x_mini.train.model_info import model_info
from t5x_mini.train.preemption import Preemption
from t5x_mini.train.presence import Presence
from t5x_mini.train.profiler import Profiler
from t5x_mini.train.reporter import Reporter
from t5x_mini.train.run import Run
from t5x_mini.train.saving import Saver
from t5x_mini.train.start import assemble_to_train, compile_step, initial_state
from t5x_mini.train.state import TrainState

if TYPE_CHECKING:
    from t5x_mini.checkpoint.manager import Checkpoints
    from t5x_mini.config import RunConfig
    from t5x_mini.evaluate.evaluator import Evaluator


def train(
    config: RunConfig,
    *,
    allow_changes: Sequence[str] = (),
    profile_steps: tuple[int, int] | None = None,
    began: float | None = None,
) -> None:
    """Trains to the last step, resuming what `model_dir` holds, and leaves there everything the run is known by.

    Args:
        config: of the run.
        allow_changes: settings that may be others than those of the checkpoint that the run goes on from (`drift.py`).
        profile_steps: the first and the last step to trace (`profiler.py`).
        began: when the command was started, as `time.time()` counts; None: now.

    Raises:
        UserError: it can't begin, or can't go on.
        Terminated: a signal ended it (`preemption.py`).
    """
    with Preemption() as preemption:
        run = assemble_to_train(config)
        folder = to_path(run.config.train.model_dir)
        profiler = Profiler(profile_steps, folder, run.total_steps)
        presence = Presence(folder, run.total_steps, began)
        with presence, _Training(run, preemption, presence, profiler, allow_changes) as training:
            training.run()


class _EvaluationLeft(Exception):
    """There is no time for it: the run is to be saved."""


class _Training:
    """One process's part in a run, from opening its folder to the last checkpoint."""

    def __init__(
        self, run: Run, preemption: Preemption, presence: Presence, profiler: Profiler, allow_changes: Sequence[str]
    ):
        from t5x_mini.checkpoint.manager import Checkpoints  # Orbax takes a second to import

        self.config, self.assembled = run.config, run
        self.preemption, self.presence, self.profiler = preemption, presence, profiler
        self.allow_changes, self.changes = allow_changes, drift.Changes()
        self.folder = to_path(run.config.train.model_dir)
        self.clock = metrics.Clock()
        self.is_primary = jax.process_index() == 0
        metric = run.config.train.best_metric
        if is_of_training(metric):
            check_training(metric)
        self.checkpoints: Checkpoints = Checkpoints(
            run.config.train.model_dir,
            run.config.checkpoint,
            run.vocabulary,
            feeds.vocabulary_source(run.config.feed),
            metric and full_name(metric),
        )
        self.best: Best | None = None
        self.owes_evaluation = False

    def __enter__(self) -> _Training:
        return self

    def __exit__(self, _, error: BaseException | None, __) -> None:
        if isinstance(error, jax.errors.JaxRuntimeError) and jax.process_count() > 1:
            return  # another process may be gone, and closing would wait for it
        self.checkpoints.close()

    def run(self) -> None:
        # The order of a start: say what it is; state (checkpoint, initial checkpoint or fresh); data, where the state
        # left it; compile; go. What can be refused is refused before what takes long. A roll-back starts at the state.
        describe.announce(self.assembled)
        state, position = self._first_state()
        first_step = int(state.step)
        if self._is_complete(first_step):
            return
        self.profiler.go_on_from(first_step)
        feed = self._feed(position, first_step)
        say("compiling the step, and reading held-out text ...")
        with self.clock.lost("compilation"):
            evaluator = self._evaluator()  # which may refuse the start: before anything is written
        # Not before the state and the data are accepted: a refused run leaves another's description alone.
        if self.is_primary:
            describe.write_down(self.assembled, self.folder, first_step)
        self.presence.begin(first_step, self.clock)
        with self.clock.lost("compilation"):
            step = compile_step(self.assembled)
        with self.preemption.as_request(afterwards="after its last step, which is saved"):
            wait_for_all("the first step")
            finished = None
            while finished is None:
                try:
                    finished = self._train(step, state, feed, evaluator)
                except Diverged as error:
                    diverged = error.with_traceback(None)  # which would hold on to arrays
                if finished is None:
                    state, position = self._roll_back(diverged)
                    feed = self._feed(position, int(state.step))
            wait_for_all("the last step")
        self._finish(finished, evaluator)

    def _train(self, step, state: TrainState, feed, evaluator: Evaluator | None) -> TrainState:
        """From one state to the last one. Raises Diverged."""
        first_step, train = int(state.step), self.config.train
        divergence = Divergence(train, past(self.folder, first_step, train))
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
                divergence=divergence,
            ) as reporter,
            self.profiler,
        ):
            reporter.describe(config_module.operative_config(), model_info(self.assembled))
            state = self._steps(step, state, batches, evaluator, reporter, divergence)
            reporter.finish(int(state.step))
        return state

    def _is_complete(self, step: int) -> bool:
        """Whether there is nothing left to do, which is said."""
        why = None
        if step >= self.assembled.total_steps and not self.owes_evaluation:
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
        divergence: Divergence,
    ) -> TrainState:
        total, eval_period = self.assembled.total_steps, self.config.train.eval_period
        saver = Saver(self.checkpoints, reporter.sync, self.config.checkpoint.retries)
        if evaluator and self.owes_evaluation:
            self._make_up_evaluation(evaluator, state, reporter)
            if self.best and self.best.exhausted:
                return state
        self.presence.note(int(state.step))
        self.clock.lap()
        for done in range(int(state.step) + 1, total + 1):
            self.profiler.before(done, state)
            with self.clock.lost("data"):
                batch, position = next(batches)
            state, sums = step(state, batch, *divergence.limits(done))
            reporter.add(done, sums)
            self.profiler.after(done, state)
            self.presence.note(done - 1)
            is_best = stops = False
            due = evaluator is not None and (done % eval_period == 0 or done == total)
            terminated = self.preemption.reached()  # there is no time left but to save
            if due and not terminated:
                reporter.flush()
                try:
                    is_best = self._evaluate(evaluator, state, done, reporter)
                    stops = self.best is not None and self.best.exhausted
                except _EvaluationLeft:
                    terminated = True
            terminated = terminated and (done < total or due)
            is_last = done == total or stops or terminated
            if done % self.config.checkpoint.period == 0 or is_best or is_last or saver.wants(done):
                reporter.flush()  # what is saved is known to be finite
                begin = functools.partial(self._save, state, position, reporter.logged)
                with self.clock.lost("checkpoints"):
                    if is_last:
                        saver.finish(done, begin, hurries=lambda: self.preemption.signal is not None)
                    else:
                        saver.save(done, begin)
                if saver.newest is not None:
                    reporter.last_good = self._checkpoint(saver.newest)
                if saver.newest == done:
                    self.presence.event("checkpoint", done)
            if terminated:
                raise self._terminated(done)
            if stops:
                break
        reporter.flush()
        return state

    def _evaluate(self, evaluator: Evaluator, state: TrainState, step: int, reporter: Reporter) -> bool:
        """Measures, reports, and says whether it is the best so far."""
        with self.clock.lost("evaluation"):
            results = evaluator.measure(state.params, step)
        reporter.add_evaluation(step, results)
        reporter.add_examples(step, evaluator.examples)
        self.presence.event("evaluation", step)
        return self.best is not None and self.best.add(results)

    def _leave_evaluation(self) -> None:
        if self.preemption.reached():
            raise _EvaluationLeft

    def _left_out_evaluation(self, step: int) -> bool:
        """Whether the run was told to stop at the step that it goes on from, when an evaluation was due."""
        period, total = self.config.train.eval_period, self.assembled.total_steps
        if not period or (step % period and step != total):
            return False
        return on_first(lambda: not completion.is_marked(self.folder) and not metrics.is_evaluated(self.folder, step))

    def _make_up_evaluation(self, evaluator: Evaluator, state: TrainState, reporter: Reporter) -> None:
        step = int(state.step)
        try:
            self._evaluate(evaluator, state, step, reporter)
        except _EvaluationLeft:
            raise self._terminated(step) from None
        self.checkpoints.add_metrics(step, reporter.logged)
        reporter.sync()

    def _terminated(self, step: int) -> Terminated:
        number, total = self.preemption.signal, self.assembled.total_steps
        rest = "" if step < total else " The evaluation of its last step is still to come."
        text = f"{number.name}: stopped after step {step:,} of {total:,}, which is saved in {self.folder}.{rest}"
        return Terminated(text, number)

    def _first_state(self) -> tuple[TrainState, bytes | None]:
        train = self.config.train
        if train.best_metric and not is_of_training(train.best_metric):  # which every checkpoint has, evaluated or not
            self.best = Best(train.best_metric, train.patience, train.eval_period, self.config.checkpoint.keep_best)
        step, self.owes_evaluation = self.checkpoints.newest_good(), False
        if step is not None:
            run = self.assembled
            self.changes = drift.check(self.checkpoints.run_item(step), run, self.allow_changes, self.folder)
            restored = self.checkpoints.restore(step, run.shapes, run.shardings, self.config.model, run.partitioner)
            say(f"resuming from step {step} in {self.folder}")
            self.owes_evaluation = self._left_out_evaluation(step)
            if self.best:
                self.best.resume(step - self.owes_evaluation, self.checkpoints.best())
            return restored.state, restored.position
        state, origin = initial_state(self.assembled)
        if origin:
            say(origin)
        return state, None

    def _roll_back(self, diverged: Diverged) -> tuple[TrainState, bytes | None]:
        """Goes back to a checkpoint, and writes down which batches the run leaves out behind it."""
        with contextlib.suppress(SaveError):  # of a later state than the one that it goes back to
            self.checkpoints.wait()
        self.checkpoints.newest_good()  # which are not is said, and they are out of the way
        steps = steps_of(self.folder) or [run_module.first_step(self.config.train)]
        record = roll_back.decide(self.folder, diverged, steps, self.config.train.max_skips)
        if steps[-1] > record.to:
            self.checkpoints.discard_after(record.to)
        self.presence.event("rollback", record.to, str(record), level="warning")
        say(f"{record}.")
        return self._first_state()

    def _feed(self, position: bytes | None, step: int):
        share = self.assembled.partitioner.row_share
        feed = feeds.make_feed(
            self.config.feed,
            self.config.model.architecture,
            host_index=share.index,
            host_count=share.count,
            snapshot_every=self.config.checkpoint.period,
        )
        if position is not None:
            feed.restore(drift.place(self.changes, Position.from_bytes(position), feed))
        roll_back.leave_out(feed, self.folder, step)
        if self.config.feed.data_feed == "tokens":
            say("\n".join(feed.describe()))
        return feed

    def _evaluator(self) -> Evaluator | None:
        if not self.config.train.eval_period:
            return None
        from t5x_mini.evaluate.evaluator import Evaluator

        leave = self._leave_evaluation
        evaluator = Evaluator(self.assembled, folder=self.folder, goes_on=True, between_batches=leave)
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

    def _save(self, state: TrainState, position: Position, logged: dict[str, float]) -> None:
        config, partitioner = self.config, self.assembled.partitioner
        training = Training(
            learning_rate=float(config.schedule(int(state.step))),
            loss_normalizing_factor=1 if config.loss.normalizing_factor is None else config.loss.normalizing_factor,
            dropout_rate=config.model.dropout_rate,
            feature_lengths=dict(config.feed.task_feature_lengths),
            settings=drift.settings_of(config),
        )
        self.checkpoints.save(state, position.to_bytes(), config.model, partitioner, training, logged)

    def _finish(self, state: TrainState, evaluator: Evaluator | None) -> None:
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
        if self.config.train.closing_report and not self.preemption.signal:
            from t5x_mini.evaluate.report import closing_report

            say(closing_report(self.assembled, state.params, evaluator and evaluator.held_out))
        self._mark_complete(step)

    def _mark_complete(self, step: int) -> None:
        if self.is_primary:
            completion.mark(self.folder, step, self.assembled.total_steps)

    def _checkpoint(self, step: int) -> pathlib.Path:
        return self.folder / "checkpoints" / str(step)

    def _origin(self) -> str | pathlib.Path | None:
        """The checkpoint that this process starts from."""
        step = self.checkpoints.latest_step()
        return self.config.train.initial_checkpoint_path if step is None else self._checkpoint(step)
