"""`t5x-mini train --overfit_one_batch`: can the model learn one batch by heart?

A model that can't has a mistake in its data, its masks, its loss or its optimiser, and no amount of training will hide
it; one that can may still fail on text that it hasn't seen. The run's first batch is trained on again and again, with
the run's own parameters, loss and optimiser. Two things are not the run's, since they only get in the way: dropout is
0, and the learning rate is the highest of the run's schedule throughout, because a batch should not have to wait for a
warm-up of 10,000 steps to be over.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from t5x_mini.errors import UserError
from t5x_mini.feed import feeds
from t5x_mini.parallel.hosts import gather, say, wait_for_all
from t5x_mini.storage import to_path
from t5x_mini.train import metrics, start
from t5x_mini.train.reporter import Reporter
from t5x_mini.train.run import Run
from t5x_mini.train.schedules import Constant, Schedule

if TYPE_CHECKING:
    from t5x_mini.config import RunConfig

FOLDER = "overfit_one_batch"
# Of the tokens that can be told at all. The last ones are often an odd word that takes long and tells no more.
_LEARNT = 0.99
# AdamW and Muon may take a large first step before their running means know anything.
_WARMUP = 10

HostBatch = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of the batch.

    Attributes:
        steps: updates that were made.
        first_loss: nats a token before the first of them, and
        last_loss: before the last.
        accuracy: share of the target tokens that are the model's most likely ones, before the last.
        attainable: what `accuracy` can be at most (`attainable_accuracy`).
        rate: the learning rate.
    """

    steps: int
    first_loss: float
    last_loss: float
    accuracy: float
    attainable: float
    rate: float

    @property
    def learnt(self) -> bool:
        return self.accuracy >= _LEARNT * self.attainable


