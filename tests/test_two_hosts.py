"""A run on tokens, killed at some step and resumed on two hosts in place of one, sees every window exactly once."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from processes import free_port

from t5x_mini import cli
from t5x_mini.train.metrics import read_metrics

ROOT = Path(__file__).parents[1]
WINDOW, BATCH, STEPS = 48, 8, 40  # bytes, windows, steps: one epoch

# Trains as `t5x-mini train` does, and writes down which windows each batch of this process holds.
DRIVER = """
import json, sys, time
import jax
log, index, count, port, *arguments = sys.argv[1:]
if int(count) > 1:
    jax.distributed.initialize(f"localhost:{port}", num_processes=int(count), process_id=int(index))
from t5x_mini import cli
from t5x_mini.feed.token_feed import TokenFeed
make_batch = TokenFeed.__next__

def recorded(feed):
    time.sleep(0.1)  # or a run would be over before it can be killed
    batch = make_batch(feed)
    k = feed.position().batches_after_snapshot - 1
    with open(log, "a") as file:
        file.write(json.dumps([k, batch["decoder_target_tokens"].tolist()]) + chr(10))
    return batch

TokenFeed.__next__ = recorded
code = cli.main(arguments)
imported = [name for name in ("tensorflow", "seqio", "tensorflow_datasets", "tensorflow_text") if name in sys.modules]
print("imported:", imported)
sys.exit(code)
"""

GIN = """
include 'gin/models/t5_1_1/tiny.gin'
include 'gin/architectures/causal_lm.gin'
include 'gin/hardware/cpu.gin'

TransformerConfig.emb_dim = 32
TransformerConfig.head_dim = 8
TransformerConfig.mlp_dim = 64
MIXTURE_OR_TASK_NAME = 'numbered'
numbered/PretrainingTask.files = {{'train': '{folder}/train.txt', 'validation': '{folder}/validation.txt'}}
VOCABULARY = 'bytes'
OBJECTIVE = @CausalLM()
TASK_FEATURE_LENGTHS = {{'targets': {length}}}
DATA_FEED = 'tokens'
TOKENS_DIR = '{folder}/tokens'
BATCH_SIZE = {batch}
TRAIN_STEPS = {steps}
CHECKPOINT_PERIOD = 5
EVAL_PERIOD = 0
EVAL_STEPS = 2
MODEL_DIR = '{folder}/run'
"""


@pytest.fixture
def folder(tmp_path):
    """Text whose every window is a line with its number; tokenised as a user does it."""
    for split, lines in (("train", BATCH * STEPS), ("validation", 20)):
        texts = [f"window {number:6d} of the text ".ljust(WINDOW, ".") for number in range(lines)]
        (tmp_path / f"{split}.txt").write_text("\n".join(texts))
    gin = GIN.format(folder=tmp_path, length=WINDOW + 1, batch=BATCH, steps=STEPS)
    (tmp_path / "run.gin").write_text(gin)
    (tmp_path / "driver.py").write_text(DRIVER)
    assert cli.main(["tokenize", f"--gin_file={tmp_path / 'run.gin'}", "--task=numbered", "--workers=1"]) == 0
    return tmp_path


def start(folder, life, index=0, count=1, port=0, devices=1, *arguments):
    settings = {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
        "PYTHONPATH": str(ROOT),
    }
    log = folder / f"{life}-{index}.jsonl"
    command = [sys.executable, folder / "driver.py", log, str(index), str(count), str(port)]
    command += ["train", f"--gin_file={folder / 'run.gin'}", *arguments]
    with open(folder / f"{life}-{index}.out", "w") as out:
        return subprocess.Popen(command, env={**os.environ, **settings}, cwd=folder, stdout=out, stderr=out)


def finish(folder, life, processes):
    """What the processes printed, once all have ended well."""
    try:
        codes = [process.wait(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    outputs = [(folder / f"{life}-{index}.out").read_text() for index in range(len(processes))]
    assert codes == [0] * len(processes), "\n".join(outputs)
    return outputs


def windows_of(folder, life, steps):
    """The numbers of the windows that one life of the run trained on in these steps, over all of its processes."""
    seen = []
    for log in sorted(folder.glob(f"{life}-*.jsonl")):
        for line in log.read_text().splitlines():
            k, rows = json.loads(line)
            if k in steps:
                seen += [int(bytes(id - 3 for id in row[:WINDOW]).split()[1]) for row in rows]
    return seen


def kill_after(process, folder, step):
    deadline = time.monotonic() + 240
    metrics = folder / "run" / "metrics.jsonl"
    while time.monotonic() < deadline and process.poll() is None:
        if metrics.exists() and checkpoints(folder) and any(row["step"] >= step for row in read_metrics(metrics)):
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, (folder / "first-0.out").read_text()


def checkpoints(folder):
    return sorted(int(path.name) for path in (folder / "run" / "checkpoints").glob("*") if path.name.isdigit())


@pytest.mark.slow
def test_killed_and_resumed_on_two_hosts_every_window_is_seen_exactly_once(folder):
    step = random.SystemRandom().randrange(6, STEPS - 8)
    first = start(folder, "first", 0, 1, 0, 2)
    kill_after(first, folder, step)
    resumed_from = checkpoints(folder)[-1]
    assert 0 < resumed_from < STEPS
    port = free_port()
    finish(folder, "second", [start(folder, "second", index, 2, port, 2) for index in range(2)])
    assert checkpoints(folder)[-1] == STEPS
    before = windows_of(folder, "first", range(resumed_from))
    after = windows_of(folder, "second", range(resumed_from, STEPS))
    assert len(before) == BATCH * resumed_from
    assert sorted(before + after) == list(range(BATCH * STEPS)), f"killed after step {step}"
    assert len(list(folder.glob("second-*.jsonl"))) == 2
    losses = [row["loss"] for row in read_metrics(folder / "run" / "metrics.jsonl")]
    assert np.isfinite(losses).all() and losses[-1] < losses[0]


@pytest.mark.slow
def test_a_run_on_tokens_imports_no_tensorflow(folder):
    arguments = ["--gin_file=gin/architectures/encoder_decoder.gin", "--gin.OBJECTIVE=@SpanCorruption()"]
    arguments += ["--gin.TASK_FEATURE_LENGTHS={'inputs': 44, 'targets': 11}", "--gin.TRAIN_STEPS=2"]
    arguments += ["--gin.EVAL_PERIOD=1", "--gin.CLOSING_REPORT=True"]
    (printed,) = finish(folder, "only", [start(folder, "only", 0, 1, 0, 1, *arguments)])
    assert "imported: []" in printed
    assert f"numbered: {BATCH * STEPS:,} windows of {WINDOW} tokens an epoch" in printed
    assert "a unigram model on the same positions" in printed
    assert any("eval/numbered/loss" in name for row in read_metrics(folder / "run" / "metrics.jsonl") for name in row)
