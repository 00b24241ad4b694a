"""GLUE's texts, rates and names are T5's, from TensorFlow Datasets' rows and from the GLUE site's files."""

from __future__ import annotations

import pickle

import pytest
from task_goldens import T5, assert_as_t5

from t5x_mini import resources
from t5x_mini.errors import UserError
from t5x_mini.tasks import glue, sources
from t5x_mini.tasks.definitions import Mixture, TextToTextTask
from t5x_mini.tasks.text_to_text import write_row

NAMES = [name for name in T5["tasks"] if name.startswith("glue_")]


@pytest.fixture(autouse=True)
def no_glue_dir(monkeypatch):
    monkeypatch.delenv("GLUE_DIR", raising=False)


def _definitions(glue_dir=None) -> dict[str, TextToTextTask | Mixture]:
    return {definition.name: definition for definition in glue.definitions(glue_dir)}


def test_has_t5s_tasks_and_rates():
    definitions = _definitions()
    mixtures = {name: dict(part.tasks) for name, part in definitions.items() if isinstance(part, Mixture)}
    assert mixtures == T5["rates"]
    assert sorted(definitions.keys() - mixtures.keys()) == sorted(NAMES)
    assert set(glue.ALIASES.values()) <= definitions.keys()
    assert glue.ALIASES["glue"] == "glue_v002_proportional"


@pytest.mark.parametrize("name", NAMES)
def test_writes_what_t5_writes(name):
    definition = _definitions()[name]
    assert_as_t5(definition)
    assert (list(definition.splits) if definition.splits else None) == T5["tasks"][name]["splits"]


def test_travels_to_other_processes():
    definitions = glue.definitions() + glue.definitions("tiny")
    row = {"sentence": "x", "label": 1}
    again = pickle.loads(pickle.dumps(definitions))
    assert [part.name for part in again] == [part.name for part in definitions]
    assert write_row(again[0], row) == write_row(definitions[0], row)


_COLUMNS = {
    "CoLA": ["source", "label", "mark", "sentence"],
    "SST-2": ["sentence", "label"],
    "MRPC": ["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"],
    "QQP": ["id", "qid1", "qid2", "question1", "question2", "is_duplicate"],
    "STS-B": ["index", "genre", "sentence1", "sentence2", "score"],
    "MNLI": ["index", "genre", "sentence1", "sentence2", "label1", "gold_label"],
    "QNLI": ["index", "question", "sentence", "label"],
    "RTE": ["index", "sentence1", "sentence2", "label"],
    "WNLI": ["index", "sentence1", "sentence2", "label"],
}
_TEXT_COLUMNS = {
    "MRPC": {"#1 String": "sentence1", "#2 String": "sentence2"},
    "MNLI": {"sentence1": "premise", "sentence2": "hypothesis"},
}
_WORDS = ("MNLI", "QNLI", "RTE")


def _site_folder(root, folder: str, task: str):
    """A folder of the GLUE site with T5's recorded rows, those that a line can hold, and T5's texts for them."""
    kept = []
    lines = [] if folder == "CoLA" else ["\t".join(_COLUMNS[folder])]
    for recorded in T5["tasks"][task]["rows"]:
        row = recorded["row"]
        texts = [value for value in row.values() if isinstance(value, str)]
        if row["label"] == -1 or any(character in text for text in texts for character in "\t\n\r\v\u2028"):
            continue
        cells = []
        for column in _COLUMNS[folder]:
            if column in ("label", "Quality", "is_duplicate", "score", "gold_label"):
                cells.append(recorded["targets"] if folder in _WORDS else str(row["label"]))
            else:
                cells.append(str(row.get(_TEXT_COLUMNS.get(folder, {}).get(column, column), "0")))
        lines.append("\t".join(cells))
        kept.append({"inputs": recorded["inputs"], "targets": recorded["targets"]})
    path = root / folder / ("dev_matched.tsv" if folder == "MNLI" else "dev.tsv")
    path.parent.mkdir()
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path, kept


def _written(definition: TextToTextTask, split: str) -> list[dict[str, str]]:
    rows = (row for shard in sources.shards(definition, split) for row in sources.read(definition, shard))
    return [write_row(definition, row) for row in rows]


@pytest.mark.parametrize("folder", _COLUMNS)
def test_reads_the_glue_sites_files(folder, tmp_path):
    short = "mnli_matched" if folder == "MNLI" else folder.lower().replace("-", "")
    name = glue.ALIASES[short]
    _, texts = _site_folder(tmp_path, folder, name)
    assert len(texts) >= 2
    assert _written(_definitions(str(tmp_path))[name], "validation") == texts


def test_a_file_without_labels_is_a_test_set(tmp_path):
    (tmp_path / "AX").mkdir()
    (tmp_path / "AX" / "AX.tsv").write_text("index\tsentence1\tsentence2\n0\tIt rains.\tIt pours.\n")
    assert _written(_definitions(str(tmp_path))["glue_ax_v002"], "test") == [
        {"inputs": "mnli hypothesis: It pours. premise: It rains.", "targets": "<unk>"}
    ]