def overfit(config: RunConfig, steps: int) -> Outcome:
    """Trains on the run's first batch until it is learned by heart, and says what became of it.

    Metrics and a plot are written to `MODEL_DIR/overfit_one_batch`; what else is in MODEL_DIR is neither read nor
    changed.

    Args:
        config: of the run.
        steps: to stop after, at the latest.

    Raises:
        UserError: the batch was not learned in so many steps, with what to look at; or has no target; or the loss is
            not finite.
    """
    model = dataclasses.replace(config.model, dropout_rate=0.0)
    train = dataclasses.replace(config.train, on_divergence="stop", loss_spike=None)  # what diverges says enough
    run = start.assemble_to_train(dataclasses.replace(config, model=model, train=train))
    batch = _first_batch(run)
    attainable = attainable_accuracy(_of_all_hosts(batch, run), model.architecture)
    if not attainable:
        raise UserError(
            "No target of the first batch carries loss: there is nothing to learn from it. Are the targets empty, or "
            f"is TASK_FEATURE_LENGTHS = {dict(config.feed.task_feature_lengths)} too short for the task's inputs? "
            "`t5x-mini inspect --task=NAME` shows its examples."
        )
    state, origin = start.initial_state(run)
    rate = highest_rate(run.config.schedule, int(state.step), run.total_steps)
    schedule = Constant(learning_rate=rate, warmup_steps=min(_WARMUP, steps // 10))
    run = dataclasses.replace(run, config=dataclasses.replace(run.config, schedule=schedule), total_steps=steps)
    state = dataclasses.replace(state, step=jax.device_put(np.int32(0), run.shardings.step))
    if origin:
        say(origin)
    say(_plan(run, config.schedule, steps))
    outcome = _train(run, state, batch, steps, attainable)
    say(describe(outcome, run.config.model.vocab_size))
    if not outcome.learnt:
        raise UserError(advice(outcome))
    return outcome


def attainable_accuracy(batch: HostBatch, architecture: str) -> float:
    """The share of the target tokens that the best of models could know, having learned the batch by heart.

    Where two rows have the same inputs and different targets, or a language model has loss on the first token of a
    row, the model sees the same and has to write different things: it can be right about one of them.
    """
    weights = batch["decoder_loss_weights"]
    wanted: defaultdict[bytes, Counter[int]] = defaultdict(Counter)
    for row, position in np.argwhere(weights > 0):
        seen = _seen(batch, architecture, row, position)
        wanted[seen][int(batch["decoder_target_tokens"][row, position])] += float(weights[row, position])
    total = float(weights.sum())
    return sum(max(tokens.values()) for tokens in wanted.values()) / total if total else 0.0


def highest_rate(schedule: Schedule, first_step: int, total_steps: int) -> float:
    """The highest learning rate of a run from `first_step` to `total_steps`."""
    last = max(first_step, total_steps - 1)
    steps = np.linspace(first_step, last, 1000).round()
    peak = np.clip(schedule.warmup_steps, first_step, last)
    return float(jnp.max(schedule(jnp.asarray([*steps, peak], jnp.int32))))


def describe(outcome: Outcome, vocab_size: int) -> str:
    """The outcome in a line."""
    most = "" if outcome.attainable == 1 else f", where {outcome.attainable:.1%} can be"
    return (
        f"overfit_one_batch: in {outcome.steps} steps the loss went from {outcome.first_loss:.3f} to "
        f"{outcome.last_loss:.3f} nats a token (log V = {math.log(vocab_size):.2f}), and {outcome.accuracy:.1%} of the "
        f"target tokens are right{most}: {'learned by heart' if outcome.learnt else 'NOT learned by heart'}."
    )


def advice(outcome: Outcome) -> str:
    """What to look at where a batch was not learned."""
    fell = 1 - outcome.last_loss / outcome.first_loss
    if fell < 0:
        what = f"The loss rose: a learning rate of {outcome.rate:g} is too high. Write a lower one."
    elif fell < 0.1:
        what = (
            f"The loss hardly moved. Is a learning rate of {outcome.rate:g} too low, or is too much FROZEN? Rows with "
            f"grad_rms/… and update_ratio/… in {FOLDER}/metrics.jsonl say which blocks get a gradient, and move."
        )
    else:
        what = (
            f"The loss fell and has further to go: allow more steps, --overfit_one_batch={4 * outcome.steps}. If it "
            f"has stopped falling ({FOLDER}/loss.png), the learning rate of {outcome.rate:g} may be too high, or the "
            "mask hides the inputs that the targets depend on."
        )
    return (
        f"The batch was not learned by heart: {outcome.accuracy:.1%} of its target tokens are right after "
        f"{outcome.steps} steps, where {_LEARNT * outcome.attainable:.1%} should be. {what} `t5x-mini inspect "
        "--task=NAME` shows what the model gets."
    )


def _first_batch(run: Run) -> HostBatch:
    config = run.config
    share = run.partitioner.row_share
    hosts = dict(host_index=share.index, host_count=share.count)
    return next(iter(feeds.make_feed(config.feed, config.model.architecture, **hosts)))


def _of_all_hosts(batch: HostBatch, run: Run) -> HostBatch:
    """All rows of the batch of which this host has `batch`."""
    parts = [part for part in gather(batch if run.partitioner.row_share.is_first else None) if part is not None]
    return {name: np.concatenate([part[name] for part in parts]) for name in batch}


def _train(run: Run, state, host_batch: HostBatch, steps: int, attainable: float) -> Outcome:
    folder, clock = to_path(run.config.train.model_dir) / FOLDER, metrics.Clock()
    batch, found = run.partitioner.put(host_batch), []
    with clock.lost("compilation"):
        step = start.compile_step(run)
        wait_for_all("the first step")
    with Reporter(run, clock, folder, 0, None, resumed=False, enabled=jax.process_index() == 0) as reporter:
        clock.lap()
        for done in range(1, steps + 1):
            state, sums = step(state, batch)
            reporter.add(done, sums)
            found.append(_loss_and_accuracy(sums))
            if found[-1][1] >= _LEARNT * attainable:
                break
        reporter.finish(done)
    (first_loss, _), (last_loss, accuracy) = found[0], found[-1]
    return Outcome(done, first_loss, last_loss, accuracy, attainable, run.config.schedule.learning_rate)


def _loss_and_accuracy(sums: Mapping[str, jax.Array]) -> tuple[float, float]:
    loss, z_loss, correct, weights = (float(sums[name]) for name in ("loss", "z_loss", "correct", "weights"))
    return (loss - z_loss) / weights, correct / weights


def _plan(run: Run, schedule: Schedule, steps: int) -> str:
    config = run.config
    return (
        f"overfit_one_batch: the run's first batch of {config.feed.batch_size} rows, up to {steps} times; no dropout; "
        f"{type(config.optimizer).__name__} at a constant {config.schedule.learning_rate:g}, the highest rate of "
        f"{type(schedule).__name__} in this run, after {config.schedule.warmup_steps} steps of warm-up"
    )


def _seen(batch: HostBatch, architecture: str, row: int, position: int) -> bytes:
    """All that the model sees of the batch when it writes this position."""
    segments = batch.get("decoder_segment_ids", np.ones_like(batch["decoder_target_tokens"]))[row]
    places = np.arange(len(segments))
    visible = places <= position
    if architecture == "prefix_lm":
        prefix = batch["decoder_causal_attention"][row] > 0
        visible |= prefix & prefix[position]
    own = segments == segments[position]
    seen = [batch["decoder_input_tokens"][row][visible & own], [position - np.argmax(own)]]
    if architecture == "encoder_decoder":
        tokens = batch["encoder_input_tokens"][row]
        of_encoder = batch.get("encoder_segment_ids", np.ones_like(batch["encoder_input_tokens"]))[row]
        seen.append(tokens[of_encoder == segments[position]])
    return np.concatenate([*seen, [-1]]).astype(np.int32).tobytes()
