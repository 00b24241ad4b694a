"""Steps of a run that JAX's profiler traces: that they are, that no number changes by it, and what is refused."""

import gzip
import json

import jax
import numpy as np
import pytest
import tiny_runs

from t5x_mini.errors import UserError
from t5x_mini.train.profiler import Profiler


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    with tiny_runs.tiny(tmp_path_factory.mktemp("tiny")) as runs:
        yield runs


def traced_steps(folder):
    """The numbers of the steps in the trace that the folder holds, and how often each is."""
    (trace,) = folder.glob("plugins/profile/*/perfetto_trace.json.gz")
    assert list(trace.parent.glob("*.xplane.pb"))
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    return sorted(
        int(event["args"]["step_num"]) for event in events if event.get("name") == "train" and "args" in event
    )


@pytest.mark.slow
def test_a_run_with_traced_steps_has_the_same_numbers(runs, tmp_path):
    settings = {"TRAIN_STEPS": 6, "CHECKPOINT_PERIOD": 3}
    plain = runs.run("train", MODEL_DIR=str(tmp_path / "plain"), **settings)
    traced = runs.run("train", "--profile_steps=3,4", MODEL_DIR=str(tmp_path / "traced"), **settings)
    assert (plain.code, traced.code) == (0, 0), plain.err + traced.err
    folder = tmp_path / "traced" / "profile" / "steps_3_to_4"
    assert traced_steps(folder) == [3, 4]
    assert f"traced steps: {folder}. Look at them with TensorBoard" in traced.out
    rows = [tiny_runs.without_times(tiny_runs.training_rows(tmp_path / name)) for name in ("plain", "traced")]
    assert rows[0] == rows[1] and len(rows[0]) == 6

    # The command of a run that was killed goes on, and leaves the trace alone; another one's steps are over.
    longer = settings | {"TRAIN_STEPS": 8, "MODEL_DIR": str(tmp_path / "traced")}
    refused = runs.run("train", "--profile_steps=5,6", **longer)
    assert refused.code == 1
    assert (
        "--profile_steps=5,6: the run goes on from step 6, and these are done. Write steps from 7 to 8" in refused.err
    )
    assert runs.run("train", "--profile_steps=3,4", **longer).code == 0
    assert traced_steps(folder) == [3, 4]


def test_steps_behind_the_end_are_refused_before_anything_is_written(runs, tmp_path):
    refused = runs.run("train", "--profile_steps=29,31", MODEL_DIR=str(tmp_path / "run"))
    assert refused.code == 1
    assert "--profile_steps=29,31: the run ends with step 30. Write steps up to that one." in refused.err
    assert not (tmp_path / "run").exists()


def a_step(number):
    return jax.numpy.float32(number) + 1


def test_what_a_failing_step_leaves_open_is_closed_and_kept(tmp_path):
    with pytest.raises(ZeroDivisionError), Profiler((1, 9), tmp_path, 9) as profiler:
        profiler.before(1, a_step(0))
        raise ZeroDivisionError
    assert traced_steps(tmp_path / "profile" / "steps_1_to_9") == [1]
    profiler.before(8, a_step(8))  # it went back, and comes by once more
    profiler.after(8, a_step(9))
    with profiler:
        profiler.before(9, a_step(9))
        profiler.after(9, a_step(10))
    assert len(list(tmp_path.glob("profile/*/plugins/profile/*/*.xplane.pb"))) > 0


def test_a_run_that_goes_on_in_the_middle_traces_the_rest(tmp_path):
    with Profiler((2, 4), tmp_path, 9) as profiler:
        profiler.go_on_from(2)
        for step in (3, 4, 5):
            profiler.before(step, a_step(step))
            profiler.after(step, a_step(step))
    assert traced_steps(tmp_path / "profile" / "steps_2_to_4") == [3, 4]


def test_steps_that_were_done_before_are_refused_unless_they_were_traced(tmp_path):
    profiler = Profiler((5, 6), tmp_path, 9)
    with pytest.raises(UserError, match="--profile_steps=5,6: .* goes on from step 6, .* Write steps from 7 to 9, or"):
        profiler.go_on_from(6)
    (tmp_path / "profile" / "steps_5_to_6").mkdir(parents=True)
    profiler.go_on_from(6)  # the command of a run that was killed later


def test_a_trace_that_cannot_be_written_ends_no_run(tmp_path, capsys):
    (tmp_path / "profile").write_text("a file where the folder belongs")
    with Profiler((1, 1), tmp_path, 9) as profiler:
        profiler.before(1, a_step(0))
        profiler.after(1, a_step(1))
    assert "warning: the trace can't be written" in capsys.readouterr().out


def test_without_steps_nothing_is_traced(tmp_path):
    with Profiler(None, tmp_path, 9) as profiler:
        profiler.go_on_from(3)
        profiler.before(4, np.zeros(1))
        profiler.after(4, np.zeros(1))
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="ends with step 9"):
        Profiler((10, 10), tmp_path, 9)
