"""`t5x-mini infer` on a run's own task and on files: every input once, in order, whatever happens on the way."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
import tiny_runs
from processes import free_port
from tiny_runs import TASKS

from t5x_mini.checkpoint import source
from t5x_mini.evaluate import infer as infer_module
from t5x_mini.evaluate import infer_output
from t5x_mini.model.config import TransformerConfig

ROOT = Path(__file__).parents[2]
WORDS = "the old captain watches a long river near the lake and a small child paints his new boat".split()

# `t5x-mini infer` as one of several processes.
DRIVER = """
import os, sys, time
import jax
index, count, port, *arguments = sys.argv[1:]
if int(count) > 1:
    jax.distributed.initialize(f"localhost:{port}", num_processes=int(count), process_id=int(index))
from t5x_mini import cli
code = cli.main(["infer", *arguments])
print("imported:", [name for name in ("tensorflow", "seqio") if name in sys.modules])
sys.exit(code)
"""


def sentence(number):
    rng = random.Random(number)
    return f"{number} " + " ".join(rng.choices(WORDS, k=rng.randrange(1, 9)))


def write_json_lines(path, count):
    lines = [{"inputs": sentence(number), "id": number} for number in range(count)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return lines


def read_json_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    with tiny_runs.tiny(tmp_path_factory.mktemp("tiny")) as tiny:
        yield tiny


@pytest.fixture(scope="module")
def run_dir(tiny):
    """A short run on a text-to-text task."""
    folder = tiny.folder / "run"
    for split, rows in (("train", 64), ("validation", 21)):
        pairs = "".join(f"{sentence(number)}\t{number % 7}\n" for number in range(rows))
        (tiny.folder / f"turns_{split}.tsv").write_text(f"side\tscore\n{pairs}")
    task = {
        "MODEL_DIR": str(folder),
        "MIXTURE_OR_TASK_MODULE": None,
        "MIXTURE_OR_TASK_NAME": "turns",
        "VOCABULARY": str(tiny.folder / "tiny.model"),
        "turns/TextToTextTask.files": {
            split: str(tiny.folder / f"turns_{split}.tsv") for split in ("train", "validation")
        },
        "turns/TextToTextTask.inputs": "side: {side}",
        "turns/TextToTextTask.targets": "{score}",
    }
    finished = tiny.run("train", TRAIN_STEPS=20, PACK=True, **task)
    assert finished.code == 0, finished.err
    return folder


def arguments(run_dir, output, *more, **macros):
    bindings = [f"--gin.{name}={value!r}" for name, value in {"INFER_OUTPUT_DIR": str(output), **macros}.items()]
    return [f"--gin_file={run_dir / 'config.gin'}", "--gin_file=gin/runs/infer.gin", *bindings, *more]


def infer(run_dir, output, *more, **macros):
    return tiny_runs.run(["infer", *arguments(run_dir, output, *more, **macros)])


def test_every_row_of_a_task_once_and_unpacked(run_dir, tmp_path):
    finished = infer(run_dir, tmp_path)
    assert finished.code == 0, finished.err
    path = tmp_path / "turns-validation-20.jsonl"
    assert finished.out == f"written to {path}\n"
    rows = read_json_lines(path)
    assert [list(row) for row in rows] == [["inputs", "prediction", "score", "targets"]] * 21
    assert [row["inputs"] for row in rows] == [f"side: {sentence(number)}" for number in range(21)]
    assert [row["targets"] for row in rows] == [str(number % 7) for number in range(21)]
    assert all(isinstance(row["prediction"], str) and row["score"] < 0 for row in rows)


def test_every_example_of_every_task_of_a_mixture(tiny, run_dir, tmp_path):
    macros = {"MODEL_DIR": str(tmp_path), "CHECKPOINT_PATH": str(run_dir / "checkpoints" / "20")}
    finished = tiny.run("infer", MIXTURE_OR_TASK_NAME=tiny_runs.MIXTURE, **macros)
    assert finished.code == 0, finished.err
    for task in TASKS:
        rows = read_json_lines(tmp_path / "infer" / f"{task}-validation-20.jsonl")
        # None of the rows that fill up the last batch; with their spans put back, the whole split is there.
        assert all(row["inputs"] and row["targets"] for row in rows)
        words = sum(len(row[name].split()) for row in rows for name in ("inputs", "targets"))
        assert words >= len((tiny.folder / f"{task}_validation.txt").read_text().split())


def test_a_file_of_json_lines_with_what_else_it_holds(run_dir, tmp_path):
    lines = write_json_lines(tmp_path / "questions.jsonl", 19)
    finished = infer(run_dir, tmp_path, INFER_INPUT=str(tmp_path / "questions.jsonl"), INFER_LIMIT=18)
    assert finished.code == 0, finished.err
    rows = read_json_lines(tmp_path / "questions-20.jsonl")
    assert [list(row) for row in rows] == [["inputs", "prediction", "score", "id"]] * 18
    assert [{"inputs": row["inputs"], "id": row["id"]} for row in rows] == lines[:18]


def test_answers_do_not_depend_on_the_batch(run_dir, tmp_path):
    (tmp_path / "questions.txt").write_text("\n".join(map(sentence, range(11))))
    found = []
    for rows in (16, 8):
        settings = {"BATCH_SIZE": rows, "INFER_INPUT": str(tmp_path / "questions.txt"), "DTYPE": "float32"}
        finished = infer(run_dir, tmp_path / str(rows), **settings)
        assert finished.code == 0, finished.err
        found.append(read_json_lines(tmp_path / str(rows) / "questions-20.jsonl"))
    for rows in found:
        assert [row["inputs"] for row in rows] == list(map(sentence, range(11)))
        assert [row["prediction"] for row in rows] == [row["prediction"] for row in found[0]]
        assert [row["score"] for row in rows] == pytest.approx([row["score"] for row in found[0]], rel=1e-4)


def test_several_decodes_are_lists_best_first(run_dir, tmp_path):
    finished = infer(
        run_dir, tmp_path, "--gin.DecodingConfig.method=beam", "--gin.DecodingConfig.num_decodes=2", INFER_LIMIT=3
    )
    assert finished.code == 0, finished.err
    for row in read_json_lines(tmp_path / "turns-validation-20.jsonl"):
        assert len(row["prediction"]) == len(row["score"]) == 2
        assert row["score"][0] >= row["score"][1]


def test_long_inputs_are_told(run_dir, tmp_path):
    (tmp_path / "questions.txt").write_text("\n".join(["short", "a river " * 50, "short", "a boat " * 60]))
    finished = infer(run_dir, tmp_path, INFER_INPUT=str(tmp_path / "questions.txt"))
    assert finished.code == 0, finished.err
    assert "questions: 2 of 4 inputs are longer than 64 tokens and are cut, the first at line 2; the" in finished.out
    assert len(read_json_lines(tmp_path / "questions-20.jsonl")) == 4


def test_interrupted_it_goes_on_where_it_was(run_dir, tmp_path, monkeypatch):
    write_json_lines(tmp_path / "questions.jsonl", 70)
    settings = {"INFER_INPUT": str(tmp_path / "questions.jsonl")}
    sampling = ("--gin.DecodingConfig.method=sample", "--gin.DecodingConfig.num_decodes=2")
    assert infer(run_dir, tmp_path / "whole", *sampling, **settings).code == 0
    write = infer_output.Output.write
    batches = []

    def write_three(output, lines):
        if len(batches) == 3:
            raise KeyboardInterrupt
        batches.append(lines)
        write(output, lines)

    with monkeypatch.context() as patch:
        patch.setattr(infer_output.Output, "write", write_three)
        assert infer(run_dir, tmp_path / "cut", *sampling, **settings).code == 130
    assert not (tmp_path / "cut" / "questions-20.jsonl").exists()
    with (tmp_path / "cut" / "questions-20.jsonl.partial").open("ab") as file:
        file.write(b'{"inputs": "half a li')
    finished = infer(run_dir, tmp_path / "cut", *sampling, **settings)
    assert finished.code == 0, finished.err
    assert "48/70" in finished.err
    names = ("whole", "cut")
    whole, cut = ((tmp_path / name / "questions-20.jsonl").read_bytes() for name in names)
    assert whole == cut


def test_options_of_another_method_are_refused(run_dir, tmp_path):
    finished = infer(run_dir, tmp_path, "--gin.DecodingConfig.num_decodes=4")
    assert finished.code == 1
    assert "num_decodes is 4, which the method 'greedy' doesn't read" in finished.err


def test_a_complete_file_is_not_made_again_and_no_other_put_in_its_place(run_dir, tmp_path):
    assert infer(run_dir, tmp_path, INFER_LIMIT=2).code == 0
    path = tmp_path / "turns-validation-20.jsonl"
    before = path.read_bytes()
    finished = infer(run_dir, tmp_path, INFER_LIMIT=2)
    assert (finished.code, finished.out) == (0, f"{path} is complete; to write it again, remove it: rm {path}*\n")
    finished = infer(run_dir, tmp_path, "--gin.DecodingConfig.method=beam", INFER_LIMIT=2)
    assert finished.code == 1
    assert f"{path} is complete, from something else:\n    decoding.method: 'greedy' -> 'beam'\nGo" in finished.err
    assert path.read_bytes() == before


class Checkpoint:
    """One of two layers' norms, of the same step whatever is in it."""

    def __init__(self, scale=1.0, vocabulary="ours", **sizes):
        model = TransformerConfig(vocab_size=16, **sizes)
        self.origin = source.Origin(path="runs/a", kind="t5x_mini", model=model, step=7, vocabulary_id=vocabulary)
        self.arrays = {
            "params/decoder/layers_0/pre_mlp_layer_norm/scale": np.full(4, scale),
            "params/decoder/relpos_bias/rel_embedding": np.ones((2, 2)),
            "opt_state/decoder/decoder_norm/scale/v": np.ones(4),
        }
        self.shapes = {name: array.shape for name, array in self.arrays.items()}

    def read(self, name):
        assert name.startswith("params/")
        return self.arrays[name]


