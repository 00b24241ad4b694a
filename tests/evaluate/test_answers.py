"""Answers are scored with the rows they belong to."""

from __future__ import annotations

import json

import pytest

from t5x_mini.errors import UserError
from t5x_mini.evaluate import answers
from t5x_mini.feed.config import FeedConfig
from t5x_mini.tasks import vocabularies
from t5x_mini.tasks.definitions import PretrainingTask, TextToTextTask

VOCABULARY = vocabularies.load("bytes")
LENGTHS = {"inputs": 24, "targets": 10}


def _task(folder, **changed) -> TextToTextTask:
    rows = [("left", "no"), ("", "yes"), ("straight on", "yes"), ("right", "no"), ("back", "yes")]
    file = folder / "rows.tsv"
    file.write_text("".join(f"{side}\t{word}\n" for side, word in [("side", "word"), *rows]))
    fields = dict(
        inputs="turn: {side}", targets="{word}", labels=("no", "yes"), postprocessor="label", metrics=("accuracy", "f1")
    )
    return TextToTextTask(name="turns", files={"validation": str(file)}, **(fields | changed))


def _feed(*tasks, **changed) -> FeedConfig:
    fields = dict(mixture_or_task_name="turns", task_feature_lengths=LENGTHS, batch_size=2, vocabulary="bytes")
    return FeedConfig(tasks=tasks, **(fields | changed))


def _answered(task, decode, limit=None, **changed):
    rows = answers.read(task, "validation", limit)
    return answers.answer(decode, rows, VOCABULARY, _feed(task, **changed))


def _echo(inputs):
    """A model that writes what it reads."""
    return inputs


def test_each_answer_stands_beside_its_row(tmp_path):
    answered = _answered(_task(tmp_path), _echo)
    assert [(row["side"], target) for row, target, _ in answered] == [
        ("left", "no"), ("", "yes"), ("straight on", "yes"), ("right", "no"), ("back", "yes"),
    ]  # fmt: skip
    assert [written for _, _, written in answered] == [f"turn: {row['side']}" for row, _, _ in answered]


def test_reads_as_many_rows_as_it_is_told(tmp_path):
    assert len(_answered(_task(tmp_path), _echo, limit=4)) == 4


def test_a_model_sees_what_the_feeds_make_of_the_texts(tmp_path):
    seen = []

    def decode(inputs):
        seen.extend(inputs)
        return inputs

    _answered(_task(tmp_path), decode)
    sides = ("left", "", "straight on", "right", "back")
    assert seen == [[*VOCABULARY.encode(f"turn: {side}"), 1] for side in sides]


def test_long_texts_are_cut_before_eos(tmp_path):
    def decode(inputs):
        assert [len(ids) for ids in inputs] == [LENGTHS["inputs"]] * 2
        assert [ids[-1] for ids in inputs] == [1, 1]
        return inputs

    task = _task(tmp_path, inputs="a very long question about turning: {side}")
    assert len(_answered(task, decode, limit=2)) == 2


def test_what_is_cut_ends_as_the_whole_did():
    assert answers.cut([5, 6, 7, 1], 4) == [5, 6, 7, 1]
    assert answers.cut([5, 6, 7, 1], 3) == [5, 6, 1]
    assert answers.cut([5, 6, 7, 8], 3) == [5, 6, 7]
    assert answers.cut([], 3) == []
    assert answers.cut([5, 6, 7, 8], None) == [5, 6, 7, 8]


def test_a_model_without_inputs_writes_from_nothing(tmp_path):
    def decode(inputs):
        assert list(inputs) == [[]] * 5
        return [[*VOCABULARY.encode("no"), 1]] * 5

    answered = _answered(_task(tmp_path), decode, task_feature_lengths={"targets": 34})
    assert {written for _, _, written in answered} == {"no"}


def test_scores_are_the_tasks_metrics(tmp_path):
    task = _task(tmp_path)
    words = ["no", "yes", "no", "maybe", "yes"]
    rows = answers.read(task, "validation")
    answered = [(row, texts["targets"], word) for (row, texts), word in zip(rows, words, strict=True)]
    scores = answers.measure(task, answered, "validation")
    assert scores == {"accuracy": pytest.approx(60), "f1": pytest.approx(200 / 3)}


def test_all_answers_of_a_row_count(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"question": "Who?", "answer": "Al", "answers": ["Al", "Albert"]}) + "\n")
    task = TextToTextTask(
        name="who", files={"validation": str(file)}, inputs="{question}", targets="{answer}",
        postprocessor="qa", metrics=("squad",),
    )  # fmt: skip
    ((row, _),) = answers.read(task, "validation")
    assert answers.measure(task, [(row, "Al", "albert")], "validation") == {"em": 100.0, "f1": 100.0}


def test_rows_without_labels_are_not_scored(tmp_path):
    task = _task(tmp_path)
    with pytest.raises(UserError, match="turns's split 'test' have no labels.*`t5x-mini infer`"):
        answers.measure(task, [({}, "<unk>", "yes")], "test")
    with pytest.raises(UserError, match="'test' of turns has no rows"):
        answers.measure(task, [], "test")


def test_only_tasks_with_metrics_are_scored(tmp_path):
    scored, unscored = _task(tmp_path), TextToTextTask(name="plain", files={"train": "x.tsv"})
    feed = _feed(scored, unscored, PretrainingTask(name="text", files={"train": "x.txt"}))
    assert answers.scored_tasks(["turns", "plain", "text", "registered_in_python"], feed) == [scored]


@pytest.mark.parametrize(
    "changed, message", [({"metrics": ("acuracy",)}, "mean accuracy"), ({"postprocessor": "lable"}, "mean label")]
)
def test_unknown_names_are_refused_before_decoding(changed, message, tmp_path):
    with pytest.raises(UserError, match=message):
        answers.scored_tasks(["turns"], _feed(_task(tmp_path, **changed)))
