"""Learning rates at the steps where something changes."""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_mini.errors import UserError
from t5x_mini.train import schedules
from t5x_mini.train.schedules import Constant, Cosine, Linear, Rsqrt

GOLDEN = Path(__file__).parents[1] / "golden" / "adafactor_6_steps.npz"

LINEAR = Linear(peak=2.0, warmup_steps=10, total_steps=110, final=1.0)
COSINE = Cosine(peak=2.0, warmup_steps=10, total_steps=110, final=1.0)


def test_rsqrt_is_t5x_golden():
    ours = jax.vmap(Rsqrt(warmup_steps=4))(jnp.arange(20))
    np.testing.assert_allclose(ours, np.load(GOLDEN)["lr"], rtol=1e-7)


@pytest.mark.parametrize(
    "schedule, step, rate",
    [
        (Rsqrt(), 0, 0.01),
        (Rsqrt(), 10_000, 0.01),
        (Rsqrt(), 20_000, 0.01 / math.sqrt(2)),
        (Rsqrt(), 1_000_000, 0.001),
        (Rsqrt(base=0.5), 1_000_000, 0.0005),
        (Constant(), 0, 0.001),
        (Constant(), 10**6, 0.001),
        (Constant(learning_rate=0.1, warmup_steps=10), 0, 0.0),
        (Constant(learning_rate=0.1, warmup_steps=10), 9, 0.09),
        (Constant(learning_rate=0.1, warmup_steps=10), 10, 0.1),
        (Linear(peak=1.0, warmup_steps=0, total_steps=4), 0, 1.0),
        (Cosine(peak=1.0, warmup_steps=0, total_steps=4), 0, 1.0),
        *[
            (schedule, step, rate)
            for schedule in (LINEAR, COSINE)
            for step, rate in ((0, 0), (5, 1), (10, 2), (60, 1.5))
        ],
        *[(schedule, step, 1.0) for schedule in (LINEAR, COSINE) for step in (110, 200)],
        (LINEAR, 35, 1.75),
        (COSINE, 35, 1.5 + 0.5 * math.cos(math.pi / 4)),
    ],
)
def test_rate_at_step(schedule, step, rate):
    assert float(schedule(step)) == pytest.approx(rate, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("schedule", [Rsqrt(warmup_steps=5), Constant(warmup_steps=5), LINEAR, COSINE])
def test_traced_steps_give_float32_scalars(schedule):
    jitted = jax.jit(schedule)
    for step in (0, 3, 7, 50):
        rate = jitted(jnp.int32(step))
        assert rate.dtype == jnp.float32 and rate.shape == ()
        np.testing.assert_allclose(rate, schedule(step), rtol=1e-6)


def test_resolve_fills_in_the_length_of_the_run():
    assert schedules.resolve(Linear(peak=1.0, warmup_steps=2), 12) == Linear(peak=1.0, warmup_steps=2, total_steps=12)
    assert schedules.resolve(COSINE, 500) == COSINE
    assert schedules.resolve(Rsqrt(), 500) == Rsqrt()


def test_length_left_open_is_refused():
    with pytest.raises(UserError, match=r"Linear.total_steps is None: write the step at which the decay ends"):
        Linear(peak=1.0)(3)


def test_run_shorter_than_its_warmup_is_refused():
    words = r"Cosine.total_steps is 100: write more steps than warmup_steps \(10000\), or shorten the warm-up"
    with pytest.raises(UserError, match=words):
        schedules.resolve(Cosine(peak=1.0), 100)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Rsqrt(base=0.0), "Rsqrt.base is 0.0: write a number above 0"),
        (lambda: Rsqrt(warmup_steps=0), "Rsqrt.warmup_steps is 0: write a number of steps of at least 1"),
        (lambda: Constant(learning_rate=-1.0), "Constant.learning_rate is -1.0: write a number above 0"),
        (lambda: Constant(warmup_steps=-1), "Constant.warmup_steps is -1: write a number of steps of at least 0"),
        (lambda: Linear(peak=math.nan), "Linear.peak is nan: write a number above 0"),
        (lambda: Cosine(peak=1.0, warmup_steps=-1), "Cosine.warmup_steps is -1: write a number of steps of at least 0"),
        (lambda: Cosine(peak=1.0, final=2.0), r"Cosine.final is 2.0: write a number from 0 to the peak \(1.0\)"),
    ],
)
def test_value_out_of_range_is_refused(make, words):
    with pytest.raises(UserError, match=words):
        make()
