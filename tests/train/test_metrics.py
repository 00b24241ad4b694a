"""Metrics against figures worked by hand; the files as a killed and resumed run leaves them."""

import json
import math
import subprocess
import sys
import types

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from tensorboard_events import events

from t5x_mini.train import metrics
from t5x_mini.train.metrics import Clock, MetricWriter, read_metrics

# Two rows of 5 decoder and 8 encoder positions; 6 tokens carry loss, 4 of them are predicted. What is minimised is not
# the sum over tokens, as when sequences are averaged.
SUMS = {
    "loss": 12.0,
    "objective": 9.0,
    "z_loss": 1.5,
    "correct": 4.0,
    "weights": 6.0,
    "normalizer": 3.0,
    "target_tokens": 10.0,
    "nonpadding_tokens": 13.0,
    "all_tokens": 26.0,
    "seqs": 2.0,
    "grad_norm": 0.25,
    "param_norm": 50.0,
    "learning_rate": 0.01,
}


def test_a_step_under_t5x_names():
    found = metrics.step_metrics(SUMS, seconds=0.5, flops=8e12, device_count=4, peak_flops=10e12)
    assert found == pytest.approx(
        {
            "accuracy": 4 / 6,
            "loss": 3.0,
            "loss_per_nonpadding_target_token": 2.0,
            "loss_per_all_target_tokens": 1.2,
            "z_loss": 0.5,
            "z_loss_per_all_target_tokens": 0.15,
            "cross_ent_loss": 3.5,
            "cross_ent_loss_per_all_target_tokens": 1.05,
            "non_padding_fraction/loss_weights": 0.6,
            "non_padding_fraction/overall": 0.5,
            "padding_fraction": 0.5,
            "learning_rate": 0.01,
            "grad_norm": 0.25,
            "param_norm": 50.0,
            "timing/seconds": 0.5,
            "timing/steps_per_second": 2.0,
            "timing/seqs": 2.0,
            "timing/seqs_per_second": 4.0,
            "timing/seqs_per_second_per_core": 1.0,
            "timing/target_tokens_per_second": 20.0,
            "timing/target_tokens_per_second_per_core": 5.0,
            "timing/tokens_per_second": 26.0,
            "timing/tokens_per_second_per_core": 6.5,
            "model_tflops_per_second": 16.0,
            "model_tflops_per_second_per_core": 4.0,
            "mfu": 0.4,
        }
    )


def test_no_mfu_where_the_peak_is_unknown():
    found = metrics.step_metrics(SUMS, seconds=0.5, flops=8e12, device_count=4, peak_flops=None)
    assert "mfu" not in found and found["model_tflops_per_second"] == 16.0


def test_evaluation_needs_only_the_sums_of_the_loss():
    names = ("loss", "objective", "z_loss", "correct", "weights", "normalizer", "target_tokens")
    found = metrics.loss_metrics({name: SUMS[name] for name in names})
    assert found["accuracy"] == pytest.approx(4 / 6) and found["cross_ent_loss"] == 3.5


def test_a_batch_without_loss_is_nan_and_not_a_crash():
    found = metrics.loss_metrics({**SUMS, "objective": 0.0, "weights": 0.0, "normalizer": 0.0})
    assert math.isnan(found["loss"]) and math.isnan(found["accuracy"])
    assert found["non_padding_fraction/loss_weights"] == 0.0


class Hands:
    """A clock's time, moved by hand."""

    def __init__(self):
        self.time = 100.0

    def __call__(self):
        return self.time


def test_clock_adds_up_each_cause():
    hands = Hands()
    clock = Clock(now=hands)
    for seconds in (2.0, 3.0):
        with clock.lost("checkpoints"):
            hands.time += seconds
        hands.time += 10.0
    with clock.lost("data"):
        hands.time += 0.5
    assert clock.report() == {
        "time_lost/data": 0.5,
        "time_lost/checkpoints": 5.0,
        "time_lost/evaluation": 0.0,
        "time_lost/compilation": 0.0,
    }


