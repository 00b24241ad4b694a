"""SQuAD's texts and answers are T5's, from TensorFlow Datasets' rows and from SQuAD's own JSON."""

from __future__ import annotations

import json
import pickle

import pytest
from task_goldens import T5, assert_as_t5

from t5x_mini.errors import UserError
from t5x_mini.evaluate import postprocessors
from t5x_mini.tasks import sources, squad
from t5x_mini.tasks.text_to_text import write_row

(SQUAD,) = squad.definitions()
ROWS = T5["tasks"]["squad_v010_allanswers"]["rows"]


def test_writes_what_t5_writes():
    assert squad.ALIASES["squad"] == SQUAD.name
    assert_as_t5(SQUAD)


def _squad_file(folder, rows) -> squad.SquadTask:
    questions = [
        {
            "id": row["id"],
            "question": row["question"],
            "answers": [{"text": text, "answer_start": 0} for text in row["answers"]["text"]],
        }
        for row in rows
    ]
    paragraphs = [{"context": row["context"], "qas": [asked]} for row, asked in zip(rows, questions, strict=True)]
    file = folder / "dev-v1.1.json"
    file.write_text(json.dumps({"version": "1.1", "data": [{"title": "T", "paragraphs": paragraphs}]}, indent=1))
    return squad.SquadTask(name="my_squad", files={"validation": str(file)})


def test_reads_squads_own_json(tmp_path):
    definition = pickle.loads(pickle.dumps(_squad_file(tmp_path, [recorded["row"] for recorded in ROWS])))
    (shard,) = sources.shards(definition, "validation")
    rows = list(sources.read(definition, shard))
    assert [write_row(definition, row)["inputs"] for row in rows] == [recorded["inputs"] for recorded in ROWS]
    answers = postprocessors.by_name(definition.postprocessor)
    assert [answers("", row, True, definition) for row in rows] == [recorded["target"] for recorded in ROWS]


@pytest.mark.parametrize(
    "document, message",
    [({"rows": []}, "there is no 'data'"), ([1], "list indices"), ({"data": [{"paragraphs": [{}]}]}, "no 'qas'")],
)
def test_says_what_squads_json_looks_like(document, message):
    definition = squad.SquadTask(name="my_squad", files={})
    with pytest.raises(UserError, match=rf"my_squad: the file is not in SQuAD 1.1's JSON format \(.*{message}.*'qas'"):
        list(definition.parse_json(document))


def test_refuses_a_question_without_an_answer():
    row = {"question": "Who?", "context": "Nobody.", "answers": {"text": []}}
    with pytest.raises(UserError, match="'Who\\?' has no answer.*SQuAD 1.1"):
        write_row(SQUAD, row)


def test_names_what_a_row_lacks():
    with pytest.raises(UserError, match="lacks 'answers'; it has 'question', 'context'"):
        write_row(SQUAD, {"question": "Who?", "context": "Nobody."})
