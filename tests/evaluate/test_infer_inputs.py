"""What `infer` answers, wherever it comes from: which rows, where each is, and what is said of those that don't fit."""

import gzip
import json
import subprocess
import sys

import pytest
import tiny_runs

from t5x_mini.errors import UserError
from t5x_mini.evaluate import infer_inputs
from t5x_mini.feed.config import FeedConfig
from t5x_mini.tasks import sources, vocabularies
from t5x_mini.tasks.definitions import Mixture, PretrainingTask, TextToTextTask

VOCABULARY = vocabularies.load("bytes")
LENGTHS = {"inputs": 24, "targets": 10}


def _feed(*tasks, name="installed_docs", **changed):
    fields = dict(mixture_or_task_name=name, task_feature_lengths=LENGTHS, batch_size=2, vocabulary="bytes")
    return FeedConfig(tasks=tasks, **(fields | changed))


def _file(folder, name, data):
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return str(path)


def _rows(path, **changed):
    skipped = sources.Skipped()
    return list(infer_inputs.of_file(path, _feed(**changed)).read(skipped)), str(skipped)


def _turns(folder, name="turns", split="validation", rows=("left", "right", "back")):
    file = folder / f"{name}.tsv"
    file.write_text("side\tword\n" + "".join(f"{side}\tno\n" for side in rows))
    return TextToTextTask(name=name, files={split: str(file)}, inputs="turn: {side}", targets="{word}")


# Files


def test_a_text_file_is_an_input_a_line(tmp_path):
    text = "\ufefffirst\r\n\n  third \u2028still third\x85\rthe last"
    rows, skipped = _rows(_file(tmp_path, "my.questions.txt", text))
    inputs = ["first", "", "  third \u2028still third\x85\rthe last"]
    assert [row.line for row in rows] == [{"inputs": text} for text in inputs]
    assert [row.place for row in rows] == ["line 1", "line 2", "line 3"]
    assert [list(row.ids) for row in rows] == [[*VOCABULARY.encode(text), 1] for text in inputs]
    assert skipped == "empty, and answered all the same: 1, first at line 2"
    assert infer_inputs.of_file(str(tmp_path / "my.questions.txt"), _feed()).name == "my"


def test_json_lines_keep_what_else_they_hold(tmp_path):
    lines = [{"inputs": "a", "targets": "b", "id": 7}, {"id": 8, "inputs": "ç \ud83d\ude00"}]
    text = f"{json.dumps(lines[0])}\n\n{json.dumps(lines[1])}"
    rows, skipped = _rows(_file(tmp_path, "x.jsonl", text))
    assert [(row.place, row.line) for row in rows] == [("line 1", lines[0]), ("line 3", {"id": 8, "inputs": "ç 😀"})]
    assert skipped == "empty, and left out: 1, first at line 2"


def test_compressed_files_are_read_too(tmp_path):
    rows, _ = _rows(_file(tmp_path, "x.jsonl.gz", gzip.compress(b'{"inputs": "a"}\n')))
    assert [row.line for row in rows] == [{"inputs": "a"}]
    rows, _ = _rows(_file(tmp_path, "x.de.gz", gzip.compress(b"a\nb\n")))
    assert len(rows) == 2


@pytest.mark.parametrize(
    "name, data, message",
    [
        ("x.txt", b"fine\nf\xfcr\n", r"Line 2 of .*x\.txt is not UTF-8: b'\\xfcr\\n' at byte 1\. Convert the file"),
        ("x.jsonl", b'{"inputs": "a"}\n{"inputs": \n', "line 2 is not JSON: .*It begins with '{\"inputs\": '"),
        ("x.jsonl", b'{"input": "a", "id": 1}', "line 1 has no text 'inputs', but the keys 'input', 'id'. Each line"),
        ("x.jsonl", b'{"inputs": ["a"]}', "line 1 has no text 'inputs', but the keys 'inputs'"),
        ("x.jsonl", b'"a"', "line 1 has no text 'inputs', but '\"a\"'"),
        ("x.jsonl", b'{"inputs": "a\\ud83d"}', "line 1 has half a character in 'inputs', '.ud83d' at place 1"),
        ("x.txt", b"", "There is nothing to answer in x"),
        ("x.jsonl", b"\n\n", r"nothing to answer in x: everything was left out \(empty, and left out: 2, first"),
    ],
)
def test_what_cannot_be_read_is_said_with_its_line(name, data, message, tmp_path):
    inputs = infer_inputs.of_file(_file(tmp_path, name, data), _feed())
    with pytest.raises(UserError, match=message):
        infer_inputs.survey(inputs, limit=24)


def test_files_that_are_not_there_or_are_tables(tmp_path):
    with pytest.raises(UserError, match="There is no file .*x.txt. INFER_INPUT names a text file"):
        infer_inputs.of_file(str(tmp_path / "x.txt"), _feed())
    with pytest.raises(UserError, match="Tables are read as a task"):
        infer_inputs.of_file(_file(tmp_path, "x.tsv", "a\tb"), _feed())


def test_sentinels_in_a_file_are_sentinels(tmp_path):
    path = _file(tmp_path, "x.txt", "fine\nThe <extra_id_0> is <extra_id_100>.")
    with pytest.raises(UserError, match="INFER_INPUT, line 2: The model's vocabulary has no <extra_id_100>"):
        _rows(path)
    rows, _ = _rows(path, extra_ids=101)
    assert (rows[1].ids[4], rows[1].ids[-3]) == (359, 259)


