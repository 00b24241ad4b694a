"""Learning rates as functions of the step.

A schedule is called with the number of updates made so far (0 for the first; a Python int or a traced integer) and
returns a float32 scalar. Where there is a warm-up, the rate rises in a straight line from 0 at step 0 to its full value
at step `warmup_steps`, as T5X's `linear_warmup` does; `warmup_steps=0` starts with the full value.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from t5x_mini.train.ranges import require

Step = int | Int[Array, ""]
Rate = Float[Array, ""]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rsqrt:
    """T5's rate for pretraining: `base / sqrt(max(step, warmup_steps))` (Raffel et al. 2020, section 3.1.2).

    The warm-up is a plateau: with the defaults 0.01 up to step 10,000, then 0.001 at a million. Nothing rises from 0.
    It equals T5X's `constant * rsqrt_decay`, whose floor of 1e-8 no run of that form reaches.

    Attributes:
        base: the rate times the square root of the step.
        warmup_steps: steps of the plateau.
    """

    base: float = 1.0
    warmup_steps: int = 10_000

    def __post_init__(self):
        require(self, "base", self.base > 0, "a number above 0")
        require(self, "warmup_steps", self.warmup_steps >= 1, "a number of steps of at least 1")

    def __call__(self, step: Step) -> Rate:
        return self.base / jnp.sqrt(jnp.maximum(_as_float(step), self.warmup_steps))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constant:
    """The same rate from the end of the warm-up on; T5 finetunes at 0.001 (Raffel et al. 2020, section 3.1.2).

    Attributes:
        learning_rate: the rate.
        warmup_steps: steps of the rise from 0.
    """

    learning_rate: float = 1e-3
    warmup_steps: int = 0

    def __post_init__(self):
        require(self, "learning_rate", self.learning_rate > 0, "a number above 0")
        require(self, "warmup_steps", self.warmup_steps >= 0, "a number of steps of at least 0")

    def __call__(self, step: Step) -> Rate:
        return self.learning_rate * _warmup(_as_float(step), self.warmup_steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Decay:
    """A rise from 0 to `peak` in `warmup_steps`, then a fall to `final`, reached at `total_steps` and kept.

    The last update of a run of `total_steps` is made at step `total_steps - 1`, a little above `final`.

    Attributes:
        peak: the rate at step `warmup_steps`.
        warmup_steps: steps of the rise from 0 (T5's number by default).
        total_steps: the step at which `final` is reached; None: the run's `TRAIN_STEPS` (see `resolve`).
        final: the rate at the end.
    """

    peak: float
    warmup_steps: int = 10_000
    total_steps: int | None = None
    final: float = 0.0

    def __post_init__(self):
        require(self, "peak", self.peak > 0, "a number above 0")
        require(self, "warmup_steps", self.warmup_steps >= 0, "a number of steps of at least 0")
        require(self, "final", 0 <= self.final <= self.peak, f"a number from 0 to the peak ({self.peak})")
        if self.total_steps is not None:
            longer = f"more steps than warmup_steps ({self.warmup_steps}), or shorten the warm-up"
            require(self, "total_steps", self.total_steps > self.warmup_steps, longer)

    def __call__(self, step: Step) -> Rate:
        require(self, "total_steps", self.total_steps is not None, "the step at which the decay ends")
        step = _as_float(step)
        progress = (step - self.warmup_steps) / (self.total_steps - self.warmup_steps)
        decayed = self.final + (self.peak - self.final) * self._left(jnp.clip(progress, 0.0, 1.0))
        return jnp.where(step < self.warmup_steps, self.peak * _warmup(step, self.warmup_steps), decayed)

    def _left(self, progress: Rate) -> Rate:
        """The share of the way from `final` up to `peak` that is left when `progress` of the decay is over."""
        raise NotImplementedError


class Linear(_Decay):
    """A rise from 0 to `peak` in `warmup_steps`, then a straight line down to `final` at `total_steps`."""

    def _left(self, progress: Rate) -> Rate:
        return 1.0 - progress


class Cosine(_Decay):
    """A rise from 0 to `peak` in `warmup_steps`, then half a cosine down to `final` at `total_steps`.

    Loshchilov & Hutter 2017 (SGDR), without restarts.
    """

    def _left(self, progress: Rate) -> Rate:
        return 0.5 * (1.0 + jnp.cos(jnp.pi * progress))


Schedule = Rsqrt | Constant | Linear | Cosine


def resolve(schedule: Schedule, total_steps: int) -> Schedule:
    """Fills in the run's length where the schedule leaves it open (`total_steps=None`).

    Raises:
        UserError: the run is not longer than the warm-up.
    """
    if isinstance(schedule, _Decay) and schedule.total_steps is None:
        return dataclasses.replace(schedule, total_steps=total_steps)
    return schedule


def _as_float(step: Step) -> Rate:
    return jnp.asarray(step, jnp.float32)


def _warmup(step: Rate, warmup_steps: int) -> Rate:
    """The share of the full rate at `step`."""
    return jnp.minimum(1.0, step / warmup_steps) if warmup_steps else jnp.ones_like(step)
