"""Tests of t5x_mini/report/goodput.py: every second of a made-up run is somewhere, and once."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5x_mini.report.goodput import CAUSES, goodput
from t5x_mini.train.run_log import to_time

T = 1_700_000_000.0


def event(name, at, step, restart=0, **more):
    return {"event": name, "time": to_time(T + at), "run": "a", "restart": restart, "step": step, **more}


def start(at, step, restart=0, began=None, **more):
    return event("start", at, step, restart, began=to_time(T + (at if began is None else began)), **more)


def spent(steps, **more):
    return {"steps": steps, "data": 0.0, "checkpoints": 0.0, "evaluation": 0.0, "compilation": 0.0, **more}


def found(*events, **more):
    result = goodput(events, **more)
    assert set(result.spent) == set(CAUSES)
    assert math.fsum(result.spent.values()) == pytest.approx(result.wall_s)
    return {name: round(seconds, 2) for name, seconds in result.spent.items() if abs(seconds) > 0.005}


def test_of_an_undisturbed_run():
    parts = spent(60.0, data=5.0, checkpoints=3.0, evaluation=2.0, compilation=20.0, start_up=8.0, other=2.0)
    events = start(10, 0, began=0), event("complete", 100, 50, spent=parts)
    expected = {**parts}
    assert found(*events) == expected
    assert goodput(events).fraction == pytest.approx(0.6)


def test_steps_that_were_lost_are_made_again_and_the_time_between_is_down():
    events = (
        start(10, 0, spent=None),
        event("checkpoint", 40, 20, spent=spent(30.0)),
        # Killed at step 30: the lock that it left says so.
        start(100, 20, 1, began=95, previous={"restart": 0, "step": 30, "spent": spent(50.0), "time": to_time(T + 60)}),
        event("complete", 145, 40, 1, spent=spent(40.0, start_up=5.0)),
    )
    # 10 to 60 and 95 to 145; the 10 steps behind the checkpoint took 20 s.
    assert found(*events) == {"steps": 70.0, "again": 20.0, "down": 35.0, "start_up": 5.0, "other": 5.0}


def test_without_a_checkpoint_at_that_step_its_share_is_taken():
    events = (
        start(0, 0),
        event("evaluation", 40, 40, spent=spent(40.0)),
        start(40, 10, 1),
        event("complete", 70, 40, 1, spent=spent(30.0)),
    )
    assert found(*events) == {"steps": 40.0, "again": 30.0}


def test_a_restart_from_before_the_last_one_costs_both_processes():
    events = (
        start(0, 0),
        event("stopped", 10, 10, spent=spent(10.0)),
        start(10, 10, 1),
        event("stopped", 20, 20, 1, spent=spent(10.0)),
        start(20, 5, 2),  # the two newest checkpoints were damaged
        event("complete", 35, 20, 2, spent=spent(15.0)),
    )
    assert found(*events) == {"steps": 20.0, "again": 15.0}


def test_a_stretch_without_a_step_that_was_lost_is_made_again():
    events = (
        start(10, 0),
        event("checkpoint", 40, 20, spent=spent(30.0)),
        event("evaluation", 41, 20, spent=spent(31.0)),
        start(60, 10, 1),
        event("complete", 80, 20, 1, spent=spent(20.0)),
    )
    assert found(*events)["again"] == 16.0


def test_of_a_roll_back():
    events = (
        start(0, 0),
        event("checkpoint", 10, 10, spent=spent(10.0)),
        event("rollback", 18, 10, spent=spent(18.0)),  # at step 18 the loss was not finite
        event("complete", 28, 20, spent=spent(28.0)),
    )
    assert found(*events) == {"steps": 20.0, "again": 8.0}


def test_of_a_run_that_is_going_on():
    note = {"restart": 0, "step": 30, "spent": spent(30.0, start_up=10.0)}
    assert found(start(0, 0), note=note, until=T + 40) == {"steps": 30.0, "start_up": 10.0}
    # In its first step, or before: all of it is the start.
    assert found(start(5, 0, began=0), note={"restart": 0, "step": 0}, until=T + 60) == {"start_up": 60.0}
    # A heartbeat of a process whose start never came into the log says nothing.
    events = start(0, 0), event("complete", 10, 10, spent=spent(10.0))
    assert found(*events, note={"restart": 1, "step": 99, "spent": spent(99.0)}, until=T + 99) == {"steps": 10.0}


def test_a_killed_start_counts_too():
    events = start(10, 0, began=0), start(100, 0, 1), event("complete", 150, 50, 1, spent=spent(50.0))
    assert found(*events) == {"start_up": 10.0, "down": 90.0, "steps": 50.0}


def test_nothing_was_timed():
    assert goodput([]) is None
    assert goodput([event("warning", 3, None)]) is None


_JUNK = st.sampled_from([None, True, -3, 0, 7, 50, -1.5, 0.5, 9.0, math.inf, math.nan, "", "12", {}, []])
_SPENT = st.one_of(_JUNK, st.dictionaries(st.sampled_from([*CAUSES, "x"]), _JUNK))
_NOTE = st.fixed_dictionaries(
    {}, optional={"restart": _JUNK, "step": _JUNK, "spent": _SPENT, "time": st.one_of(_JUNK, st.just(to_time(T + 9)))}
)
_LINE = st.fixed_dictionaries(
    {
        "event": st.sampled_from(["start", "checkpoint", "rollback", "complete", None]),
        "time": st.one_of(_JUNK, st.integers(0, 100).map(lambda at: to_time(T + at))),
    },
    optional={
        "restart": st.one_of(_JUNK, st.integers(0, 3)),
        "step": _JUNK,
        "spent": _SPENT,
        "began": st.one_of(_JUNK, st.just(to_time(T))),
        "previous": st.one_of(_JUNK, _NOTE),
    },
)


@settings(deadline=None)
@given(st.lists(_LINE, max_size=12), st.none() | _NOTE)
def test_whatever_a_log_says_the_seconds_add_up_and_none_is_negative(events, note):
    result = goodput(events, note, T + 50)
    if result is not None:
        assert min(result.spent.values()) >= -1e-6 and math.isfinite(result.wall_s)
        assert math.fsum(result.spent.values()) == pytest.approx(result.wall_s)
