"""The command line from text to checkpoint, as a user runs it, on a corpus and a model that take seconds."""

import dataclasses
import json
import re
import shutil

import jax
import made_up_checkpoints
import numpy as np
import pytest
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds
import tiny_runs
from tiny_runs import TASKS, arrays, evaluation_rows, steps_on_disk, training_rows

from t5x_mini import config
from t5x_mini.errors import UserError
from t5x_mini.evaluate import report
from t5x_mini.inspect.rebuild import rebuild_batch
from t5x_mini.model.config import ARCHITECTURES
from t5x_mini.tasks import registry
from t5x_mini.train.metrics import read_metrics

REPORTED = ("encoder_decoder", "causal_lm")  # one of each layout
LOSS = "loss_per_nonpadding_target_token"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    with tiny_runs.tiny(tmp_path_factory.mktemp("tiny")) as tiny:
        yield tiny


def settings(name):
    return {"EVAL_PERIOD": 15, "CHECKPOINT_PERIOD": 15, "CLOSING_REPORT": name in REPORTED}


@pytest.fixture(scope="module")
def trained(tiny):
    """`{architecture: (folder, what was printed)}` of a whole run each: 30 steps with evaluation."""
    runs = {}
    for name in ARCHITECTURES:
        folder = tiny.folder / "runs" / name
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(report, "UNIGRAM_BATCHES", 20)  # 150 pieces are soon counted
            finished = tiny.run(
                "train", f"--gin_file=gin/architectures/{name}.gin", MODEL_DIR=str(folder), **settings(name)
            )
        assert finished.code == 0, finished.err
        runs[name] = folder, finished
    return runs


@pytest.fixture
def copied(trained, tmp_path):
    """A run of one's own to go on with: the finished encoder-decoder's."""
    return shutil.copytree(trained["encoder_decoder"][0], tmp_path / "run")


def every_name(tree, prefix=""):
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from every_name(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}"


def assert_same(a, b):
    """Bit for bit, names included."""
    assert list(every_name(a)) == list(every_name(b))
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(left), np.asarray(right))


# What a run does and leaves behind


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_loss_falls(trained, name):
    losses = [row[LOSS] for row in training_rows(trained[name][0])]
    assert losses[0] > 5
    assert np.mean(losses[-5:]) < losses[0] - 1.5
    held_out = [row[f"eval/{TASKS[0]}/{LOSS}"] for row in evaluation_rows(trained[name][0])]
    assert held_out[1] < held_out[0] < losses[0]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_is_left_on_disk(trained, name):
    folder, finished = trained[name]
    assert {path.name for path in folder.iterdir()} == {
        *("checkpoints", "metrics.jsonl", "tensorboard", "config.gin", "model-info.txt", "loss.png", "masks.png"),
        *("mixture.png", "complete.json", "log.jsonl"),
    }
    assert steps_on_disk(folder) == [15, 30]
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert [row["step"] for row in training_rows(folder)] == list(range(1, 31))
    assert [row["step"] for row in evaluation_rows(folder)] == [15, 30]
    assert f"done: step 30; checkpoints, metrics and loss.png are in {folder}" in finished.out


def test_a_row_of_metrics_has_t5x_names(trained):
    row = training_rows(trained["encoder_decoder"][0])[-1]
    assert {
        *("accuracy", "loss", "loss_per_nonpadding_target_token", "loss_per_all_target_tokens", "z_loss"),
        *("z_loss_per_all_target_tokens", "cross_ent_loss", "cross_ent_loss_per_all_target_tokens"),
        *("non_padding_fraction/loss_weights", "learning_rate", "timing/seconds", "timing/steps_per_second"),
        *("timing/seqs", "timing/seqs_per_second", "timing/seqs_per_second_per_core"),
        *("timing/target_tokens_per_second", "timing/target_tokens_per_second_per_core"),
    } <= set(row)
    assert {"grad_norm", "param_norm", "padding_fraction", "model_tflops_per_second"} <= set(row)
    assert row["timing/seqs"] == 16
    assert row["timing/seconds"] > 0


