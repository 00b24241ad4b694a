"""docs/architectures.md shows what the study's file holds, of the study that is in gin/studies."""

import pathlib

from t5x_mini import config
from t5x_mini.study import report as report_module
from t5x_mini.study.cells import make_cells

DOCS = pathlib.Path(__file__).parents[2] / "docs"
REPORT = report_module.from_json((DOCS / "studies" / "architectures.json").read_text())


def test_the_page_has_the_tables_of_the_results():
    page = (DOCS / "architectures.md").read_text()
    assert report_module.as_markdown(REPORT).split("\n\n")[0] in page
    assert report_module.orderings_as_markdown(REPORT) in page


def test_the_results_are_of_the_study_that_comes_with_the_project():
    study = config.load_study(["gin/studies/architectures.gin"])
    assert REPORT.study == study
    assert [cell.settings for cell in REPORT.cells] == [cell.settings for cell in make_cells(study)]
    assert [cell.steps for cell in REPORT.cells] == [cell.steps for cell in make_cells(study)]


def test_every_cell_was_trained_with_every_seed():
    trained = {(outcome.cell, outcome.seed) for outcome in REPORT.outcomes}
    assert trained == {(cell.name, seed) for cell in REPORT.cells for seed in range(REPORT.study.seeds)}


def test_from_most_cells_something_can_be_concluded():
    assert sum(not REPORT.is_doubtful(cell) for cell in REPORT.cells) > len(REPORT.cells) / 2
