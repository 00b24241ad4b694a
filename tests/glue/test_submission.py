"""The files of a submission are as gluebenchmark.com wants them."""

import zipfile

import pytest

from t5x_mini.errors import UserError
from t5x_mini.evaluate import answers
from t5x_mini.feed.config import FeedConfig
from t5x_mini.glue import submission
from t5x_mini.tasks import registry

FEED = FeedConfig(mixture_or_task_name="", task_feature_lengths={}, batch_size=1, glue_dir="tiny")
FILES = {file.name: file for file in submission.FILES}
# The site's sample submission: what each file may hold.
WORDS = {
    **dict.fromkeys(("CoLA.tsv", "SST-2.tsv", "MRPC.tsv", "QQP.tsv", "WNLI.tsv"), {"0", "1"}),
    **dict.fromkeys(("MNLI-m.tsv", "MNLI-mm.tsv", "AX.tsv"), {"entailment", "neutral", "contradiction"}),
    **dict.fromkeys(("QNLI.tsv", "RTE.tsv"), {"entailment", "not_entailment"}),
}


def test_there_are_the_sites_eleven_files():
    assert set(FILES) == set(WORDS) | {"STS-B.tsv"}


def written(name, texts):
    """The file with the answers `texts`, over and over, to the tiny test set; its lines, and its task's rows."""
    task = registry.find(FILES[name].task, FEED)
    rows = [row for row, _ in answers.read(task, "test")]
    pairs = [(row, texts[place % len(texts)]) for place, row in enumerate(rows)]
    text, filled = submission.write(FILES[name], task, submission.predictions(pairs, task))
    assert text.endswith("\n")
    return [line.split("\t") for line in text.splitlines()], rows, filled


@pytest.mark.parametrize("name", WORDS)
def test_a_line_for_each_row_of_the_test_set_with_its_label(name):
    labels = registry.find(FILES[name].task, FEED).labels
    lines, rows, filled = written(name, labels)
    assert lines[0] == ["index", "prediction"]
    assert [index for index, _ in lines[1:]] == [str(place) for place in range(len(rows))]
    assert {prediction for _, prediction in lines} - {"prediction"} == WORDS[name]
    assert filled == 0


def test_numbers_are_the_labels_places():
    lines, _, _ = written("CoLA.tsv", ("acceptable", "unacceptable"))
    assert [prediction for _, prediction in lines[1:3]] == ["1", "0"]


def test_words_are_the_labels_own():
    lines, _, _ = written("MNLI-m.tsv", ("contradiction", "entailment", "neutral"))
    assert [prediction for _, prediction in lines[1:4]] == ["contradiction", "entailment", "neutral"]


def test_scores_stay_between_0_and_5():
    lines, _, filled = written("STS-B.tsv", ("2.4", "-1.0", "7", "nan", "good"))
    assert [prediction for _, prediction in lines[1:6]] == ["2.400", "0.000", "5.000", "0.000", "0.000"]
    assert filled == sum(place % 5 in (3, 4) for place in range(len(lines) - 1))


def test_what_is_no_label_gets_the_first_and_is_counted():
    lines, rows, filled = written("RTE.tsv", ("perhaps", "not_entailment"))
    assert [prediction for _, prediction in lines[1:3]] == ["entailment", "not_entailment"]
    assert filled == len(rows) // 2


def test_rows_go_by_their_index_and_gaps_are_filled():
    task = registry.find("rte", FEED)
    pairs = [({"idx": 3}, "not_entailment"), ({"idx": 0}, "not_entailment"), ({"idx": 1}, "entailment")]
    text, filled = submission.write(FILES["RTE.tsv"], task, submission.predictions(pairs, task))
    assert text == "index\tprediction\n0\tnot_entailment\n1\tentailment\n2\tentailment\n3\tnot_entailment\n"
    assert filled == 1


def test_rows_without_an_index_go_by_their_place():
    task = registry.find("sst2", FEED)
    found = submission.predictions([({"sentence": "a"}, "positive"), ({"sentence": "b"}, "negative")], task)
    assert found == {0: "positive", 1: "negative"}


def test_refuses_two_rows_of_one_index_and_an_index_that_is_none():
    task = registry.find("sst2", FEED)
    with pytest.raises(UserError, match="Two rows of glue_sst2_v002's test set have the index 4"):
        submission.predictions([({"index": "4"}, "positive"), ({"index": "4"}, "negative")], task)
    with pytest.raises(UserError, match="has the index 'x', which is no number"):
        submission.predictions([({"index": "x"}, "positive")], task)


def test_the_zip_has_all_files_at_its_top(tmp_path):
    for name in FILES:
        (tmp_path / name).write_text("index\tprediction\n")
    (tmp_path / "made_from.json").write_text("{}")
    with zipfile.ZipFile(submission.pack(tmp_path)) as archive:
        assert sorted(archive.namelist()) == sorted(FILES)
