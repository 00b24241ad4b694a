"""The bar and the lines, read from the stream they are written to."""

import io

from t5x_mini.train.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Hands:
    """A clock that a test moves by hand."""

    time = 0.0

    def __call__(self):
        return self.time


def lines_of_a_run(total, first, seconds_a_step, compile_seconds=0.0):
    stream, hands = io.StringIO(), Hands()
    with Progress(total, first, stream=stream, now=hands) as progress:
        hands.time += compile_seconds
        for step in range(first + 1, total + 1):
            hands.time += seconds_a_step
            progress.update(step, 4.56789, 12_345.0)
    return stream.getvalue().splitlines()


def test_a_log_file_gets_a_line_every_twentieth_of_the_run():
    lines = lines_of_a_run(total=1000, first=0, seconds_a_step=0.01)
    steps = [int(line.split("/")[0].removeprefix("step ")) for line in lines]
    assert steps == [1, *range(51, 1000, 50), 1000]
    assert lines[10] == "step 501/1000 (50%), loss 4.568, 12.3k tokens/s, 00:04 left"


def test_a_slow_run_gets_a_line_every_ten_seconds():
    lines = lines_of_a_run(total=1000, first=0, seconds_a_step=5.0)
    assert [line.split("/")[0] for line in lines[:4]] == ["step 1", "step 3", "step 5", "step 7"]


def test_remaining_time_leaves_compilation_out():
    first, *_, middle, last = lines_of_a_run(total=3, first=0, seconds_a_step=60.0, compile_seconds=3600.0)
    assert first.endswith("? left") and middle.endswith("01:00 left") and last.endswith("00:00 left")


def test_a_resumed_run_counts_on_from_its_checkpoint():
    lines = lines_of_a_run(total=120, first=100, seconds_a_step=1.0)
    assert lines[0].startswith("step 101/120 (84%)") and lines[-1].startswith("step 120/120 (100%)")
    assert lines[10].endswith("00:09 left")


def test_plain_lines_have_no_control_characters():
    assert all(line.isprintable() for line in lines_of_a_run(total=50, first=0, seconds_a_step=1.0))


def test_a_terminal_gets_a_bar():
    stream = Terminal()
    with Progress(200, 50, stream=stream) as progress:
        progress.update(51, 4.56789, 12_345.0)
        progress.update(200, 3.0, 999.0)
    states = stream.getvalue().split("\r")
    assert "step 50/200" in states[1]
    assert "100% |" in states[-1] and "step 200/200, loss 3.000, 999 tokens/s, 00:00 left" in states[-1]


def test_a_note_is_a_line_of_its_own():
    for stream in (Terminal(), io.StringIO()):
        with Progress(10, stream=stream) as progress:
            progress.update(1, 4.0, 10.0)
            progress.note("held-out loss 4.2")
            progress.update(10, 3.0, 10.0)
        assert "held-out loss 4.2" in stream.getvalue().replace("\r", "\n").splitlines()


def test_a_run_with_nothing_left_prints_nothing():
    stream = io.StringIO()
    Progress(10, 10, stream=stream).close()
    assert stream.getvalue() == ""