def test_time_lost_is_reported(trained):
    rows = training_rows(trained["encoder_decoder"][0])
    causes = {"time_lost/data", "time_lost/checkpoints", "time_lost/evaluation", "time_lost/compilation"}
    assert all(causes <= set(row) for row in rows)
    assert rows[0]["time_lost/compilation"] > 0
    assert rows[0]["time_lost/evaluation"] == rows[0]["time_lost/checkpoints"] == 0
    assert all(rows[-1][cause] > 0 for cause in causes)


def test_tensorboard_has_the_same_numbers(trained):
    folder = trained["encoder_decoder"][0]
    (events,) = (folder / "tensorboard").iterdir()
    found = {
        (event.step, value.tag): value.simple_value
        for record in tf.data.TFRecordDataset(str(events)).as_numpy_iterator()
        for event in [tf.compat.v1.Event.FromString(record)]
        for value in event.summary.value
        if value.WhichOneof("value") == "simple_value"
    }
    rows = read_metrics(folder / "metrics.jsonl")
    expected = {(row["step"], name): value for row in rows for name, value in row.items() if name != "step"}
    assert found == pytest.approx(expected, rel=1e-6)


def test_the_learning_rate_is_the_schedules(tiny, tmp_path):
    macros = {"Linear.peak": 0.01, "Linear.warmup_steps": 3, "Linear.final": 0.001, "TRAIN_STEPS": 6}
    finished = tiny.run("train", "--gin.RunConfig.schedule=@Linear()", MODEL_DIR=str(tmp_path / "run"), **macros)
    assert finished.code == 0, finished.err
    rates = [row["learning_rate"] for row in training_rows(tmp_path / "run")]
    # Row k is about the k-th update, which is made at step k - 1.
    np.testing.assert_allclose(rates, [0.0, 0.01 / 3, 0.02 / 3, 0.01, 0.007, 0.004], rtol=1e-6)


def test_model_info_lists_every_parameter(trained):
    for name, (folder, finished) in trained.items():
        lines = (folder / "model-info.txt").read_text().splitlines()
        listed = {line.split()[0] for line in lines if "float32" in line}
        params = arrays(folder, 30)["params"]
        assert listed == {re.sub(r"layers_\d+", "layers", path) for path in every_name(params)}
        count = sum(array.size for array in jax.tree.leaves(params))
        assert f"architecture: {name}" in lines
        assert any(line.startswith(f"total: {count:,} parameters, ") for line in lines)
        assert f"{name}, {count:,} parameters" in finished.out


def test_config_gin_makes_the_same_run(tiny, trained):
    for name, (folder, _) in trained.items():
        expected = config.load(
            [str(tiny.folder / "tiny.gin"), f"gin/architectures/{name}.gin"],
            [f"MODEL_DIR={str(folder)!r}", *(f"{macro}={value!r}" for macro, value in settings(name).items())],
        )
        assert config.load([str(folder / "config.gin")]) == expected


@pytest.mark.parametrize("name", REPORTED)
def test_the_closing_report(trained, name):
    text = trained[name][1].out
    model, unigram, swapped = (
        float(re.search(rf"^  {words} +(\d+\.\d+)", text, re.MULTILINE)[1])
        for words in ("this model", "a unigram model on the same positions", "this model, given another row's inputs")
    )
    assert f"held-out loss of {TASKS[0]}, in nats a word piece" in text
    # No model of single pieces is better than the entropy of the text, and 150 pieces bound both.
    assert 1 < unigram < np.log(150)
    assert 1 < model < 6
    assert swapped != model
    masked = re.findall(r"^  masked: (.*)\n  model:  (.*)\n  text:   (.*)$", text, re.MULTILINE)
    assert masked
    corpus = " ".join(validation_lines(trained))
    for sentence, said, stood in masked:
        spans = dict(re.findall(r"(\[\d+\]) (.*?)(?=   \[|$)", stood))
        assert spans.keys() == dict(re.findall(r"(\[\d+\]) (.*?)(?=   \[|$)", said)).keys()
        for mark, span in spans.items():
            sentence = sentence.replace(mark, span)
        # Where a span begins within a word, the sentence shows a space in front of its mark.
        assert sentence.replace(" ", "") in corpus.replace(" ", "")


