"""However often it is interrupted, and wherever, the file of answers ends with each row once, in order."""

import itertools
import json
import random

import pytest

from t5x_mini.errors import UserError
from t5x_mini.evaluate.infer_output import Output

MADE_FROM = {"step": 30, "decoding": {"method": "greedy"}, "lengths": (8, 4)}
ROWS, BATCH = 23, 4
# A character that str.splitlines ends lines at, and half a one.
LINES = [{"inputs": f"row {number}\u2028\n\ud83d", "score": -0.5} for number in range(ROWS)]


def output(folder, host=0, hosts=1, made_from=MADE_FROM):
    return Output(folder / "made" / "answers.jsonl", made_from, ROWS, host, hosts)


def write_batch(one, first, host=0, hosts=1):
    share = BATCH // hosts
    rows = range(first + host * share, min(first + (host + 1) * share, ROWS))
    one.write((number, LINES[number]) for number in rows)


def write_all(folder, hosts=1, stop=ROWS):
    """What a command on so many hosts does, up to row `stop`, where it is killed."""
    own = [output(folder, host, hosts) for host in range(hosts)]
    done = own[0].prepare(BATCH)
    if done == ROWS:
        return done
    for one in own:
        one.open(done)
    for first in range(done, min(stop, ROWS), BATCH):
        for host, one in enumerate(own):
            write_batch(one, first, host, hosts)
    for one in own:
        one.close()
    if stop >= ROWS:
        own[0].finish()
    return done


@pytest.fixture
def whole(tmp_path):
    folder = tmp_path / "uninterrupted"
    write_all(folder)
    return (folder / "made" / "answers.jsonl").read_bytes()


def test_a_line_a_row_in_order(whole):
    assert [json.loads(line) for line in whole.rstrip(b"\n").split(b"\n")] == LINES


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_on_any_number_of_hosts_the_file_is_the_same(hosts, tmp_path, whole):
    write_all(tmp_path, hosts)
    assert (tmp_path / "made" / "answers.jsonl").read_bytes() == whole
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["answers.jsonl", "answers.jsonl.made_from"]


@pytest.mark.parametrize("seed", range(30))
def test_killed_again_and_again_on_changing_hosts(seed, tmp_path, whole):
    """Each life ends at some row with each file cut at some byte that the disk did not get."""
    rng = random.Random(seed)
    for stop in (9, 17, 30):
        write_all(tmp_path, rng.choice((1, 2, 4)), stop)
        if stop < ROWS:
            for path in (tmp_path / "made").glob("answers.jsonl.pa*"):
                data = path.read_bytes()
                path.write_bytes(data[: rng.randrange(len(data) // 2, len(data) + 1)])
    assert (tmp_path / "made" / "answers.jsonl").read_bytes() == whole


@pytest.mark.parametrize("cut", [0, 1, 40])
def test_goes_on_at_a_whole_batch(cut, tmp_path):
    write_all(tmp_path, stop=9)
    partial = tmp_path / "made" / "answers.jsonl.partial"
    partial.write_bytes(partial.read_bytes()[: partial.stat().st_size - cut])
    assert output(tmp_path).prepare(BATCH) == (12 if cut == 0 else 8)


def test_killed_while_parts_are_brought_in_order(tmp_path, whole):
    write_all(tmp_path, hosts=2, stop=9)
    parts = {path: path.read_bytes() for path in (tmp_path / "made").glob("answers.jsonl.part-*")}
    assert output(tmp_path).prepare(BATCH) == 12
    for path, data in parts.items():  # as if killed before they were removed
        path.write_bytes(data)
    assert write_all(tmp_path, hosts=4) == 12
    assert (tmp_path / "made" / "answers.jsonl").read_bytes() == whole


def test_killed_between_the_last_line_and_the_name(tmp_path, whole):
    one = output(tmp_path)
    one.open(one.prepare(BATCH))
    for first in range(0, ROWS, BATCH):
        write_batch(one, first)
    assert not (tmp_path / "made" / "answers.jsonl").exists()
    assert output(tmp_path).prepare(BATCH) == ROWS
    assert (tmp_path / "made" / "answers.jsonl").read_bytes() == whole


def test_a_complete_file_is_left_alone(tmp_path, whole):
    write_all(tmp_path)
    assert write_all(tmp_path) == ROWS
    assert (tmp_path / "made" / "answers.jsonl").read_bytes() == whole


@pytest.mark.parametrize("stop", [9, ROWS])
def test_something_else_is_refused(stop, tmp_path):
    write_all(tmp_path, stop=stop)
    changed = {**MADE_FROM, "decoding": {"method": "beam"}}
    with pytest.raises(UserError) as error:
        output(tmp_path, made_from=changed).prepare(BATCH)
    state = "is complete" if stop == ROWS else "has been begun"
    assert f"answers.jsonl {state}, from something else:\n    decoding.method: 'greedy' -> 'beam'\nGo" in str(
        error.value
    )
    assert "--gin.INFER_OUTPUT_DIR=another_folder" in str(error.value)


def test_settings_that_one_of_both_does_not_know_are_told(tmp_path):
    write_all(tmp_path, stop=9)
    with pytest.raises(UserError, match="else:\n    dtype: not noted -> 'float32'\n    lengths: .8, 4. -> not noted\n"):
        output(tmp_path, made_from={"step": 30, "decoding": {"method": "greedy"}, "dtype": "float32"}).prepare(BATCH)


def test_a_file_that_nothing_is_known_of_is_refused(tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "answers.jsonl").write_text("mine\n")
    with pytest.raises(UserError, match=r"what nothing says \(.*made_from is missing\)"):
        output(tmp_path).prepare(BATCH)
    assert (tmp_path / "made" / "answers.jsonl").read_text() == "mine\n"


def test_what_has_no_line_yet_may_become_something_else(tmp_path):
    write_all(tmp_path, stop=0)
    assert output(tmp_path, made_from={"step": 31}).prepare(BATCH) == 0


def test_two_commands_at_once_are_noticed(tmp_path):
    first, second = output(tmp_path), output(tmp_path)
    for one in (first, second):
        one.open(one.prepare(BATCH))
    for start, one in itertools.product(range(0, ROWS, BATCH), (first, second)):
        write_batch(one, start)
    with pytest.raises(UserError, match="46 lines for 23 rows: another command writes to it"):
        first.finish()