def test_clock_counts_nested_time_once():
    hands = Hands()
    clock = Clock(now=hands)
    with clock.lost("evaluation"):
        hands.time += 1.0
        with clock.lost("compilation"):
            hands.time += 10.0
            assert clock.report()["time_lost/compilation"] == 10.0
        hands.time += 2.0
    assert clock.report()["time_lost/evaluation"] == 3.0
    assert clock.report()["time_lost/compilation"] == 10.0


def test_clock_counts_a_block_that_failed():
    hands = Hands()
    clock = Clock(now=hands)
    with pytest.raises(OSError), clock.lost("checkpoints"):
        hands.time += 4.0
        raise OSError
    hands.time += 1.0
    assert clock.report()["time_lost/checkpoints"] == 4.0


def test_a_lap_leaves_pauses_out_and_waiting_for_data_in():
    hands = Hands()
    clock = Clock(now=hands)
    with clock.lost("compilation"):
        hands.time += 30.0
    hands.time += 1.0
    with clock.lost("data"):
        hands.time += 0.5
    assert clock.lap() == 1.5
    with clock.lost("evaluation"):
        hands.time += 7.0
    hands.time += 2.0
    assert clock.lap() == 2.0


def test_clock_refuses_a_cause_it_does_not_report():
    with pytest.raises(ValueError, match="'lunch'.*data, checkpoints"), Clock().lost("lunch"):
        pass


@pytest.fixture(autouse=True)
def no_wandb_asked_for(monkeypatch):
    for name in ("WANDB_PROJECT", "WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)


def write_steps(directory, steps, resume_step=None, shift=0.0):
    with MetricWriter(directory, resume_step) as writer:
        for step in steps:
            writer.write(step, {"loss": step + shift})


def test_rows_are_on_disk_when_write_returns(tmp_path):
    writer = MetricWriter(tmp_path)
    writer.write(1, {"loss": np.float32(2.5), "timing/seconds": 0.5})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "loss": 2.5, "timing/seconds": 0.5}\n'
    writer.write(1, {"eval/c4/loss": 3.0})
    assert read_metrics(tmp_path / "metrics.jsonl")[1] == {"step": 1, "eval/c4/loss": 3.0}
    writer.close()


def test_what_is_not_finite_is_valid_json_and_comes_back(tmp_path):
    with MetricWriter(tmp_path) as writer:
        writer.write(7, {"loss": math.nan, "grad_norm": math.inf, "low": -math.inf})
    text = (tmp_path / "metrics.jsonl").read_text()

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    assert json.loads(text, parse_constant=refuse) == {
        "step": 7,
        "loss": "NaN",
        "grad_norm": "Infinity",
        "low": "-Infinity",
    }
    (row,) = read_metrics(tmp_path / "metrics.jsonl")
    assert math.isnan(row["loss"]) and (row["grad_norm"], row["low"]) == (math.inf, -math.inf)


def test_a_resumed_run_leaves_each_step_once(tmp_path):
    write_steps(tmp_path, range(1, 8))
    write_steps(tmp_path, range(5, 10), resume_step=4, shift=0.5)
    losses = [(row["step"], row["loss"]) for row in read_metrics(tmp_path / "metrics.jsonl")]
    assert losses == [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5.5), (6, 6.5), (7, 7.5), (8, 8.5), (9, 9.5)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "tensorboard"]


def test_resuming_keeps_what_was_not_finite(tmp_path):
    with MetricWriter(tmp_path) as writer:
        writer.write(1, {"loss": math.inf})
    write_steps(tmp_path, [2], resume_step=1)
    assert [row["loss"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [math.inf, 2.0]


@pytest.mark.parametrize("rest", [b'{"step": 4, "lo', b'{"step": 3, "loss": 9', b"\0\0\0", b"\xff"])
def test_a_line_cut_short_by_a_kill_is_dropped(tmp_path, rest):
    write_steps(tmp_path, range(1, 4))
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + rest)
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3]
    write_steps(tmp_path, [4], resume_step=3)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3, 4]


def test_a_run_that_starts_afresh_keeps_nothing(tmp_path):
    write_steps(tmp_path, range(0, 4))
    write_steps(tmp_path, [0])
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [0]