def validation_lines(trained):
    folder = trained["encoder_decoder"][0].parent.parent
    return (folder / f"{TASKS[0]}_validation.txt").read_text().splitlines()


# Going on


def test_a_complete_run_says_so(tiny, copied):
    before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    finished = tiny.run("train", MODEL_DIR=str(copied), EVAL_PERIOD=15)
    assert finished.code == 0, finished.err
    assert f"The run in {copied} is complete: step 30 of 30." in finished.out
    assert {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()} == before


def test_more_steps_continue_a_complete_run(tiny, copied):
    finished = tiny.run("train", MODEL_DIR=str(copied), TRAIN_STEPS=36)
    assert finished.code == 0, finished.err
    assert f"resuming from step 30 in {copied}" in finished.out
    assert steps_on_disk(copied) == [15, 30, 36]
    assert [row["step"] for row in training_rows(copied)] == list(range(1, 37))
    assert config.load([str(copied / "config.gin")]).train.train_steps == 36


def refused(tiny, folder, *arguments, **macros):
    """The words of a refusal, which must leave the folder as it was."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    finished = tiny.run("train", *arguments, MODEL_DIR=str(folder), **{"TRAIN_STEPS": 40} | macros)
    assert finished.code == 1
    assert "Traceback" not in finished.err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    return finished.err


def test_another_architecture_is_refused(tiny, copied):
    words = refused(tiny, copied, "--gin_file=gin/architectures/prefix_lm.gin")
    assert f"{copied} was trained with other settings" in words
    assert "ARCHITECTURE: 'encoder_decoder' when it was saved, 'prefix_lm' now" in words
    assert "ARCHITECTURE can't be changed within a run" in words and "--gin.MODEL_DIR=" in words


def test_another_optimizer_is_refused(tiny, copied):
    words = refused(tiny, copied, "--gin_file=gin/optimizers/adamw.gin", **{"Cosine.warmup_steps": 1})
    assert "RunConfig.optimizer: 'Adafactor' when it was saved, 'AdamW' now" in words
    assert "RunConfig.optimizer can't be changed within a run" in words


def test_another_batch_size_is_refused_and_taken_when_it_is_allowed(tiny, copied):
    words = refused(tiny, copied, BATCH_SIZE=32)
    assert "BATCH_SIZE: 16 when it was saved, 32 now" in words
    flag = re.search(r"--allow_changes=\S+", words)[0]
    before = (copied / "config.gin").read_text()
    finished = tiny.run("train", flag, MODEL_DIR=str(copied), TRAIN_STEPS=32, BATCH_SIZE=32)
    assert finished.code == 0, finished.err
    assert "changed: BATCH_SIZE: 16 when it was saved, 32 now" in finished.out
    assert "the data is read from its start, because BATCH_SIZE changed" in finished.out
    assert [row["timing/seqs"] for row in training_rows(copied)[-3:]] == [16, 32, 32]
    assert (copied / "config-30.gin").read_text() == before
    # Its checkpoints know of it, and so does who asks for a batch.
    finished = tiny.run("train", MODEL_DIR=str(copied), TRAIN_STEPS=33, BATCH_SIZE=32)
    assert finished.code == 0, finished.err
    rows = {step: len(rebuild_batch(str(copied), step).batch["decoder_target_tokens"]) for step in (30, 33)}
    assert rows == {30: 16, 33: 32}
    with pytest.raises(UserError, match="settings of the data were changed behind step 30"):
        rebuild_batch(str(copied), 31)


def test_another_number_of_hosts_is_refused(tiny, copied):
    mine = copied / "checkpoints" / "30" / "position" / "process_0-of-1"
    of_two = mine.read_bytes().replace(b'"host_count": 1', b'"host_count": 2')
    mine.rename(mine.with_name("process_0-of-2")).write_bytes(of_two)
    made_up_checkpoints.seal(copied / "checkpoints" / "30")
    words = refused(tiny, copied)
    assert "host_count: 2 when it was saved, 1 now" in words
    assert "DATA_FEED = 'tokens'" in words
    assert "INITIAL_CHECKPOINT_PATH" in words


def test_relative_steps_count_from_the_initial_checkpoint(tiny, trained, tmp_path):
    initial = trained["encoder_decoder"][0] / "checkpoints" / "15"
    finished = tiny.run(
        "train",
        MODEL_DIR=str(tmp_path / "run"),
        INITIAL_CHECKPOINT_PATH=str(initial),
        TRAIN_STEPS=None,
        TRAIN_STEPS_RELATIVE=5,
    )
    assert finished.code == 0, finished.err
    assert "starting from step 15" in finished.out
    assert [row["step"] for row in training_rows(tmp_path / "run")] == list(range(16, 21))
    assert steps_on_disk(tmp_path / "run") == [20]
    # The parameters are those of the checkpoint: a fresh model would begin far above.
    losses = [row[LOSS] for row in training_rows(trained["encoder_decoder"][0])]
    assert training_rows(tmp_path / "run")[0][LOSS] < (losses[0] + losses[14]) / 2


# Not finite


def test_a_loss_that_is_not_finite_stops_the_run(tiny, copied):
    finished = tiny.run(
        "train",
        "--gin.RunConfig.schedule=@Constant()",
        "--allow_changes=RunConfig.schedule",
        MODEL_DIR=str(copied),
        TRAIN_STEPS=60,
        CHECKPOINT_PERIOD=1,
        CHECKPOINTS_TO_KEEP=None,
        **{"Constant.learning_rate": 1e30},
    )
    assert finished.code == 1
    assert "Traceback" not in finished.err
    assert re.search(r"The (loss|parameter norm) of step \d+ is (nan|inf); the run stops", finished.err)
    named = re.search(r"The last good checkpoint is (\S+)\.", finished.err)[1]
    assert named == str(copied / "checkpoints" / str(steps_on_disk(copied)[-1]))
    last = arrays(copied, steps_on_disk(copied)[-1])
    assert all(np.isfinite(array).all() for array in jax.tree.leaves(last["params"]))
    assert "a lower rate" in finished.err


def test_a_bad_start_names_the_initial_checkpoint(tiny, trained, tmp_path):
    initial = str(trained["encoder_decoder"][0] / "checkpoints" / "30")
    finished = tiny.run(
        "train",
        "--gin.RunConfig.schedule=@Constant()",
        MODEL_DIR=str(tmp_path / "run"),
        INITIAL_CHECKPOINT_PATH=initial,
        TRAIN_STEPS=60,
        **{"Constant.learning_rate": 1e38},
    )
    assert finished.code == 1
    assert f"The last good checkpoint is {initial}." in finished.err
    assert not steps_on_disk(tmp_path / "run")


def measured_row(path):
    """What `eval` wrote, in the form of a training run's row."""
    measured = json.loads(path.read_text())
    rows = {f"eval/{task}/{name}": value for task, row in measured["tasks"].items() for name, value in row.items()}
    return {"step": measured["step"], **rows}


