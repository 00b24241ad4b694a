"""Pretrain, finetune, evaluate: every architecture learns two tasks by heart, and both ways of answering say so."""

import itertools
import json
import random

import pytest
import tiny_runs
from tiny_runs import steps_on_disk, training_rows

from t5x_mini.model.config import ARCHITECTURES
from t5x_mini.tasks import vocabularies
from t5x_mini.train.metrics import read_metrics

_GIN = """
include 'gin/hardware/cpu.gin'
include 'gin/optimizers/adamw_rms.gin'

TransformerConfig:
  emb_dim = 32
  num_heads = 2
  head_dim = 16
  num_encoder_layers = 1
  num_decoder_layers = 1
  mlp_dim = 64
Cosine.warmup_steps = 1
words/PretrainingTask.files = {{'train': '{folder}/words.txt'}}
VOCABULARY = '{folder}/words.model'
MIXTURE_OR_TASK_NAME = 'words'
TASK_FEATURE_LENGTHS = {{'inputs': 24, 'targets': 8}}
BATCH_SIZE = 8
TRAIN_STEPS = 3
EVAL_PERIOD = 0
"""
# As gin/runs/finetune.gin, and as fast as so few rows can be learned.
SETTINGS = (
    *("both/Mixture.tasks={'cola': 1.0, 'rte': 1.0}", "MIXTURE_OR_TASK_NAME=both"),
    *("TASK_FEATURE_LENGTHS={'inputs': 24, 'targets': 8}", "BATCH_SIZE=32", "DTYPE=float32", "DROPOUT_RATE=0.0"),
    *("TRAIN_STEPS_RELATIVE=297", "EVAL_PERIOD=150", "CHECKPOINT_PERIOD=150", "RESET_OPTIMIZER=True"),
    "Constant.learning_rate=0.02",
)
TASKS = {"glue_cola_v002": "matthews_corrcoef", "glue_rte_v002": "accuracy"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """GLUE's CoLA and RTE with 16 rows each, their labels drawn by lot; and a text to pretrain on."""
    folder = tmp_path_factory.mktemp("finetune")
    rng = random.Random(0)
    sentences = [f"The {a} {b} the {c}." for a, b, c in itertools.product(("cat", "boy"), ("saw", "hit"), WHAT)]
    labels = [number % 2 for number in range(len(sentences))]
    rng.shuffle(labels)
    cola = [f"x\t{label}\t\t{sentence}" for label, sentence in zip(labels, sentences, strict=True)]
    names = ("not_entailment", "entailment")
    pairs = enumerate(zip(sentences, labels, strict=True))
    rte = [f"{number}\t{sentence}\tIt is so.\t{names[label]}" for number, (sentence, label) in pairs]
    for task, lines in (("CoLA", cola), ("RTE", ["index\tsentence1\tsentence2\tlabel", *rte])):
        (folder / "glue" / task).mkdir(parents=True)
        for split in ("train", "dev"):  # what is measured is what was learned by heart
            (folder / "glue" / task / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    (folder / "words.txt").write_text("\n".join(sentences * 20))
    texts = [
        *sentences,
        "It is so.",
        "rte sentence1: sentence2: entailment not_entailment",
        "cola sentence: acceptable unacceptable",
    ]
    vocabularies.train(texts * 4, folder / "words", size=90, model_type="bpe")  # nearly a piece a word
    (folder / "pretrain.gin").write_text(_GIN.format(folder=folder))
    with tiny_runs.quick_compilation(folder):
        yield folder


WHAT = ("dog", "tree", "house", "car")


# One of them on every change; each takes half a minute.
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ARCHITECTURES if name != "prefix_lm"]


@pytest.fixture(scope="module", params=["prefix_lm", *SLOW])
def finetuned(request, folder):
    """The run of an architecture: pretrained for a moment, then finetuned from that checkpoint."""
    architecture = request.param
    pretrained, run = folder / f"{architecture}_pretrained", folder / architecture
    finish("train", folder / "pretrain.gin", MODEL_DIR=pretrained, ARCHITECTURE=architecture)
    settings = dict(setting.split("=", 1) for setting in SETTINGS)
    start = dict(INITIAL_CHECKPOINT_PATH=pretrained, MODEL_DIR=run, GLUE_DIR=folder / "glue")
    finish("train", "gin/runs/finetune.gin", **settings, **start)
    return architecture, run


def finish(command, gin_file, **macros):
    bindings = [f"--gin.{name}={value}" for name, value in macros.items()]
    finished = tiny_runs.run([command, f"--gin_file={gin_file}", *bindings])
    assert finished.code == 0, finished.err
    return finished


def answers(folder, task, step):
    lines = (folder / "inference_eval" / f"{task}-{step}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_the_model_is_the_checkpoints(finetuned):
    architecture, run = finetuned
    config = (run / "config.gin").read_text()
    assert f"ARCHITECTURE = '{architecture}'" in config and "emb_dim = 32" in config
    assert [row["step"] for row in training_rows(run)] == list(range(4, 301))


def test_both_tasks_are_learned_by_heart_and_scored_while_training(finetuned):
    _, run = finetuned
    for task, metric in TASKS.items():
        rows = read_metrics(run / "inference_eval" / f"{task}-metrics.jsonl")
        assert [row["step"] for row in rows] == [150, 300]
        assert rows[-1][metric] == 100.0
        assert [answer["prediction"] == answer["targets"] for answer in answers(run, task, 300)] == [True] * 16
    assert 300 in steps_on_disk(run)


def test_the_likeliest_label_and_the_decoded_text_are_the_same(finetuned, tmp_path):
    """Of a model that is sure of every answer; in all architectures."""
    _, run = finetuned
    found = {}
    for ranked in (True, False):
        output = tmp_path / str(ranked)
        finish("eval", run / "config.gin", RANK_CLASSIFICATION=ranked, EVAL_OUTPUT_DIR=output)
        (results,) = (json.loads(path.read_text()) for path in output.glob("validation-*.json"))
        assert results["metrics"] == {task: {metric: 100.0} for task, metric in TASKS.items()}
        found[ranked] = [answers(output / "validation", task, results["step"]) for task in TASKS]
    for by_rank, decoded in zip(found[True], found[False], strict=True):
        assert [row["prediction"] for row in by_rank] == [row["prediction"] for row in decoded]
        for row in by_rank:
            assert row["prediction"] == max(row["scores"], key=row["scores"].get)
        assert not any("scores" in row for row in decoded)
