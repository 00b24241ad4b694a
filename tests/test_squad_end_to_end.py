"""Question answering from gin alone: a file in SQuAD's format, a model that answers what it hasn't seen, EM and F1."""

import itertools
import json
import random
import re

import pytest
import tiny_runs
from tiny_runs import training_rows

from t5x_mini.evaluate import metrics
from t5x_mini.tasks import vocabularies

NAMES = ("anna", "bert", "carl", "dora", "emil", "fred", "gina", "hugo")
THINGS = ("key", "cup", "hat", "pen", "map", "bag")
PLACES = ("house", "barn", "park", "shop", "lake", "wood", "town", "yard")
TEMPLATE = "the {thing} of {name} is in the {place} ."

_GIN = """
include 'gin/models/t5_1_1/tiny.gin'
include 'gin/hardware/cpu.gin'
include 'gin/optimizers/adamw_rms.gin'
include 'gin/tasks/squad.gin'

my_squad/SquadTask.files = {{'train': '{folder}/train-v1.1.json', 'validation': '{folder}/dev-v1.1.json'}}
MIXTURE_OR_TASK_NAME = 'my_squad'
VOCABULARY = '{folder}/words.model'
TASK_FEATURE_LENGTHS = {{'inputs': 40, 'targets': 6}}
TransformerConfig:
  emb_dim = 64
  num_heads = 4
  head_dim = 16
  mlp_dim = 128
Cosine.warmup_steps = 1
BATCH_SIZE = 64
TRAIN_STEPS = 2
EVAL_PERIOD = 2
CHECKPOINT_PERIOD = 1000
"""


def paragraph(rng):
    """Three sentences on where things are, and two questions on them."""
    names, things = rng.sample(NAMES, 3), rng.sample(THINGS, 3)
    facts = list(zip(names, things, rng.sample(PLACES, 3), strict=True))
    context = " ".join(TEMPLATE.format(name=name, thing=thing, place=place) for name, thing, place in facts)
    questions = [(f"where is the {thing} of {name} ?", place) for name, thing, place in rng.sample(facts, 2)]
    return context, questions


