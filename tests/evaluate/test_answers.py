"""Answers are scored with the rows they belong to."""

from __future__ import annotations

import json

import numpy as np
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


def _answered(task, decode, limit=None, architecture="encoder_decoder"):
    rows = answers.read(task, "validation", limit)
    return list(answers.answer(decode, rows, VOCABULARY, _feed(task), architecture))


def _targets(batch):
    return batch["decoder_target_tokens"]


def test_each_answer_stands_beside_its_row(tmp_path):
    answered = _answered(_task(tmp_path), _targets)
    assert [(row["side"], target) for row, target, _ in answered] == [
        ("left", "no"), ("", "yes"), ("straight on", "yes"), ("right", "no"), ("back", "yes"),
    ]  # fmt: skip
    assert all(target == written for _, target, written in answered)


def test_reads_as_many_rows_as_it_is_told(tmp_path):
    assert len(_answered(_task(tmp_path), _targets, limit=4)) == 4


def test_a_model_sees_what_the_feeds_make_of_the_texts(tmp_path):
    batches = []

    def decode(batch):
        batches.append(batch)
        return _targets(batch)

    _answered(_task(tmp_path), decode)
    seen = [VOCABULARY.decode(row) for batch in batches for row in batch["encoder_input_tokens"]]
    assert seen == ["turn: left", "turn: ", "turn: straight on", "turn: right", "turn: back", ""]
    (ends,) = {tuple(np.count_nonzero(batch["encoder_input_tokens"] == 1, axis=1)) for batch in batches[:2]}
    assert ends == (1, 1)


def test_long_texts_are_cut_before_eos(tmp_path):
    def decode(batch):
        assert batch["encoder_input_tokens"].shape == (2, LENGTHS["inputs"])
        assert (batch["encoder_input_tokens"][0] != 0).all()
        assert batch["encoder_input_tokens"][0, -1] == 1
        return _targets(batch)

    task = _task(tmp_path, inputs="a very long question about turning: {side}")
    assert len(_answered(task, decode, limit=2)) == 2


def test_decoder_only_models_see_inputs_and_targets_in_one_row(tmp_path):
    def decode(batch):
        assert batch["decoder_target_tokens"].shape == (2, sum(LENGTHS.values()))
        return np.full((2, 10), 1)

    answered = _answered(_task(tmp_path), decode, architecture="prefix_lm")
    assert {written for _, _, written in answered} == {""}


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