def test_tensorboard_has_the_values_and_forgets_repeated_steps(tmp_path):
    with MetricWriter(tmp_path) as writer:
        writer.write(1, {"loss": 3.0, "timing/seconds": 0.5})
        writer.write(2, {"loss": math.nan})
        seen = {(e.step, v.tag): v.simple_value for e in events(tmp_path / "tensorboard") for v in e.summary.value}
    assert seen[1, "loss"] == 3.0 and seen[1, "timing/seconds"] == 0.5 and math.isnan(seen[2, "loss"])
    MetricWriter(tmp_path, resume_step=1).close()
    starts = [e.step for e in events(tmp_path / "tensorboard") if e.HasField("session_log")]
    assert starts[-1] == 2  # TensorBoard drops what was written before for steps >= 2


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    Figure(figsize=(1, 1)).savefig(path)
    return path


def test_texts_and_pictures_go_to_tensorboard_alone(tmp_path, picture):
    with MetricWriter(tmp_path / "run") as writer:
        writer.text("config.gin", "# a run", 5)
        writer.image("masks", picture, 5)
        writer.write(6, {"loss": 1.0})
    values = [(e.step, v) for e in events(tmp_path / "run" / "tensorboard") for v in e.summary.value]
    assert [(step, value.tag) for step, value in values] == [(5, "config.gin"), (5, "masks"), (6, "loss")]
    assert values[0][1].tensor.string_val[0] == b"# a run"
    assert values[1][1].image.encoded_image_string == picture.read_bytes()
    assert read_metrics(tmp_path / "run" / "metrics.jsonl") == [{"step": 6, "loss": 1.0}]


def test_the_writer_does_without_tensorflow():
    code = "import sys, t5x_mini.train.metrics; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class FakeWandb(types.ModuleType):
    def __init__(self):
        super().__init__("wandb")
        self.started, self.logged, self.finished = [], [], 0

    def init(self, **arguments):
        self.started.append(arguments)
        return self

    def log(self, values, step):
        self.logged.append((step, values))

    def Html(self, page):
        return ("html", page)

    def Image(self, picture):
        return ("image", picture.tobytes())

    def finish(self):
        self.finished += 1


@pytest.fixture
def wandb(monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


@pytest.mark.parametrize("name", ["WANDB_PROJECT", "WANDB_API_KEY", "WANDB_MODE"])
def test_wandb_is_used_when_the_environment_asks(tmp_path, monkeypatch, wandb, name):
    monkeypatch.setenv(name, "offline")
    write_steps(tmp_path, [1, 2])
    assert wandb.logged == [(1, {"loss": 1.0}), (2, {"loss": 2.0})]
    assert wandb.finished == 1


def test_wandb_goes_on_with_the_same_run_and_starts_afresh_with_another(tmp_path, monkeypatch, wandb):
    monkeypatch.setenv("WANDB_PROJECT", "t5")
    write_steps(tmp_path, [1, 2])
    write_steps(tmp_path, [2], resume_step=1)
    write_steps(tmp_path, [1])
    ids = [arguments["id"] for arguments in wandb.started]
    assert ids[0] == ids[1] != ids[2]
    assert {arguments["resume"] for arguments in wandb.started} == {"allow"}


def test_wandb_gets_texts_and_pictures(tmp_path, monkeypatch, wandb, picture):
    monkeypatch.setenv("WANDB_PROJECT", "t5")
    with MetricWriter(tmp_path) as writer:
        writer.text("examples/cola", "a < b &#124; c", 3)
        writer.image("masks", picture, 4)
    assert wandb.logged == [
        (3, {"examples/cola": ("html", "<pre>a &lt; b &#124; c</pre>")}),
        (4, {"masks": ("image", Image.open(picture).tobytes())}),
    ]


@pytest.mark.parametrize("environment", [{}, {"WANDB_MODE": "disabled", "WANDB_PROJECT": "t5"}])
def test_wandb_is_left_alone_otherwise(tmp_path, monkeypatch, wandb, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    write_steps(tmp_path, [1])
    assert wandb.started == []


def test_wandb_asked_for_but_missing_is_said(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_PROJECT", "t5")
    monkeypatch.setitem(sys.modules, "wandb", None)
    write_steps(tmp_path, [1])
    assert "pip install 't5x_mini[wandb]'" in caplog.text
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1