def test_a_language_models_prompts_go_on(tmp_path):
    path = _file(tmp_path, "x.txt", "Once upon")
    feed = _feed(task_feature_lengths={"targets": 32})
    ((row,), _) = _rows(path, task_feature_lengths={"targets": 32})
    assert row.ids == VOCABULARY.encode("Once upon")
    assert infer_inputs.input_limit(feed) == 32
    assert infer_inputs.input_limit(_feed()) == 24


# Rows that are too long


def test_long_rows_are_counted_and_the_first_is_named(tmp_path):
    path = _file(tmp_path, "x.txt", "\n".join(["short", "x" * 23, "x" * 24, "short", "x" * 60]))
    found = infer_inputs.survey(infer_inputs.of_file(path, _feed()), limit=24)
    assert (found.rows, found.cut, found.first_cut, found.longest) == (5, 2, "line 3", 61)


def test_only_so_many_rows_are_looked_at(tmp_path):
    inputs = infer_inputs.of_file(_file(tmp_path, "x.txt", "a\nb\nc"), _feed())
    assert infer_inputs.survey(inputs, 24, 2).rows == 2


def test_the_digest_tells_other_rows_and_other_tokens(tmp_path):
    def digest(text, **changed):
        return infer_inputs.survey(infer_inputs.of_file(_file(tmp_path, "x.txt", text), _feed(**changed)), 24).digest

    assert digest("a\nb") == digest("a\nb\n")
    others = [digest("a\nb"), digest("b\na"), digest("a\nb\nc"), digest("a\nb", vocabulary="docs_8k")]
    assert len(set(others)) == 4


# Tasks


def test_a_text_to_text_task_is_written_out_in_its_order(tmp_path):
    (inputs,) = infer_inputs.find(None, "validation", _feed(_turns(tmp_path), name="turns"))
    assert inputs.name == "turns-validation"
    rows = list(inputs.read(sources.Skipped()))
    assert [row.line for row in rows] == [{"inputs": f"turn: {s}", "targets": "no"} for s in ("left", "right", "back")]
    assert rows[2].place == "row 3"
    assert rows[0].ids == [*VOCABULARY.encode("turn: left"), 1]


def test_of_a_mixture_the_tasks_that_have_the_split(tmp_path):
    tasks = [_turns(tmp_path, "a"), _turns(tmp_path, "b", "test"), _turns(tmp_path, "c")]
    feed = _feed(*tasks, Mixture(name="all", tasks=("a", "b", "c")), name="all")
    assert [inputs.name for inputs in infer_inputs.find(None, "validation", feed)] == ["a-validation", "c-validation"]
    with pytest.raises(UserError, match="No task of all has a split 'train'; write another"):
        infer_inputs.find(None, "train", feed)


def test_a_task_without_inputs_wants_prompts(tmp_path):
    task = PretrainingTask(name="text", files={"validation": _file(tmp_path, "x.txt", "a")})
    feed = _feed(task, name="text", task_feature_lengths={"targets": 32})
    with pytest.raises(UserError, match="The examples of text have no inputs.*--gin.INFER_INPUT=prompts.txt"):
        infer_inputs.find(None, "validation", feed)


def test_defined_tasks_and_files_are_read_without_tensorflow(tmp_path):
    file, task = _file(tmp_path, "x.txt", "a"), _turns(tmp_path)
    program = (
        "import sys\n"
        "from t5x_mini.evaluate import infer_inputs\n"
        "from t5x_mini.feed.config import FeedConfig\n"
        "from t5x_mini.tasks.definitions import TextToTextTask\n"
        f"feed = FeedConfig(tasks=({task!r},), mixture_or_task_name='turns', task_feature_lengths={LENGTHS}, "
        "batch_size=2, vocabulary='bytes')\n"
        f"for path in (None, {file!r}):\n"
        "    for inputs in infer_inputs.find(path, 'validation', feed):\n"
        "        print(infer_inputs.survey(inputs, 24).rows)\n"
        "print([name for name in ('tensorflow', 'seqio') if name in sys.modules])\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.stdout.split("\n") == ["3", "1", "[]", ""], ran.stderr


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    with tiny_runs.tiny(tmp_path_factory.mktemp("tiny")) as tiny:
        yield tiny


@pytest.mark.parametrize("pack", [False, True])
def test_other_tasks_come_through_the_feed_once_and_unpacked(pack, tiny):
    feed = FeedConfig(
        mixture_or_task_name=tiny_runs.MIXTURE,
        mixture_or_task_module=tiny_runs.MODULE,
        task_feature_lengths={"inputs": 64, "targets": 14},
        batch_size=16,
        pack=pack,
    )
    for name, inputs in zip(sorted(tiny_runs.TASKS), infer_inputs.find(None, "validation", feed), strict=True):
        assert inputs.name == f"{name}-validation"
        rows = list(inputs.read(sources.Skipped()))
        assert rows == list(inputs.read(sources.Skipped()))
        assert all(0 < len(row.ids) <= 64 and row.ids[-1] == 1 and 0 not in row.ids for row in rows)
        # With the spans put back, the whole split is there.
        words = sum(len(row.line[feature].split()) for row in rows for feature in ("inputs", "targets"))
        assert words >= len((tiny.folder / f"{name}_validation.txt").read_text().split())