# Other ways to share the work


@pytest.mark.slow
def test_pmap_trains_and_evaluates_and_a_mesh_goes_on(tiny, trained, tmp_path):
    folder = tmp_path / "run"
    macros = {"MODEL_DIR": str(folder), "EVAL_PERIOD": 15, "CHECKPOINT_PERIOD": 15}
    finished = tiny.run("train", PARTITIONING="pmap", TRAIN_STEPS=15, **macros)
    assert finished.code == 0, finished.err
    assert "pmap over 8 device(s) (cpu): data 8" in finished.out
    measured = tiny.run("eval", PARTITIONING="pmap", TRAIN_STEPS=15, **macros)
    assert measured.code == 0, measured.err
    assert measured_row(folder / "eval" / "validation-15.json") == evaluation_rows(folder)[-1]
    finished = tiny.run("train", **macros)
    assert finished.code == 0, finished.err
    assert "resuming from step 15" in finished.out
    losses = [row[LOSS] for row in training_rows(folder)]
    expected = [row[LOSS] for row in training_rows(trained["encoder_decoder"][0])]
    # Sums in another order, carried through 30 updates.
    np.testing.assert_allclose(losses, expected, rtol=1e-3)


# Measuring and predicting


def test_a_mixture_is_evaluated_task_by_task(tiny, tmp_path):
    finished = tiny.run(
        "train", MODEL_DIR=str(tmp_path / "run"), MIXTURE_OR_TASK_NAME=tiny_runs.MIXTURE, TRAIN_STEPS=2, EVAL_PERIOD=2
    )
    assert finished.code == 0, finished.err
    rows = evaluation_rows(tmp_path / "run")
    losses = {name: value for row in rows for name, value in row.items() if name.endswith(LOSS)}
    assert losses.keys() == {f"eval/{task}/{LOSS}" for task in TASKS}
    assert len(set(losses.values())) == 2
    assert {row["step"] for row in rows} == {2}


