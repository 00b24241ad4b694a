"""Runs side by side in the terminal: from folders written here, whose numbers are known."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys

import made_up_runs
import numpy as np
import pytest
import tiny_runs

from t5x_mini.report import compare, table
from t5x_mini.report.differences import Difference
from t5x_mini.report.run_data import read_runs
from t5x_mini.report.table import Row
from t5x_mini.terminal import Style
from t5x_mini.train.metrics import LOSS

PLAIN, COLOUR = Style(False), Style(True)
_GIN = {"MODEL_DIR": "'x'", "TRAIN_STEPS": 100, "VOCABULARY": "'docs_8k'", "MIXTURE_OR_TASK_NAME": "'docs'"}


@pytest.fixture
def write(tmp_path):
    """Writes a run's folder; returns its path."""

    def write(name, *, losses, held_out=None, scores=None, best=None, speed=1000.0, parameters=1234, **bindings):
        folder = tmp_path / name
        folder.mkdir()
        rows = [
            {"step": step, LOSS: loss, "timing/tokens_per_second": speed, "timing/seconds": 0.5, "time_lost/data": 1.0}
            for step, loss in losses.items()
        ]
        rows += [{"step": step, f"eval/docs/{LOSS}": loss} for step, loss in (held_out or {}).items()]
        rows += [
            {"step": step, **{f"inference_eval/{key}": value for key, value in row.items()}}
            for step, row in (scores or {}).items()
        ]
        lines = [json.dumps({k: str(v).replace("nan", "NaN") if v != v else v for k, v in row.items()}) for row in rows]
        (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
        gin = {**_GIN, "MODEL_DIR": repr(name), **bindings}
        (folder / "config.gin").write_text("".join(f"{key} = {value}\n" for key, value in gin.items()))
        (folder / "model-info.txt").write_text(f"total: {parameters:,} parameters, 1.0 MiB\n")
        if best is not None:
            made_up_runs.write_best(folder, best, "average", 1.0)
        return str(folder)

    return write


def falling(last, steps=100):
    return {step: last + 5 * math.exp(-step / 20) for step in range(1, steps + 1)}


def printed(*folders, style=PLAIN, width=120):
    return "\n".join(compare.lines(read_runs(list(folders)), style, width))


def cells(text, label):
    """The cells of the line that begins with the label."""
    (line,) = re.findall(rf"^  {re.escape(label)} {{2,}}(.*)$", text, re.M)
    return re.split(r" {3,}", line.strip())


def test_only_what_differs_is_shown_of_the_configuration(write):
    text = printed(
        write("one", losses={}, BATCH_SIZE=16, EXTRA_IDS=100), write("two", losses={}, BATCH_SIZE=32, EXTRA_IDS=100)
    )
    block = text.partition("what differs in the configuration")[2].partition("\n\n")[0]
    assert block.split() == ["one", "two", "BATCH_SIZE", "16", "32"]
    assert "MODEL_DIR" not in text and "EXTRA_IDS" not in text


def test_runs_of_one_configuration_say_so(write):
    assert "The configurations are the same." in printed(write("one", losses={}), write("two", losses={}))


def test_losses_stand_side_by_side_with_what_is_more_and_the_better_one_marked(write):
    text = printed(
        write("one", losses=falling(4.0), held_out={50: 4.5, 100: 4.625}),
        write("two", losses=falling(3.5), held_out={50: 4.0, 100: 3.75}),
        write("three", losses=falling(4.25), held_out={50: 4.75, 100: math.nan}),
    )
    ends = [last + np.mean([5 * math.exp(-step / 20) for step in range(91, 101)]) for last in (4.0, 3.5, 4.25)]
    expected = [f"{ends[0]:.3f}", f"{ends[1]:.3f} (-0.500)*", f"{ends[2]:.3f} (+0.250)"]
    assert cells(text, "at its last step") == expected
    assert cells(text, "docs, last") == ["4.625", "3.750 (-0.875)*", "nan"]
    assert cells(text, "docs, lowest") == ["4.500", "3.750 (-0.750)*", "4.750 (+0.250)"]
    assert cells(text, "  at step") == ["50", "100", "50"]
    assert cells(text, "steps") == ["100", "100", "100"] and cells(text, "parameters") == ["1,234"] * 3
    assert "in brackets: against one" in text


def test_a_run_that_has_not_come_as_far_is_compared_where_both_have_been(write):
    text = printed(write("one", losses=falling(4.0)), write("two", losses=falling(4.0, steps=60)))
    assert cells(text, "steps") == ["100", "60 of 100"]
    (common,) = {cell.rstrip("*") for cell in cells(text, "at step 60")[:1]}
    assert cells(text, "at step 60") == [common, f"{common} (+0.000)"]
    assert cells(text, "at its last step")[0].endswith("*")
    assert "loss in training, steps 1 to 60" in text


def test_scores_are_those_of_the_last_and_of_the_best_step(write):
    def scored(cola, average):
        return {"cola/matthews_corrcoef": cola, "average": average}

    text = printed(
        write("one", losses={}, scores={50: scored(30.0, 70.0), 100: scored(20.0, 60.0)}, best=50),
        write("two", losses={}, scores={50: scored(10.0, 50.0), 100: scored(20.0, 65.0)}),  # the highest average
    )
    last, best = text.partition("scores at the best evaluation")[::2]
    assert cells(last, "cola matthews_corrcoef") == ["20.00", "20.00 (+0.00)"]
    assert cells(last, "average") == ["60.00", "65.00 (+5.00)*"]
    assert cells(best, "step") == ["50", "100"]
    assert cells(best, "cola matthews_corrcoef") == ["30.00*", "20.00 (-10.00)"]
    assert cells(best, "average") == ["70.00*", "65.00 (-5.00)"]


def test_speed_is_the_median_and_time_is_told(write):
    losses = dict.fromkeys(range(1, 101), 1.0)
    text = printed(write("one", losses=losses, speed=1000.0), write("two", losses=losses, speed=1500.0))
    assert cells(text, "tokens a second, median") == ["1,000", "1,500 (x 1.50)*"]
    assert cells(text, "in steps") == ["49.0 s", "49.0 s"] and cells(text, "lost to data") == ["1.0 s", "1.0 s"]


@pytest.mark.parametrize(
    ("seconds", "words"), [(3.25, "3.2 s"), (59.97, "60.0 s"), (61, "1 min 01 s"), (7322, "2 h 02 min")]
)
def test_durations(seconds, words):
    assert compare._duration(seconds) == words


# --- what can't be compared ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bindings", "why"),
    [
        ({"VOCABULARY": "'bytes'"}, "VOCABULARY"),
        ({"OBJECTIVE": "@PrefixLM()"}, "OBJECTIVE"),
        ({"SpanCorruption.mean_span": 5.0}, "SpanCorruption.mean_span"),
        ({"LABEL_SMOOTHING": 0.1}, "LABEL_SMOOTHING"),
    ],
)
def test_losses_of_other_tokens_or_objectives_are_not_compared(write, bindings, why):
    text = printed(
        write("one", losses=falling(4.0), held_out={100: 4.0}),
        write("two", losses=falling(3.0), held_out={100: 3.0}, **bindings),
    )
    assert f"Losses can't be compared: they are of other tokens, or of another objective ({why})." in text
    assert cells(text, "docs, last") == ["4.000", "3.000"]
    assert "*" not in cells(text, "at its last step")[1]


