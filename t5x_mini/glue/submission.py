"""The files that gluebenchmark.com takes: a prediction for every row of every test set, zipped.

Each is a TSV file with the header `index<tab>prediction`, and a row for each one of the test set, from index 0 on in
order. Predictions are 0 or 1, words (`entailment`), or for STS-B numbers from 0 to 5.
"""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from t5x_mini.errors import UserError
from t5x_mini.tasks.definitions import Row, TextToTextTask
from t5x_mini.tasks.glue import ALIASES

_INDEX = ("index", "id", "idx")  # of most files, of QQP's, and of TensorFlow Datasets


@dataclasses.dataclass(frozen=True)
class TestFile:
    """One file of a submission.

    Attributes:
        name: as the site wants it.
        task: whose split `test` it answers.
        part: that trains a model for it.
        words: whether a label is written as its word; if not, as its number.
    """

    __test__ = False  # pytest takes classes of such a name for tests

    name: str
    task: str
    part: str
    words: bool = False


FILES = (
    TestFile("CoLA.tsv", ALIASES["cola"], "cola"),
    TestFile("SST-2.tsv", ALIASES["sst2"], "sst2"),
    TestFile("MRPC.tsv", ALIASES["mrpc"], "mrpc"),
    TestFile("STS-B.tsv", ALIASES["stsb"], "stsb"),
    TestFile("QQP.tsv", ALIASES["qqp"], "qqp"),
    TestFile("MNLI-m.tsv", ALIASES["mnli_matched"], "mnli", words=True),
    TestFile("MNLI-mm.tsv", ALIASES["mnli_mismatched"], "mnli", words=True),
    TestFile("QNLI.tsv", ALIASES["qnli"], "qnli", words=True),
    TestFile("RTE.tsv", ALIASES["rte"], "rte", words=True),
    TestFile("WNLI.tsv", ALIASES["wnli"], "wnli"),
    TestFile("AX.tsv", ALIASES["ax"], "mnli", words=True),
)


def predictions(rows: Iterable[tuple[Row, str]], task: TextToTextTask) -> dict[int, str]:
    """What was written for each row, by its index; a row without one has its place, from 0.

    Raises:
        UserError: two rows have one index, or an index is no number.
    """
    found: dict[int, str] = {}
    for place, (row, text) in enumerate(rows):
        index = _index(row, place, task.name)
        if index in found:
            raise UserError(f"Two rows of {task.name}'s test set have the index {index}: the site wants one for each.")
        found[index] = text
    return found


def write(file: TestFile, task: TextToTextTask, predicted: Mapping[int, str]) -> tuple[str, int]:
    """The file's text, and how many of its predictions were filled in.

    The site takes whole files alone: an index that is missing (its row could not be read), and a text that is no label
    of the task, get 0 or the first label.
    """
    last = max(predicted, default=-1)
    values = [_value(predicted[index], task) if index in predicted else None for index in range(last + 1)]
    lines = [f"{index}\t{_written(value or 0, file, task)}" for index, value in enumerate(values)]
    return "".join(f"{line}\n" for line in ("index\tprediction", *lines)), values.count(None)


def pack(folder: Path) -> Path:
    """`submission.zip` beside the TSV files, with all of them at its top level."""
    path = folder / "submission.zip"
    with path.open("wb") as packed, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in FILES:
            if (folder / file.name).is_file():
                archive.writestr(file.name, (folder / file.name).read_bytes())
    return path


def _index(row: Row, place: int, task: str) -> int:
    found = next((row[name] for name in _INDEX if name in row), place)
    try:
        return int(found)
    except ValueError:
        raise UserError(f"A row of {task}'s test set has the index {found!r}, which is no number.") from None


def _value(text: str, task: TextToTextTask) -> int | float | None:
    """The label's number, or the score; None for a text that is neither."""
    if task.labels:
        return task.labels.index(text) if text in task.labels else None
    try:
        value = float(text)
    except ValueError:
        return None
    return min(max(value, 0.0), 5.0) if value == value else None  # not a NaN


def _written(value: int | float, file: TestFile, task: TextToTextTask) -> str:
    if not task.labels:
        return f"{value:.3f}"
    return task.labels[int(value)] if file.words else str(value)