def test_eval_repeats_the_runs_own_last_numbers(tiny, trained, tmp_path):
    folder = trained["encoder_decoder"][0]
    finished = tiny_runs.run(
        [
            "eval",
            f"--gin_file={folder / 'config.gin'}",
            "--gin_file=gin/runs/eval.gin",
            f"--gin.EVAL_OUTPUT_DIR={tmp_path}",
        ]
    )
    assert finished.code == 0, finished.err
    written = measured_row(tmp_path / "validation-30.json")
    assert written == evaluation_rows(folder)[-1]
    loss = written[f"eval/{TASKS[0]}/{LOSS}"]
    assert "step 30, validation (loss in nats a token" in finished.out
    assert [TASKS[0], f"{loss:.4f}"] in [line.split()[:2] for line in finished.out.splitlines()]


def test_eval_takes_an_older_checkpoint(tiny, trained, tmp_path):
    folder = trained["encoder_decoder"][0]
    finished = tiny_runs.run(
        [
            "eval",
            f"--gin_file={folder / 'config.gin'}",
            f"--gin.CHECKPOINT_PATH={folder / 'checkpoints' / '15'}",
            f"--gin.EVAL_OUTPUT_DIR={tmp_path}",
        ]
    )
    assert finished.code == 0, finished.err
    assert measured_row(tmp_path / "validation-15.json") == evaluation_rows(folder)[0]


@pytest.mark.parametrize("name", ["encoder_decoder", "prefix_lm"])
def test_infer_writes_what_the_model_predicts(tiny, trained, tmp_path, name):
    folder = trained[name][0]
    finished = tiny_runs.run(
        [
            "infer",
            f"--gin_file={folder / 'config.gin'}",
            "--gin_file=gin/runs/infer.gin",
            f"--gin.INFER_OUTPUT_DIR={tmp_path}",
            "--gin.INFER_LIMIT=16",
        ]
    )
    assert finished.code == 0, finished.err
    path = tmp_path / f"{TASKS[0]}-validation-30.jsonl"
    assert finished.out == f"written to {path}\n"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == 16
    assert all(row.keys() == {"inputs", "prediction", "score", "targets"} for row in rows)
    assert rows[0]["inputs"].startswith(("the", "a ", "my", "every"))
    assert all("<extra_id_0>" in row["inputs"] and row["targets"].startswith("<extra_id_0>") for row in rows)
    # The first thing a model learns is that every answer begins with the first sentinel.
    assert np.mean([row["prediction"].startswith("<extra_id_0>") for row in rows]) > 0.5