def test_losses_in_training_on_other_data_are_not_compared_but_held_out_ones_are(write):
    text = printed(
        write("one", losses=falling(4.0), held_out={100: 4.0}),
        write("two", losses=falling(3.0), held_out={100: 3.0}, MIXTURE_OR_TASK_NAME="'more'"),
    )
    assert "Losses in training can't be compared: they are of other data (MIXTURE_OR_TASK_NAME)." in text
    assert cells(text, "docs, last") == ["4.000", "3.000 (-1.000)*"]
    assert not any("*" in cell for cell in cells(text, "at its last step"))


def test_a_long_reason_is_broken_to_the_width(write):
    text = printed(write("one", losses={}), write("two", losses={}, MIXTURE_OR_TASK_NAME="'more'"), width=60)
    (words,) = re.findall(r"^Losses in training(?:.+\n)+", text, re.M)
    assert "(MIXTURE_OR_TASK_NAME). Held-out losses" in " ".join(words.split())
    assert max(map(len, words.splitlines())) <= 60


def test_a_task_that_one_run_alone_defines_is_no_reason():
    mine = Difference("mine/PretrainingTask.field", (None, "'text'"))
    assert compare.incomparable([mine]) == ([], [])
    both = Difference("mine/PretrainingTask.field", ("'body'", "'text'"))
    assert compare.incomparable([both, Difference("BATCH_SIZE", ("1", "2"))])[0] == ["mine/PretrainingTask.field"]


# --- shape -----------------------------------------------------------------------------------------------------------


def test_a_loss_is_smoothed_over_the_last_steps():
    series = [(step, float(step)) for step in range(1, 401)]
    assert compare.smoothed(series, 400) == np.mean(range(381, 401))
    assert compare.smoothed(series, 100) == np.mean(range(91, 101))
    assert compare.smoothed([*series, (401, math.nan)], 401) == np.mean(range(382, 401))
    assert math.isnan(compare.smoothed([(1, math.nan)], 5)) and compare.smoothed([], 5) is None


