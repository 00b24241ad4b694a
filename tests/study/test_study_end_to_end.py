"""`t5x-mini study` as a person runs it: two cells, killed and gone on with, and what it leaves."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = pathlib.Path(__file__).parents[2]
STUDY = """include 'gin/studies/tiny_world.gin'
Study.title = "Masks"
Study.axes = {'mask': {'prefix': ("ARCHITECTURE=prefix_lm",), 'causal': ("ARCHITECTURE=causal_lm",)}}
Study.seeds = 1
Study.reference = {'prefix': {'GLUE': 81.82}, 'causal': {'GLUE': 74.7}}
Study.reference_name = "the paper"
"""
OPTIONS = (
    "--pretraining=TRAIN_STEPS=6 --pretraining=Cosine.warmup_steps=1 --pretraining=BATCH_SIZE=8 "
    "--pretraining=TransformerConfig.emb_dim=16 --pretraining=EVAL_STEPS=1 --finetuning=TRAIN_STEPS_RELATIVE=2 "
    "--finetuning=Cosine.warmup_steps=0 --finetuning=BATCH_SIZE=8 --finetuning=EVAL_LIMIT=8 --output=study"
).split()


@pytest.fixture
def start(tmp_path):
    (tmp_path / "masks.gin").write_text(STUDY)
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled")}

    def begin(*options):
        command = [sys.executable, "-m", "t5x_mini", "study", "masks.gin", *OPTIONS, *options]
        environment = os.environ | cache | {"PYTHONPATH": str(ROOT)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, cwd=tmp_path, env=environment, **pipes)

    return begin


def test_a_study_is_made_killed_gone_on_with_and_read(start, tmp_path):
    process = start("--jobs=2")
    marks = tmp_path / "study"
    deadline = time.monotonic() + 400
    while not list(marks.glob("*/seed0/pretraining/metrics.jsonl")):
        assert process.poll() is None and time.monotonic() < deadline, process.stdout.read()
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    assert "Go on with the same command" in process.stdout.read()

    process = start()
    out = process.communicate(timeout=900)[0]
    assert process.returncode == 0, out
    assert "2 of 2 finished" in out and "masks" not in out.splitlines()[0]
    found = json.loads((marks / "results.json").read_text())
    assert [outcome["cell"] for outcome in found["outcomes"]] == ["prefix", "causal"]
    assert {"glue_cola_v002", "glue_sst2_v002"} == set(found["outcomes"][0]["scores"]) == set(found["chance"])
    page = (marks / "study.html").read_text()
    assert "74.70" in page and page.count("data:image/png;base64,") == 2
    assert "one seed" not in page and "| mask | parameters |" in (marks / "table.md").read_text()

    began = time.time()
    again = start()
    out = again.communicate(timeout=300)[0]
    assert again.returncode == 0 and "2 of 2 are finished already" in out
    assert (marks / "prefix" / "seed0" / "pretraining" / "metrics.jsonl").stat().st_mtime < began, "made again"

    other = start("--pretraining=BATCH_SIZE=4")
    out = other.communicate(timeout=300)[0]
    assert other.returncode == 1 and "was begun with other settings" in out and "FeedConfig.batch_size: 8 then" in out
