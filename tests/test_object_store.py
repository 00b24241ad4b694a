"""Whole runs, every file in a bucket, on a server that speaks Google Cloud Storage's API, and without TensorFlow."""

import contextlib
import json
import re
import subprocess
import sys
import time

import fake_servers
import pytest
import tiny_runs
from processes import free_port

from t5x_mini.checkpoint.steps import best_step, steps_of
from t5x_mini.report.status import read_status
from t5x_mini.storage import to_path

BUCKET = "runs-of-tests"
RUN = f"gs://{BUCKET}/tiny"
MACROS = {"EVAL_PERIOD": 10, "BEST_METRIC": "loss", "CHECKPOINTS_TO_KEEP": 1}

GIN = """
MIXTURE_OR_TASK_MODULE = None
MIXTURE_OR_TASK_NAME = 'sentences'
sentences/PretrainingTask.files = {{
    'train': '{home}/tiny_sentences_train.txt', 'validation': '{home}/tiny_sentences_validation.txt'
}}
VOCABULARY = '{home}/tiny.model'
DATA_FEED = 'tokens'
TOKENS_DIR = '{home}/tokens'
"""

# `t5x-mini`, several times in one process, where TensorFlow cannot be imported.
DRIVER = """
import json, sys
sys.modules["tensorflow"] = None
from t5x_mini import cli
for arguments in json.loads(sys.argv[1]):
    if code := cli.main(arguments):
        sys.exit(code)
print("imported:", [name for name in ("tensorflow", "seqio", "gcsfs") if sys.modules.get(name)])
"""


def no_fault(method, path):
    return None


faults = no_fault


@contextlib.contextmanager
def failing(status, folder):
    """All writes to the folder are refused, by the server's own word."""
    global faults
    faults = lambda method, path: status if method == "POST" and folder in path else None  # noqa: E731
    try:
        yield
    finally:
        faults = no_fault


class Store:
    """A bucket with text, vocabulary and tokens; a folder with the gin file to train on them."""

    def __init__(self, tiny, files):
        self.tiny, self.files = tiny, files
        (tiny.folder / "bucket.gin").write_text(GIN.format(home=f"gs://{BUCKET}/data"))
        for path in tiny.folder.glob("tiny*"):
            files[f"{BUCKET}/data/{path.name}"] = path.read_bytes()
        tokens = tiny.folder / "tokens"
        words = ["tokenize", f"--gin_file={tiny.folder / 'bucket.gin'}", "--task=sentences", "--workers=1"]
        done = tiny_runs.run([*words, f"--output={tokens}"])
        assert done.code == 0, done.err
        self.copy(tokens, "data/tokens")

    def copy(self, folder, name):
        """As `gcloud storage cp --recursive` does."""
        for path in folder.rglob("*"):
            if path.is_file():
                self.files[f"{BUCKET}/{name}/{path.relative_to(folder)}"] = path.read_bytes()

    def arguments(self, command, **macros):
        return self.tiny.arguments(command, f"--gin_file={self.tiny.folder / 'bucket.gin'}", **macros)

    def start(self, *commands, stderr=subprocess.PIPE, **settings):
        """The commands, in a process of their own that has its programs kept where they are by default."""
        kept = {name: text for name, text in self.tiny.environment().items() if name != "JAX_COMPILATION_CACHE_DIR"}
        command = [sys.executable, "-c", DRIVER, json.dumps(commands)]
        return subprocess.Popen(command, env=kept | settings, stdout=subprocess.PIPE, stderr=stderr, text=True)

    def finish(self, *commands):
        """The same; gives what they printed."""
        with self.start(*commands) as process:
            out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        return out


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    files, folder = {}, tmp_path_factory.mktemp("corpus")
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        address, _ = stack.enter_context(fake_servers.serving(files, fault=lambda *request: faults(*request)))
        patch.setenv("TENSORSTORE_GCS_HTTP_URL", address)
        patch.setenv("XDG_CACHE_HOME", str(folder))  # a vocabulary from a bucket is kept
        yield Store(stack.enter_context(tiny_runs.tiny(folder)), files)


@pytest.fixture(scope="module")
def run(store):
    """A run in the bucket, killed and resumed: its folder, its last step, and what the second process printed."""
    with store.start(store.arguments("train", MODEL_DIR=RUN, TRAIN_STEPS=10_000, **MACROS)) as first:
        limit = time.monotonic() + 240
        while not steps_of(RUN) and first.poll() is None and time.monotonic() < limit:
            time.sleep(0.02)
        first.kill()
        assert steps_of(RUN), first.stderr.read()
    steps = steps_of(RUN)[-1] + 10
    return to_path(RUN), steps, store.finish(store.arguments("train", MODEL_DIR=RUN, TRAIN_STEPS=steps, **MACROS))


def without_hosts(folder):
    """Names of what a run has written besides checkpoints and programs."""
    found = {str(path.relative_to(folder)) for pattern in ("*", "*/*") for path in folder.glob(pattern)}
    found = {name for name in found if (folder / name).is_file() and not name.startswith("compilation_cache/")}
    return {re.sub(r"tfevents\..*", "tfevents", name) for name in found}


