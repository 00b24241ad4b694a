"""What is decided and written down; whole runs that are rolled back are in test_diverging_runs.py."""

import itertools

import pytest

from t5x_mini.errors import UserError
from t5x_mini.train import roll_back
from t5x_mini.train.divergence import Diverged
from t5x_mini.train.roll_back import RollBack


def decided(folder, step, steps, most=10):
    return roll_back.decide(folder, Diverged(step, f"The loss of step {step} is nan"), steps, most)


def test_a_run_goes_back_to_its_newest_checkpoint_and_leaves_out_the_batches_up_to_the_step(tmp_path):
    record = decided(tmp_path, 130, [50, 100])
    assert record == RollBack(100, 130, 30, "The loss of step 130 is nan")
    assert str(record) == ("The loss of step 130 is nan: back to step 100, and on without the 30 batches behind it")
    assert roll_back.read(tmp_path) == [record]
    assert roll_back.left_out([record]) == {100: 30}


def test_the_second_time_it_leaves_out_what_it_left_out_and_more(tmp_path):
    decided(tmp_path, 130, [50, 100])
    assert decided(tmp_path, 110, [50, 100]).batches == 40
    assert roll_back.left_out(roll_back.read(tmp_path)) == {100: 40}


def test_a_checkpoint_that_led_to_the_same_end_twice_is_passed_over(tmp_path):
    assert [decided(tmp_path, 130, [50, 100]).to for _ in range(2)] == [100, 100]
    record = decided(tmp_path, 130, [50, 100])
    assert (record.to, record.batches) == (50, 80)
    # What was left out behind a checkpoint that is given up itself has no meaning any more.
    assert roll_back.left_out(roll_back.read(tmp_path)) == {50: 80}


def test_where_there_is_no_checkpoint_it_begins_again(tmp_path):
    assert [decided(tmp_path, 7, [0]).batches for _ in range(3)] == [7, 14, 21]


def test_a_run_that_gets_no_further_stops(tmp_path):
    for _ in range(3):
        decided(tmp_path, 130, [100], most=3)
    with pytest.raises(
        UserError, match=r"loss of step 130 is nan, after 3 roll-backs \(MAX_SKIPS\) that got the run no"
    ):
        decided(tmp_path, 130, [100], most=3)
    assert len(roll_back.read(tmp_path)) == 3
    assert decided(tmp_path, 260, [100, 200], most=3).to == 200  # behind a later checkpoint it counts anew


def test_a_step_that_was_overcome_does_not_count_against_a_later_one(tmp_path):
    for step, steps in ((130, [100]), (230, [100, 200]), (330, [200, 300]), (430, [300, 400])):
        assert decided(tmp_path, step, steps, most=1).to == steps[-1]


def test_the_batches_that_a_run_left_out_before_one_of_its_steps(tmp_path):
    assert roll_back.batches_before(tmp_path, 1000) == 0
    decided(tmp_path, 130, [100])
    decided(tmp_path, 260, [200])
    assert [roll_back.batches_before(tmp_path, step) for step in (100, 101, 200, 201)] == [0, 30, 30, 90]
    assert roll_back.batches_before(tmp_path, 201, since=200) == 60


def test_a_feed_is_read_on_behind_the_step_that_was_gone_back_to(tmp_path, capsys):
    decided(tmp_path, 130, [100])
    feed = itertools.count()
    roll_back.leave_out(feed, tmp_path, 50)
    assert next(feed) == 0 and capsys.readouterr().out == ""
    roll_back.leave_out(feed, tmp_path, 100)
    assert next(feed) == 31
    assert capsys.readouterr().out == "leaving out 30 batches behind step 100, as rollbacks.jsonl says\n"


@pytest.mark.parametrize(
    "text",
    [
        "[",
        "3",
        '{"to": 1}',
        '{"to": "a", "step": 1, "batches": 1, "why": ""}',
        '{"to": 1, "step": 2, "batches": -1, "why": ""}',
    ],
)
def test_a_damaged_file_is_named(tmp_path, text):
    (tmp_path / roll_back.FILE).write_text(text + "\n")
    with pytest.raises(UserError, match="rollbacks.jsonl is damaged .*restore it, or choose a new folder"):
        roll_back.read(tmp_path)