def test_the_diagnostic_set_has_two_names(tmp_path):
    assert _definitions(str(tmp_path))["glue_ax_v002"].files == {"test": f"{tmp_path}/diagnostic/diagnostic.tsv"}


def test_says_which_file_and_line_has_an_unknown_label(tmp_path):
    path, _ = _site_folder(tmp_path, "RTE", "glue_rte_v002")
    path.write_text(path.read_text() + "7\tOne.\tTwo.\tperhaps\n")
    line = len(path.read_text().splitlines())
    with pytest.raises(UserError, match=rf"dev.tsv line {line}: the label 'perhaps' is not one of 'entailment', 'not_"):
        _written(_definitions(str(tmp_path))["glue_rte_v002"], "validation")


def test_says_which_columns_there_are(tmp_path):
    (tmp_path / "QNLI").mkdir()
    (tmp_path / "QNLI" / "dev.tsv").write_text("index\tquery\tsentence\tlabel\n0\ta\tb\tentailment\n")
    with pytest.raises(UserError, match=r"dev.tsv line 2: there is no column 'question', only 'index', 'query'"):
        _written(_definitions(str(tmp_path))["glue_qnli_v002"], "validation")


def test_refuses_a_row_with_a_column_too_many(tmp_path):
    path, _ = _site_folder(tmp_path, "CoLA", "glue_cola_v002")
    path.write_text("gj04\t1\t\tA sentence\twith a tab.\n")
    with pytest.raises(UserError, match="dev.tsv.*1"):
        _written(_definitions(str(tmp_path))["glue_cola_v002"], "validation")


def test_leaves_out_the_broken_rows_of_qqp_and_counts_them(tmp_path):
    path, texts = _site_folder(tmp_path, "QQP", "glue_qqp_v002")
    path.write_text(path.read_text() + "9\t1\t2\tone question\n")
    definition = _definitions(str(tmp_path))["glue_qqp_v002"]
    skipped = sources.Skipped()
    (shard,) = sources.shards(definition, "validation")
    assert len(list(sources.read(definition, shard, skipped))) == len(texts)
    assert "1" in str(skipped)


@pytest.mark.parametrize("label, message", [(2, "no label 2: its labels are 0 to 1"), (-2, "no label -2")])
def test_refuses_a_label_out_of_range(label, message):
    with pytest.raises(UserError, match=message):
        glue.write("rte", {"sentence1": "x", "sentence2": "y", "label": label})


def test_refuses_a_folder_that_is_not_there():
    with pytest.raises(UserError, match="'/no/such/folder' does not exist.*'tiny'"):
        glue.definitions("/no/such/folder")


def test_the_environment_names_a_folder_too(monkeypatch):
    monkeypatch.setenv("GLUE_DIR", "/no/such/folder")
    # Set for another project, perhaps: an error only of who reads GLUE.
    definition = _definitions()["glue_rte_v002"]
    with pytest.raises(UserError, match="/no/such/folder/RTE/dev.tsv"):
        sources.shards(definition, "validation")
    monkeypatch.setenv("GLUE_DIR", "tiny")
    assert _definitions() == _definitions("tiny")


def test_definitions_that_say_the_same_are_equal():
    assert glue.definitions() == glue.definitions()
    assert glue.definitions() != glue.definitions("tiny")


def test_a_missing_file_is_an_error_of_its_task_alone(tmp_path):
    definitions = _definitions(str(tmp_path))
    with pytest.raises(UserError, match="SST-2/train.tsv"):
        sources.shards(definitions["glue_sst2_v002"], "train")


@pytest.mark.parametrize("short", [name for name in glue.ALIASES if name != "glue"])
def test_the_tiny_tables_can_be_read(short):
    definition = _definitions("tiny")[glue.ALIASES[short]]
    assert resources.data_path("tiny_glue") in next(iter(definition.files.values()))
    assert sorted(definition.files) == sorted(sources.splits(definition))
    for split in definition.files:
        texts = _written(definition, split)
        known = {text["targets"] for text in texts}
        if split.startswith("test"):
            assert known == ({"-1.0"} if short == "stsb" else {"<unk>"})
        elif definition.labels:
            assert known == set(definition.labels)
        else:
            assert len(known) > 5


def test_colas_test_set_has_other_columns_than_its_training_set(tmp_path):
    (tmp_path / "CoLA").mkdir()
    (tmp_path / "CoLA" / "dev.tsv").write_text("gj04\t1\t\tThe sailors rode the breeze.\n")
    (tmp_path / "CoLA" / "test.tsv").write_text("index\tsentence\n0\tBill whistled past the house.\n")
    definition = _definitions(str(tmp_path))["glue_cola_v002"]
    assert _written(definition, "validation") == [
        {"inputs": "cola sentence: The sailors rode the breeze.", "targets": "acceptable"}
    ]
    assert _written(definition, "test") == [
        {"inputs": "cola sentence: Bill whistled past the house.", "targets": "<unk>"}
    ]
