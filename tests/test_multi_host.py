"""`t5x-mini train` in several processes: resumed on any number of them, told to stop, and one of them killed."""

import signal
import time

import pytest
from processes import command_line

from t5x_mini import cli
from t5x_mini.train.metrics import read_metrics

GIN = """
include 'gin/models/t5_1_1/tiny.gin'
include 'gin/hardware/cpu.gin'

TransformerConfig.emb_dim = 16
TransformerConfig.head_dim = 8
TransformerConfig.mlp_dim = 32
TransformerConfig.num_encoder_layers = 1
TransformerConfig.num_decoder_layers = 1
VOCABULARY = 'bytes'
TASK_FEATURE_LENGTHS = {{'inputs': 24, 'targets': 24}}
SHUFFLE_TRAIN_EXAMPLES = False
MIXTURE_OR_TASK_NAME = 'pairs'
pairs/TextToTextTask.files = {{'train': '{folder}/train.jsonl'}}
DATA_FEED = 'tokens'
TOKENS_DIR = '{folder}/tokens'
BATCH_SIZE = 8
CHECKPOINT_PERIOD = 3
EVAL_PERIOD = 0
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pairs that are read without a random number, so that both feeds give batches that any hosts can share."""
    folder = tmp_path_factory.mktemp("multi_host")
    rows = [f'{{"inputs": "number {n}", "targets": "{n} {n * n}"}}' for n in range(1024)]
    (folder / "train.jsonl").write_text("\n".join(rows))
    (folder / "run.gin").write_text(GIN.format(folder=folder))
    arguments = ["tokenize", f"--gin_file={folder / 'run.gin'}", "--task=pairs", "--workers=1"]
    assert cli.main(arguments) == 0
    return folder


def start(folder, run, life, count, devices, *arguments, **macros):
    """A life of a run; ends at step 6 if not told otherwise."""
    macros = {"TRAIN_STEPS": 6, "MODEL_DIR": str(folder / run), **macros}
    bindings = [f"--gin.{name}={value!r}" for name, value in macros.items()]
    words = ["train", f"--gin_file={folder / 'run.gin'}", *arguments, *bindings]
    return command_line(folder, f"{run}-{life}", words, count, devices)


def finish(*arguments, **named):
    with start(*arguments, **named) as processes:
        return processes.succeed()


def losses(folder, run):
    return {row["step"]: row["loss"] for row in read_metrics(folder / run / "metrics.jsonl") if "loss" in row}


def newest(folder, run):
    steps = [int(path.name) for path in (folder / run / "checkpoints").glob("*") if path.name.isdigit()]
    return max(steps, default=0)


def has_step(folder, run, step):
    metrics = folder / run / "metrics.jsonl"
    return metrics.exists() and bool(newest(folder, run)) and max(losses(folder, run), default=0) >= step


@pytest.mark.slow
def test_checkpoints_of_two_processes_go_on_in_one_and_in_four(folder):
    finish(folder, "alone", "only", 1, 1)
    expected = losses(folder, "alone")
    for count in (1, 4):
        run = f"two_then_{count}"
        printed = finish(folder, run, "first", 2, 2, "--gin.MESH_FSDP=-1", "--gin.MESH_DATA=1", TRAIN_STEPS=3)
        assert "4 device(s) (cpu) of 2 processes: data 1 x fsdp 4 x model 1" in printed[0]
        assert "device(s)" not in printed[1]  # the first one alone says what happens
        assert "resuming from step 3" in finish(folder, run, "second", count, 2)[0]
        assert losses(folder, run) == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("partitioning", ["mesh", "pmap"])
def test_two_processes_read_seqio_and_train_as_one(folder, partitioning):
    settings = dict(DATA_FEED="seqio", PARTITIONING=partitioning, TRAIN_STEPS=4)
    for count in (1, 2):
        finish(folder, f"{partitioning}_{count}", "only", count, 2, **settings)
    expected = losses(folder, f"{partitioning}_1")
    assert len(expected) == 4
    assert losses(folder, f"{partitioning}_2") == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_sigterm_on_one_process_saves_on_all_and_the_run_goes_on(folder, count):
    run = f"terminated_{count}"
    with start(folder, run, "first", count, 2, TRAIN_STEPS=10**6, CHECKPOINT_PERIOD=20) as processes:
        processes.wait_until(lambda: has_step(folder, run, 25))
        processes.processes[-1].send_signal(signal.SIGTERM)
        assert processes.wait(60) == [143] * count
        for printed in processes.printed():
            assert "t5x-mini: SIGTERM: stopped after step" in printed
            assert "Traceback" not in printed
    stopped = newest(folder, run)
    assert stopped == max(losses(folder, run))  # not one step is lost
    assert f"resuming from step {stopped}" in finish(folder, run, "second", count, 2, TRAIN_STEPS=stopped + 2)[0]
    assert sorted(losses(folder, run)) == list(range(1, stopped + 3))


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_when_one_is_killed_the_other_stops_and_the_run_goes_on(folder, victim):
    run = f"killed_{victim}"
    with start(folder, run, "first", 2, 2, TRAIN_STEPS=10**6, CHECKPOINT_PERIOD=5) as processes:
        processes.wait_until(lambda: has_step(folder, run, 12))
        processes.processes[victim].kill()
        began = time.monotonic()
        codes = processes.wait(60)  # a minute is what is promised
        assert codes[victim] == -signal.SIGKILL and codes[1 - victim] in (1, -signal.SIGABRT), codes
        assert time.monotonic() - began < 60
        printed = processes.printed()[1 - victim]
        assert "another process that failed first" in printed or "another task died" in printed, printed
    resumed = newest(folder, run)
    assert f"resuming from step {resumed}" in finish(folder, run, "second", 2, 2, TRAIN_STEPS=resumed + 2)[0]
    assert newest(folder, run) == resumed + 2