def test_eval_without_a_checkpoint_says_so(tiny, tmp_path):
    finished = tiny.run("eval", MODEL_DIR=str(tmp_path / "nothing"))
    assert finished.code == 1
    assert f"There is no checkpoint in {tmp_path / 'nothing'}" in finished.err


# Looking before leaping, and T5's own recipe


def test_a_dry_run_makes_nothing(tiny, tmp_path):
    finished = tiny.run("train", "--dry_run", MODEL_DIR=str(tmp_path / "run"))
    assert finished.code == 0, finished.err
    assert "\n  emb_dim = 32\n" in finished.out
    assert re.search(r"^total: [\d,]+ parameters", finished.out, re.MULTILINE)
    assert f"would train to step 30 in {tmp_path / 'run'}" in finished.out
    assert not (tmp_path / "run").exists()


@pytest.fixture
def c4(tiny, monkeypatch):
    """C4 as TensorFlow Datasets describes it, with our sentences in it."""
    # The real splits and their sizes are in the metadata that TensorFlow Datasets downloads.
    splits = {split: split for split in ("train", "validation")}
    tasks = [dataclasses.replace(task, splits=splits) if task.tfds else task for task in registry.PRETRAINING]
    monkeypatch.setattr(registry, "PRETRAINING", tasks)
    sentences = (tiny.folder / f"{TASKS[0]}_train.txt").read_text().splitlines()
    monkeypatch.setattr(seqio.TfdsDataSource, "num_input_examples", lambda self, split: len(sentences))

    def documents(builder, *args, **kwargs):
        empty = {name: [""] * len(sentences) for name in builder.info.features}
        return tf.data.Dataset.from_tensor_slices(empty | {"text": sentences})

    with tfds.testing.mock_data(as_dataset_fn=documents):
        yield


def test_pretrain_gin_is_t5s_recipe(c4, tmp_path):
    finished = tiny_runs.run(
        ["train", "--gin_file=gin/runs/pretrain.gin", f"--gin.MODEL_DIR={tmp_path / 'c4'}", "--dry_run"]
        + ["--gin.TransformerConfig.vocab_size=32128"]
    )
    assert finished.code == 0, finished.err
    for line in (
        *("BATCH_SIZE = 2048", "DROPOUT_RATE = 0.0", "TRAIN_STEPS = 1000000", "  warmup_steps = 10000"),
        *("TASK_FEATURE_LENGTHS = {'inputs': 512, 'targets': 114}", "  optimizer = @Adafactor()"),
    ):
        assert line in finished.out.splitlines()
    # T5 1.1-small: https://huggingface.co/google/t5-v1_1-small has as many.
    assert "total: 76,961,152 parameters" in finished.out
    assert not (tmp_path / "c4").exists()


@pytest.mark.slow
def test_pretrain_gin_runs_on_c4(c4, tiny, tmp_path):
    finished = tiny_runs.run(
        [
            *("train", "--gin_file=gin/runs/pretrain.gin", "--gin_file=gin/models/t5_1_1/tiny.gin"),
            *("--gin_file=gin/hardware/cpu.gin", f"--gin.MODEL_DIR={tmp_path / 'c4'}", "--gin.TRAIN_STEPS=3"),
            *("--gin.BATCH_SIZE=16", "--gin.TASK_FEATURE_LENGTHS={'inputs': 64, 'targets': 14}"),
            *("--gin.EVAL_STEPS=1", f"--gin.VOCABULARY={tiny.folder / 'tiny.model'}"),
        ]
    )
    assert finished.code == 0, finished.err
    assert [row["step"] for row in training_rows(tmp_path / "c4")] == [1, 2, 3]
    assert [row["step"] for row in evaluation_rows(tmp_path / "c4")] == [3]
    assert f"eval/c4_span_corruption/{LOSS}" in evaluation_rows(tmp_path / "c4")[0]