def test_a_checkpoint_is_told_from_others_of_its_step(monkeypatch):
    config = types.SimpleNamespace(evaluate=types.SimpleNamespace(checkpoint_path="runs/a"))

    def made_by(**what):
        monkeypatch.setattr(source, "open_source", lambda path: Checkpoint(**what))
        step, noted = infer_module._checkpoint(types.SimpleNamespace(config=config))
        assert step == noted["step"] == 7
        return {name: value for name, value in noted.items() if value != known.get(name)}

    known = {}
    known = made_by()
    assert list(made_by(scale=2.0)) == ["checkpoint"]
    assert list(made_by(vocabulary="theirs")) == ["vocabulary"]
    assert made_by(emb_dim=24)["model"]["emb_dim"] == 24
    assert made_by(dtype="bfloat16", scan_layers=False, dropout_rate=0.3) == {}


def test_a_line_that_cannot_be_read_is_told_before_anything_is_decoded(run_dir, tmp_path):
    (tmp_path / "questions.jsonl").write_text('{"inputs": "a"}\n' * 40 + '{"input": "a"}\n')
    finished = infer(run_dir, tmp_path, INFER_INPUT=str(tmp_path / "questions.jsonl"))
    assert finished.code == 1
    assert "INFER_INPUT, line 41 has no text 'inputs', but the keys 'input'." in finished.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["questions.jsonl"]


