"""Files that an evaluation leaves: whole, in JSON, and right after a run was resumed."""

import json

from t5x_mini.evaluate import inference_files


def _lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_metrics_are_a_line_an_evaluation(tmp_path):
    for step, value in ((2, 50.0), (4, float("nan")), (6, 75.0)):
        inference_files.write_metrics(tmp_path, "turns", step, {"accuracy": value})
    file = tmp_path / "inference_eval" / "turns-metrics.jsonl"
    first, second = {"step": 2, "accuracy": 50.0}, {"step": 4, "accuracy": None}
    assert _lines(file) == [first, second, {"step": 6, "accuracy": 75.0}]
    inference_files.write_metrics(tmp_path, "turns", 4, {"accuracy": 25.0})  # as a resumed run does
    assert _lines(file) == [first, {"step": 4, "accuracy": 25.0}]


def test_answers_are_written_over_those_of_the_same_step(tmp_path):
    for text in ("first", "é\u2028\udce9"):
        inference_files.write_answers(tmp_path, "turns", 2, [{"inputs": text, "scores": {"no": float("nan")}}] * 2)
    file = tmp_path / "inference_eval" / "turns-2.jsonl"
    assert file.read_bytes().count(b"\n") == 2
    assert json.loads(file.read_bytes().split(b"\n")[0]) == {"inputs": "é\u2028\udce9", "scores": {"no": None}}
    assert [path.name for path in file.parent.iterdir()] == [file.name]
