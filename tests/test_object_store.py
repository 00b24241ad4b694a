"""Whole runs whose folder is in a bucket, on a server that speaks Google Cloud Storage's API."""

import json
import re

import fake_servers
import pytest
import tiny_runs

from t5x_mini.checkpoint.steps import best_step, steps_of
from t5x_mini.storage import to_path

BUCKET = "runs-of-tests"
RUN = f"gs://{BUCKET}/tiny"
MACROS = {"EVAL_PERIOD": 10, "BEST_METRIC": "loss", "CHECKPOINTS_TO_KEEP": 1}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    with tiny_runs.tiny(tmp_path_factory.mktemp("corpus")) as made:
        yield made


@pytest.fixture(scope="module")
def bucket():
    """`{path: bytes}` of what is in the bucket; paths begin with its name."""
    files = {}
    with pytest.MonkeyPatch.context() as patch, fake_servers.serving(files) as (address, _):
        patch.setenv("TENSORSTORE_GCS_HTTP_URL", address)
        yield files


@pytest.fixture(scope="module")
def runs(tiny, bucket, tmp_path_factory):
    """The same run here, in one go, and in the bucket, interrupted after step 10."""
    here = tmp_path_factory.mktemp("run")
    for folder, steps in ((RUN, 10), (RUN, 20), (str(here), 20)):
        done = tiny.run("train", MODEL_DIR=folder, TRAIN_STEPS=steps, **MACROS)
        assert done.code == 0, done.err
    return here, to_path(RUN)


def files_of(run):
    """Names of what a run has written besides its checkpoints, without times and hosts."""
    found = {str(path.relative_to(run)) for pattern in ("*", "*/*") for path in run.glob(pattern) if path.is_file()}
    return {re.sub(r"tfevents\..*", "tfevents", name) for name in found if not name.startswith("checkpoints/")}


def test_a_run_in_a_bucket_leaves_what_one_here_does(runs):
    here, there = runs
    assert files_of(there) == files_of(here)
    assert {"metrics.jsonl", "config.gin", "loss.png", "masks.png", "tensorboard/events.out.tfevents"} < files_of(there)
    found, wanted = (tiny_runs.without_times(tiny_runs.training_rows(run)) for run in (there, here))
    assert found == wanted
    assert [row["step"] for row in found] == list(range(1, 21))
    assert (there / "loss.png").read_bytes()[:4] == b"\x89PNG"


def test_checkpoints_in_a_bucket_are_those_of_a_run_here(runs):
    here, there = runs
    assert steps_of(there) == steps_of(here) == [20]
    assert best_step(there / "checkpoints") == best_step(here / "checkpoints") == 20


def test_a_save_that_was_interrupted_is_no_checkpoint(runs, bucket):
    bucket[f"{BUCKET}/tiny/checkpoints/30/state/manifest.ocdbt"] = b"half"
    assert steps_of(RUN) == [20]


def test_commands_read_a_run_in_a_bucket(tiny, runs, tmp_path):
    page = tmp_path / "report.html"
    assert tiny_runs.run(["report", RUN, f"--output={page}"]).code == 0
    assert "data:image/png;base64," in page.read_text() and RUN in page.read_text()

    measured = tiny.run("eval", MODEL_DIR=RUN, EVAL_CHECKPOINTS="best")
    assert measured.code == 0, measured.err
    assert f"written to {RUN}/eval/validation-20.json" in measured.out
    assert json.loads((to_path(RUN) / "eval/validation-20.json").read_text())["step"] == 20

    (tmp_path / "inputs.txt").write_text("one\ntwo\nthree\n")
    answered = tiny.run("infer", MODEL_DIR=RUN, INFER_INPUT=str(tmp_path / "inputs.txt"))
    assert answered.code == 0, answered.err
    lines = (to_path(RUN) / "infer/inputs-20.jsonl").read_text().splitlines()
    assert [json.loads(line)["inputs"] for line in lines] == ["one", "two", "three"]
    assert not list((to_path(RUN) / "infer").glob("*.partial"))


def test_a_run_starts_from_a_checkpoint_in_a_bucket(tiny, runs, tmp_path):
    started = tiny.run(
        "train", MODEL_DIR=str(tmp_path), INITIAL_CHECKPOINT_PATH=RUN, TRAIN_STEPS_RELATIVE=1, TRAIN_STEPS=None
    )
    assert started.code == 0, started.err
    assert steps_of(tmp_path) == [21]


def test_a_dry_run_asks_no_bucket(tiny):
    shown = tiny.run("train", "--dry_run", MODEL_DIR="gs://not-asked/x")
    assert shown.code == 0 and "would train to step 30 in gs://not-asked/x" in shown.out