# Real processes


def start(tiny, folder, index, count, port, *words):
    """`t5x-mini infer` as one of `count` processes with two devices each."""
    devices = f"--xla_force_host_platform_device_count={2 if count > 1 else 1}"
    settings = {**tiny.environment(), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": devices}
    (folder / "driver.py").write_text(DRIVER)
    command = [sys.executable, folder / "driver.py", str(index), str(count), str(port), *words]
    with open(folder / f"{index}.out", "w") as out:
        return subprocess.Popen(command, env=settings, cwd=folder, stdout=out, stderr=out)


def finish(folder, processes):
    """What they printed, once all have ended well."""
    try:
        codes = [process.wait(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    printed = [(folder / f"{index}.out").read_text() for index in range(len(processes))]
    assert codes == [0] * len(processes), "\n".join(printed)
    return printed


def kill_after(processes, folder, lines):
    """SIGKILL, once so many lines are on the disk."""

    def written():
        # Lines a host writes to a part or to the file itself.
        return sum(path.read_bytes().count(b"\n") for path in folder.glob("out/*.jsonl.pa*"))

    deadline = time.monotonic() + 240
    while written() < lines and time.monotonic() < deadline and processes[0].poll() is None:
        time.sleep(0.01)
    for process in processes:
        process.send_signal(signal.SIGKILL)
    codes = [process.wait() for process in processes]
    assert codes == [-signal.SIGKILL] * len(processes), (folder / "0.out").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("hosts", [(1, 1, 1), (2, 2, 1), (1, 2, 2)])
def test_killed_twice_it_writes_what_it_writes_undisturbed(tiny, run_dir, tmp_path, hosts):
    count = 1500
    write_json_lines(tmp_path / "questions.jsonl", count)
    settings = {"INFER_INPUT": str(tmp_path / "questions.jsonl"), "BATCH_SIZE": 8, "DTYPE": "float32"}
    finish(tmp_path, [start(tiny, tmp_path, 0, 1, 0, *arguments(run_dir, tmp_path / "whole", **settings))])
    lines = sorted(random.SystemRandom().sample(range(1, count - 200), 2))
    words = arguments(run_dir, tmp_path / "out", **settings)
    for number, stop in zip(hosts, (*lines, None), strict=True):
        port = free_port()
        processes = [start(tiny, tmp_path, index, number, port, *words) for index in range(number)]
        if stop is None:
            printed = finish(tmp_path, processes)
        else:
            kill_after(processes, tmp_path, stop)
    # A defined task and a file are read without TensorFlow.
    assert all("imported: []" in text for text in printed)
    whole, made = (tmp_path / name / "questions-20.jsonl" for name in ("whole", "out"))
    assert sorted(os.listdir(tmp_path / "out")) == [made.name, f"{made.name}.made_from"]
    rows, expected = read_json_lines(made), read_json_lines(whole)
    assert [row["id"] for row in rows] == list(range(count)), f"killed at {lines}"
    assert [row["prediction"] for row in rows] == [row["prediction"] for row in expected]
    if set(hosts) == {1}:
        assert made.read_bytes() == whole.read_bytes(), f"killed at {lines}"