def test_a_killed_run_goes_on_in_the_bucket_and_leaves_there_what_one_here_leaves(run):
    folder, steps, printed = run
    assert f"resuming from step {steps - 10} in {RUN}" in printed
    assert [row["step"] for row in tiny_runs.training_rows(folder)] == list(range(1, steps + 1))
    pictures = {"loss.png", "masks.png"}
    written = {"metrics.jsonl", "config.gin", "model-info.txt", "complete.json", "tensorboard/events.out.tfevents"}
    assert written | pictures | {"log.jsonl"} <= without_hosts(folder) and not (folder / "run.lock").exists()
    status = read_status(RUN)
    assert (status.state, status.step, status.restarts) == ("complete", steps, 1)
    assert status.goodput.spent["steps"] > 0
    assert all((folder / name).read_bytes()[:4] == b"\x89PNG" for name in pictures)
    assert json.loads((folder / "complete.json").read_text()) == {"step": steps, "total_steps": steps}
    assert steps_of(folder)[-1] == steps and best_step(folder / "checkpoints") in steps_of(folder)


def test_nothing_imports_tensorflow_and_programs_are_kept_in_the_bucket(run):
    folder, _, printed = run
    assert printed.endswith("imported: []\n")
    assert any((folder / "compilation_cache").iterdir())


@pytest.mark.slow
def test_commands_read_and_write_in_a_bucket(run, store, tmp_path):
    folder, steps, _ = run
    (tmp_path / "inputs.txt").write_text("one\ntwo\nthree\n")
    printed = store.finish(
        store.arguments("eval", MODEL_DIR=RUN, EVAL_CHECKPOINTS="best"),
        store.arguments("infer", MODEL_DIR=RUN, INFER_INPUT=str(tmp_path / "inputs.txt")),
        store.arguments("train", MODEL_DIR=f"{RUN}_more", INITIAL_CHECKPOINT_PATH=RUN, TRAIN_STEPS=steps + 1),
        ["report", RUN, f"{RUN}_more", f"--output={RUN}/report.html"],
        ["compare", RUN, f"{RUN}_more"],
    )
    assert printed.endswith("imported: []\n")
    best = best_step(folder / "checkpoints")
    assert f"written to {RUN}/eval/validation-{best}.json" in printed
    assert json.loads((folder / f"eval/validation-{best}.json").read_text())["step"] == best
    lines = (folder / f"infer/inputs-{steps}.jsonl").read_text().splitlines()
    assert [json.loads(line)["inputs"] for line in lines] == ["one", "two", "three"]
    assert not list((folder / "infer").glob("*.partial"))
    assert steps_of(f"{RUN}_more") == [steps + 1]
    assert "data:image/png;base64," in (folder / "report.html").read_text()


@pytest.mark.slow
def test_two_processes_train_in_a_bucket_and_go_on_in_a_copy_of_it(store):
    """A copy as it is made from a disk where an older Orbax wrote: no file says that a checkpoint is complete."""
    folder = f"gs://{BUCKET}/two"
    for steps in (10, 20):
        words = store.arguments("train", MODEL_DIR=folder, TRAIN_STEPS=steps, **MACROS)
        words += [f"--coordinator=localhost:{free_port()}", "--num_processes=2"]
        devices = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
        started = [store.start([*words, f"--process_id={k}"], **devices) for k in range(2)]
        for process in started:
            _, err = process.communicate(timeout=300)
            assert process.returncode == 0, err
        assert steps_of(folder) == [steps]
        for name in [name for name in store.files if re.search("/two/.*/commit_success.txt$", name)]:
            del store.files[name]
    assert [row["step"] for row in tiny_runs.training_rows(to_path(folder))] == list(range(1, 21))


@pytest.mark.damage("A bucket that takes nothing for a while, or is out of reach, costs no step and no row.")
@pytest.mark.parametrize("status", [403, pytest.param(503, marks=pytest.mark.slow)])
def test_a_bucket_that_refuses_writes_for_a_while_costs_nothing(store, tmp_path, status):
    """403 is what a lost permission and a spent quota look like; 503, TensorStore itself tries again for a while."""
    folder, steps = f"gs://{BUCKET}/refused{status}", 60
    arguments = store.arguments("train", MODEL_DIR=folder, TRAIN_STEPS=steps, EVAL_PERIOD=10, CHECKPOINTS_TO_KEEP=3)
    printed, limit = tmp_path / "printed", time.monotonic() + 240
    with printed.open("w") as output, store.start(arguments, stderr=output) as process:
        while not steps_of(folder) and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.02)
        safe = steps_of(folder)[-1]
        with failing(status, f"name=refused{status}/"):
            while ": the save failed, 1 of" not in printed.read_text() and process.poll() is None:
                assert time.monotonic() < limit, printed.read_text()
                time.sleep(0.05)
        assert process.wait(timeout=240) == 0, printed.read_text()
    assert [row["step"] for row in tiny_runs.training_rows(to_path(folder))] == list(range(1, steps + 1))
    assert steps_of(folder)[-1] == steps
    text = printed.read_text()
    assert f"Safe is the checkpoint of step {safe}" in text and "cannot be reached" in text
    assert "Traceback" not in text


def test_a_dry_run_asks_no_bucket(store):
    shown = store.tiny.run("train", "--dry_run", MODEL_DIR="gs://not-asked/x")
    assert shown.code == 0 and "would train to step 30 in gs://not-asked/x" in shown.out
