"""Answers are scored with the rows they belong to."""

from __future__ import annotations

import json
import types

import pytest

from t5x_mini.errors import UserError
from t5x_mini.evaluate import answers
from t5x_mini.evaluate.config import EvaluateConfig
from t5x_mini.evaluate.id_predictor import Answer
from t5x_mini.evaluate.row_batches import cut
from t5x_mini.feed.config import FeedConfig
from t5x_mini.model.config import DecodingConfig
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


class _Model:
    """In a predictor's place: writes what it reads, or `words` in turn; finds the second of all choices likeliest."""

    def __init__(self, words=None):
        self.words, self.seen, self.sizes = words, [], []

    def generate_ids(self, inputs, decoding, *, batch_size, progress):
        self.seen += inputs
        self.sizes.append(batch_size)
        ids = inputs if self.words is None else [[*VOCABULARY.encode(word), 1] for word in self.words]
        return [Answer([list(row)], [0.0]) for row in ids]

    def score_choices(self, inputs, choices, *, batch_size, progress):
        self.seen += inputs
        self.sizes.append(batch_size)
        return [[-1.0 if place == 1 else -2.0 - len(ids) for place, ids in enumerate(row)] for row in choices]


def _run(feed, *, rank=False, rows=2):
    """What of a run is looked at."""
    evaluate = EvaluateConfig(rank_classification=rank)
    config = types.SimpleNamespace(feed=feed, evaluate=evaluate, decoding=DecodingConfig())
    return types.SimpleNamespace(config=config, eval_rows=rows)


def _answered(task, model=None, limit=None, rank=False, **changed):
    run = _run(_feed(task, **changed), rank=rank)
    return answers.answer_split(run, model or _Model(), task, "validation", limit)


def test_each_answer_stands_beside_its_row(tmp_path):
    answered = _answered(_task(tmp_path))
    assert [(one.row["side"], one.target) for one in answered] == [
        ("left", "no"), ("", "yes"), ("straight on", "yes"), ("right", "no"), ("back", "yes"),
    ]  # fmt: skip
    assert [one.prediction for one in answered] == [one.inputs for one in answered]
    assert [one.inputs for one in answered] == [f"turn: {one.row['side']}" for one in answered]
    assert {one.scores for one in answered} == {None}


def test_reads_as_many_rows_as_it_is_told(tmp_path):
    assert len(_answered(_task(tmp_path), limit=4)) == 4


def test_a_model_sees_what_the_feeds_make_of_the_texts(tmp_path):
    model = _Model()
    _answered(_task(tmp_path), model)
    sides = ("left", "", "straight on", "right", "back")
    assert model.seen == [[*VOCABULARY.encode(f"turn: {side}"), 1] for side in sides]


def test_long_texts_are_cut_before_eos(tmp_path):
    model = _Model()
    _answered(_task(tmp_path, inputs="a very long question about turning: {side}"), model, limit=2)
    assert [len(ids) for ids in model.seen] == [LENGTHS["inputs"]] * 2
    assert [ids[-1] for ids in model.seen] == [1, 1]


def test_what_is_cut_ends_as_the_whole_did():
    assert cut([5, 6, 7, 1], 4) == [5, 6, 7, 1]
    assert cut([5, 6, 7, 1], 3) == [5, 6, 1]
    assert cut([5, 6, 7, 8], 3) == [5, 6, 7]
    assert cut([], 3) == []
    assert cut([5, 6, 7, 8], None) == [5, 6, 7, 8]


def test_a_model_without_inputs_writes_from_nothing(tmp_path):
    model = _Model(["no"] * 5)
    answered = _answered(_task(tmp_path), model, task_feature_lengths={"targets": 34})
    assert model.seen == [[]] * 5
    assert {one.prediction for one in answered} == {"no"}


def test_tasks_with_labels_are_answered_by_the_likeliest(tmp_path):
    answered = _answered(_task(tmp_path), rank=True)
    assert [one.prediction for one in answered] == ["yes"] * 5
    assert answered[0].scores == {"no": -2.0 - len("no") - 1, "yes": -1.0}  # EOS counts


def test_questions_of_several_tasks_are_answered_together_in_their_order(tmp_path):
    ranked, free = _task(tmp_path), _task(tmp_path, labels=(), postprocessor=None, metrics=("exact_match",))
    run, model = _run(_feed(ranked), rank=True), _Model()
    asked = [
        *answers.ask(run, ranked, "validation", 2),
        *answers.ask(run, free, "validation"),
        *answers.ask(run, ranked, "validation", 1),
    ]
    found = answers.answer(run, model, asked)
    assert [one.prediction for one in found] == ["yes"] * 2 + [question.inputs for question in asked[2:7]] + ["yes"]
    assert [one.scores is None for one in found] == [False] * 2 + [True] * 5 + [False]
    assert len(model.sizes) == 2


def test_batches_of_short_rows_have_as_many_tokens_as_a_microbatch(tmp_path):
    run = _run(_feed(_task(tmp_path)), rows=6)
    assert [answers.batch_size(run, longest) for longest in (24, 23, 12, 3, 0, 100)] == [6, 6, 8, 32, 128, 6]


def test_right_answers_are_known_where_an_answer_is_right_or_wrong(tmp_path):
    task = _task(tmp_path)
    assert answers.correct(task, _answered(task, rank=True)) == [False, True, True, False, True]
    assert answers.correct(_task(tmp_path, postprocessor=None, metrics=("bleu",)), _answered(task)) is None


def test_scores_are_the_tasks_metrics(tmp_path):
    task = _task(tmp_path)
    words = ["no", "yes", "no", "maybe", "yes"]
    scores = answers.measure(task, _answered(task, _Model(words)), "validation")
    assert scores == {"accuracy": pytest.approx(60), "f1": pytest.approx(200 / 3)}


def test_all_answers_of_a_row_count(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"question": "Who?", "answer": "Al", "answers": ["Al", "Albert"]}) + "\n")
    task = TextToTextTask(
        name="who", files={"validation": str(file)}, inputs="{question}", targets="{answer}",
        postprocessor="qa", metrics=("squad",),
    )  # fmt: skip
    ((row, _),) = answers.read(task, "validation")
    assert answers.measure(task, [answers.Answered(row, "Who?", "Al", "albert")], "validation") == {
        "em": 100.0,
        "f1": 100.0,
    }


def test_rows_without_labels_are_not_scored(tmp_path):
    task = _task(tmp_path)
    with pytest.raises(UserError, match="turns's split 'test' have no labels.*`t5x-mini infer`"):
        answers.measure(task, [answers.Answered({}, "?", "<unk>", "yes")], "test")
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