def test_curves_have_one_scale_and_the_steps_that_all_have(write):
    text = printed(
        write("one", losses={}, held_out={25: 9.0, 50: 5.0, 75: 4.0, 100: 2.0}),
        write("two", losses={}, held_out={50: 4.0, 100: 3.0, 150: 1.0}),
    )
    assert "held-out loss of docs, steps 50 to 100" in text
    assert re.findall(r"^  (one|two)  (\S+)  (.*)$", text, re.M) == [
        ("one", "█▁", "5.000 to 2.000"),
        ("two", "▆▃", "4.000 to 3.000"),
    ]


def test_long_curves_fit_the_width(write):
    folders = write("one", losses=falling(4.0, 3000)), write("a_longer_name", losses=falling(3.0, 3000))
    for width in (60, 80, 120):
        lines = printed(*folders, width=width).splitlines()
        drawn = [re.fullmatch(r"  (\S+) +([▁▂▃▄▅▆▇█]+)  .*", line) for line in lines if re.search("[▁▂▃▄▅▆▇█]", line)]
        assert [line[1] for line in drawn] == ["one", "a_longer_name"]
        assert drawn[0].start(2) == drawn[1].start(2) and len(drawn[0][2]) == len(drawn[1][2]) > 10
        assert max(len(line[0]) for line in drawn) <= width


def test_what_is_too_wide_for_columns_stands_below_one_another(write):
    long = repr({"inputs": 512, "targets": 114})
    folders = (
        write("one", losses=falling(4.0), TASK_FEATURE_LENGTHS=long),
        write("two", losses=falling(3.0), TASK_FEATURE_LENGTHS=repr({"inputs": 512, "targets": 120})),
    )
    assert cells(printed(*folders), "TASK_FEATURE_LENGTHS")[0] == long
    narrow = printed(*folders, width=60)
    assert f"  TASK_FEATURE_LENGTHS\n    one  {long}\n    two  " in narrow
    assert max(map(len, narrow.splitlines()[2:])) <= 60  # below the paths, which can't be broken


def test_on_a_terminal_the_better_one_is_bold_and_columns_stay_in_line(write):
    folders = write("one", losses=falling(4.0)), write("two", losses=falling(3.0))
    coloured = printed(*folders, style=COLOUR)
    assert re.search(r"\x1b\[1m\d\.\d{3} \(-1\.000\)\x1b\[0m", coloured)
    bare = re.sub(r"\x1b\[\d+m", "", coloured)
    without_marks = printed(*folders).replace("*: ", "bold: ").replace("*", "")
    assert [line.split() for line in bare.splitlines()] == [line.split() for line in without_marks.splitlines()]
    assert "\x1b" not in printed(*folders)


def test_headings_stand_between_rows():
    lines = table.table("title", [Row("a", ("1", "2"), 1), Row("more"), Row("b", ("333", "4"))], ["x", "y"], PLAIN, 80)
    assert lines == ["title   x     y", "  a     1     2*", "", "more", "  b     333   4"]


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_runs_that_have_measured_nothing_yet(write, tmp_path):
    text = printed(write("one", losses=falling(4.0)), write("two", losses={}))
    assert cells(text, "at its last step")[1] == "-" and cells(text, "steps") == ["100", "0 of 100"]
    (tmp_path / "two" / "config.gin").unlink()
    assert "two has no config.gin: how it was configured isn't known" in printed(*map(str, tmp_path.glob("*")))


def test_the_command_says_what_is_wrong(write, tmp_path):
    one, two = write("one", losses={}), write("two", losses={})
    (tmp_path / "empty").mkdir()
    for runs, words in (
        ([], "Write two runs or more: t5x-mini compare runs/one runs/another"),
        ([one], "Compare it with what?"),
        ([one, one], "is given twice"),
        ([one, str(tmp_path / "tow")], f"There is no folder {tmp_path / 'tow'}; did you mean {two}?"),
        ([one, str(tmp_path / "empty")], "is not a run: it has neither metrics.jsonl nor config.gin"),
    ):
        finished = tiny_runs.run(["compare", *runs])
        assert finished.code == 1 and words in finished.err, finished.err
    assert "The configurations are the same." in tiny_runs.run(["compare", one, two]).out


def test_neither_jax_nor_tensorflow_is_needed(write):
    program = (
        "import sys; from t5x_mini.report.compare import compare; compare(sys.argv[1:]); "
        "assert not {'jax', 'tensorflow'} & set(sys.modules)"
    )
    folders = write("one", losses=falling(4.0)), write("two", losses=falling(3.0))
    subprocess.run([sys.executable, "-c", program, *folders], check=True, capture_output=True)