def squad(paragraphs):
    """SQuAD's format, with each answer twice, once with an article, as annotators differ."""
    numbers = itertools.count()
    return {
        "version": "1.1",
        "data": [
            {
                "title": "Things",
                "paragraphs": [
                    {
                        "context": context,
                        "qas": [
                            {
                                "id": str(next(numbers)),
                                "question": question,
                                "answers": [
                                    {"text": text, "answer_start": context.index(text)}
                                    for text in (answer, f"the {answer}")
                                ],
                            }
                            for question, answer in questions
                        ],
                    }
                    for context, questions in paragraphs
                ],
            }
        ],
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Contexts for training and others held out, a vocabulary, and `squad.gin`."""
    folder, rng = tmp_path_factory.mktemp("squad"), random.Random(0)
    contexts = {}
    while len(contexts) < 2100:
        context, questions = paragraph(rng)
        contexts[context] = questions
    paragraphs = list(contexts.items())
    (folder / "train-v1.1.json").write_text(json.dumps(squad(paragraphs[100:])))
    (folder / "dev-v1.1.json").write_text(json.dumps(squad(paragraphs[:100])))
    texts = [
        f"question: {question} context: {context}" for context, questions in paragraphs for question, _ in questions
    ]
    vocabularies.train(texts, folder / "words", size=140, model_type="bpe")  # a piece a word
    (folder / "squad.gin").write_text(_GIN.format(folder=folder))
    with tiny_runs.quick_compilation(folder):
        yield folder


def run(folder, command, *arguments, **macros):
    bindings = [f"--gin.{name}={value!r}" for name, value in macros.items()]
    return tiny_runs.run([command, f"--gin_file={folder / 'squad.gin'}", *arguments, *bindings])


def evaluated(folder, run_dir):
    """(what `eval` wrote of its scores, the answers it wrote)"""
    finished = run(folder, "eval", MODEL_DIR=str(run_dir))
    assert finished.code == 0, finished.err
    (results,) = (json.loads(path.read_text()) for path in run_dir.glob("eval/validation-*.json"))
    answers = run_dir / "eval" / "validation" / "inference_eval" / f"my_squad-{results['step']}.jsonl"
    return results["metrics"]["my_squad"], [json.loads(line) for line in answers.read_text().splitlines()]


def constant_answer(folder):
    """EM of the best answer that is always the same."""
    questions = json.loads((folder / "dev-v1.1.json").read_text())["data"][0]["paragraphs"]
    answers = [[answer["text"] for answer in asked["answers"]] for part in questions for asked in part["qas"]]
    return max(metrics.squad(answers, [place] * len(answers))["em"] for place in PLACES)


@pytest.mark.slow
def test_training_writes_scores_and_eval_the_same_ones_with_the_answers(folder):
    finished = run(folder, "train", MODEL_DIR=str(folder / "short"))
    assert finished.code == 0, finished.err
    assert [row["step"] for row in training_rows(folder / "short")] == [1, 2]
    scores, answers = evaluated(folder, folder / "short")
    assert set(scores) == {"em", "f1"} and len(answers) == 200
    assert all(
        re.fullmatch(r"question: where is .* \? context: the .* \.", answer["inputs"].strip()) for answer in answers
    )
    assert {answer["targets"] for answer in answers} <= set(PLACES)
    recounted = metrics.squad(
        [[answer["targets"], f"the {answer['targets']}"] for answer in answers],
        [answer["prediction"] for answer in answers],
    )
    assert scores == pytest.approx(recounted)
    (row,) = metric_rows(folder / "short")
    assert {name: row[name] for name in scores} == scores


@pytest.mark.slow
def test_a_tiny_model_learns_to_answer_questions_on_contexts_it_has_not_seen(folder):
    steps = {"TRAIN_STEPS": 2000, "EVAL_PERIOD": 1000, "Cosine.warmup_steps": 100}
    finished = run(folder, "train", MODEL_DIR=str(folder / "long"), **steps)
    assert finished.code == 0, finished.err
    scores, answers = evaluated(folder, folder / "long")
    assert constant_answer(folder) < 20
    assert scores["em"] > 80 and scores["f1"] >= scores["em"]
    assert {answer["prediction"] for answer in answers} >= set(PLACES)
    (_, last) = metric_rows(folder / "long")
    assert {name: last[name] for name in scores} == scores


def metric_rows(run_dir):
    lines = (run_dir / "inference_eval" / "my_squad-metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


# What else is in such files


def documents(folder, **files):
    """Files in place of those of `squad.gin`, as bindings."""
    paths = {}
    for split, content in files.items():
        path = folder / f"{split}.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        paths[split] = str(path)
    return [f"--gin.my_squad/SquadTask.files={paths}"]


def one_question(context="The café is in Orléans.", answers=("Orléans", "in Orléans"), **more):
    asked = {"id": "1", "question": "Où est-il?", "answers": [{"text": a, "answer_start": 0} for a in answers], **more}
    return {"version": "1.1", "data": [{"title": "É", "paragraphs": [{"context": context, "qas": [asked]}]}]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (one_question(answers=(), is_impossible=True), r"'Où est-il\?' has no answer. Only SQuAD 1.1"),
        ({"version": "1.1"}, "the file is not in SQuAD 1.1's JSON format .*there is no 'data'.*'paragraphs'"),
        ("", "Every file of split 'train' of 'my_squad' is empty"),
        ({"version": "1.1", "data": []}, "The split 'train' of 'my_squad' has no examples"),
    ],
    ids=["squad 2.0", "no data", "an empty file", "no articles"],
)
def test_files_that_cannot_be_trained_on_are_refused(folder, tmp_path, content, words):
    arguments = documents(tmp_path, train=content, validation=one_question())
    finished = run(folder, "train", *arguments, MODEL_DIR=str(tmp_path / "run"))
    assert finished.code == 1
    assert re.search(words, finished.err, re.DOTALL), finished.err
    assert "Traceback" not in finished.err


@pytest.mark.slow
def test_answers_in_any_script_and_several_of_them(folder, tmp_path):
    content = one_question()
    arguments = documents(tmp_path, train=content, validation=content)
    finished = run(
        folder, "train", *arguments, "--gin.VOCABULARY=bytes", MODEL_DIR=str(tmp_path / "run"), EXTRA_IDS=125,
        TASK_FEATURE_LENGTHS={"inputs": 80, "targets": 16}, BATCH_SIZE=8,
    )  # fmt: skip
    assert finished.code == 0, finished.err
    (answers,) = (tmp_path / "run" / "inference_eval").glob("my_squad-2.jsonl")
    (row,) = map(json.loads, answers.read_text().splitlines())
    assert row["inputs"].startswith("question: Où est - il ? context: The café is in Orléans")
    assert row["targets"] == "Orléans"
