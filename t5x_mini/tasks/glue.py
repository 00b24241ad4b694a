"""The GLUE benchmark as text: T5's twelve tasks and their mixture, under T5's names.

A row is written as `'mrpc sentence1: ... sentence2: ...'`, its label as a word (Raffel et al. 2020, section 2.4 and
appendix D). Rows come from TensorFlow Datasets, or from a folder in the format of the GLUE site:

    GLUE_DIR/CoLA/{train,dev}.tsv    GLUE_DIR/MNLI/{train,dev_matched,dev_mismatched}.tsv    GLUE_DIR/RTE/...

Both kinds are brought into TensorFlow Datasets' form first, so one function writes both.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence

import numpy as np

from t5x_mini import resources
from t5x_mini.errors import UserError
from t5x_mini.tasks.definitions import Mixture, Row, TextToTextTask

_NLI = ("entailment", "neutral", "contradiction")
_CORRELATIONS = ("pearson", "spearman")
_TSV_SPLITS = {"train": "train.tsv", "validation": "dev.tsv", "test": "test.tsv"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Task:
    """What sets one GLUE task apart.

    Attributes:
        texts: feature names, in T5's alphabetic order, each with the columns that hold it in a TSV file.
        labels: class names in the order of their ids; empty: the label is a number from 0 to 5.
        metrics: as T5 reports them.
        rate: T5's in `glue_v002_proportional`; None: not in the mixture.
        prefix: first word of the inputs; None: the task's own name.
        folder: under GLUE_DIR.
        label_column: in a TSV file; a file without it is a test set.
        columns: of TSV files without a header, which a test set always has.
        splits: the file of each split.
    """

    texts: Mapping[str, str]
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    rate: float | None
    folder: str
    prefix: str | None = None
    label_column: str = "label"
    columns: tuple[str, ...] | None = None
    splits: Mapping[str, str] = dataclasses.field(default_factory=lambda: _TSV_SPLITS)


def _mnli(rate: float, splits: Mapping[str, str], folder: str = "MNLI", metrics=("accuracy",)) -> _Task:
    return _Task(
        texts={"hypothesis": "sentence2", "premise": "sentence1"},
        labels=_NLI,
        metrics=metrics,
        rate=rate,
        folder=folder,
        prefix="mnli",
        label_column="gold_label",
        splits=splits,
    )


_SENTENCE = {"sentence": "sentence"}
_PAIR = {"sentence1": "sentence1", "sentence2": "sentence2"}

# Rates are T5's numbers of training examples. WNLI is not in T5's mixture: its development set is adversarial.
_TASKS = {
    "cola": _Task(
        texts=_SENTENCE,
        labels=("unacceptable", "acceptable"),
        metrics=("matthews",),
        rate=8551,
        folder="CoLA",
        columns=("source", "label", "mark", "sentence"),
    ),
    "sst2": _Task(texts=_SENTENCE, labels=("negative", "positive"), metrics=("accuracy",), rate=67349, folder="SST-2"),
    "mrpc": _Task(
        texts={"sentence1": "#1 String", "sentence2": "#2 String"},
        labels=("not_equivalent", "equivalent"),
        metrics=("f1_with_invalid", "accuracy"),
        rate=3668,
        folder="MRPC",
        label_column="Quality",
    ),
    "qqp": _Task(
        texts={"question1": "question1", "question2": "question2"},
        labels=("not_duplicate", "duplicate"),
        metrics=("f1_with_invalid", "accuracy"),
        rate=363849,
        folder="QQP",
        label_column="is_duplicate",
    ),
    "stsb": _Task(texts=_PAIR, labels=(), metrics=_CORRELATIONS, rate=5749, folder="STS-B", label_column="score"),
    "mnli": _mnli(
        392702,
        {
            "train": "train.tsv",
            "validation_matched": "dev_matched.tsv",
            "validation_mismatched": "dev_mismatched.tsv",
            "test_matched": "test_matched.tsv",
            "test_mismatched": "test_mismatched.tsv",
        },
    ),
    "mnli_mismatched": _mnli(0, {"validation": "dev_mismatched.tsv", "test": "test_mismatched.tsv"}),
    "mnli_matched": _mnli(0, {"validation": "dev_matched.tsv", "test": "test_matched.tsv"}),
    "qnli": _Task(
        texts={"question": "question", "sentence": "sentence"},
        labels=("entailment", "not_entailment"),
        metrics=("accuracy",),
        rate=104743,
        folder="QNLI",
    ),
    "rte": _Task(texts=_PAIR, labels=("entailment", "not_entailment"), metrics=("accuracy",), rate=2490, folder="RTE"),
    "wnli": _Task(
        texts=_PAIR, labels=("not_entailment", "entailment"), metrics=("accuracy",), rate=None, folder="WNLI"
    ),
    "ax": _mnli(0, {"test": "AX.tsv"}, folder="AX", metrics=()),
}

ALIASES = {short: f"glue_{short}_v002" for short in _TASKS} | {"glue": "glue_v002_proportional"}
"""Short names, and what T5 calls them."""


def definitions(glue_dir: str | None = None) -> list[TextToTextTask | Mixture]:
    """All GLUE tasks, `glue_v002_proportional` with T5's rates, and `glue_mnli_and_dev_v002`.

    `glue_dir` is a folder in the GLUE site's format, or `'tiny'` for the tables that ship in `data/tiny_glue`. None:
    the environment's GLUE_DIR, or without it TensorFlow Datasets.

    Raises:
      UserError: the folder `glue_dir` does not exist. That a file is missing, or the folder that the environment
        names, is an error only of the task that is read.
    """
    folder = glue_dir or os.environ.get("GLUE_DIR")
    if folder == "tiny":
        folder = resources.data_path("tiny_glue")
    elif glue_dir and "://" not in glue_dir and not os.path.isdir(glue_dir):
        raise UserError(
            f"The GLUE folder {glue_dir!r} does not exist. GLUE_DIR is a folder with the subfolders of the GLUE site "
            "(CoLA, SST-2, RTE, ...), or 'tiny' for the tables that come with the project; without it, TensorFlow "
            "Datasets downloads GLUE."
        )
    tasks = [_definition(name, task, folder) for name, task in _TASKS.items()]
    rates = {ALIASES[name]: float(task.rate) for name, task in _TASKS.items() if task.rate is not None}
    mnli = {name: 1.0 for name in rates if "mnli" in name}
    return [
        *tasks,
        Mixture(name="glue_v002_proportional", tasks=rates),
        Mixture(name="glue_mnli_and_dev_v002", tasks=mnli),
    ]


def _definition(name: str, task: _Task, glue_dir: str | None) -> TextToTextTask:
    if glue_dir is None:
        source = dict(
            tfds=f"glue/{name}:2.0.0",
            splits={"test": "test"} if name == "ax" else None,
            write=_partial(write, name),
        )
    else:
        files = _files(task, glue_dir)
        source = dict(
            files=files,
            columns=task.columns and {path: task.columns for split, path in files.items() if split != "test"},
            write=_partial(write_tsv, name, tuple(files.values())),
        )
    return TextToTextTask(
        name=ALIASES[name],
        labels=task.labels,
        metrics=task.metrics,
        postprocessor="label" if task.labels else "float",
        **source,
    )


# One object for one task: partial functions are only equal to themselves, and definitions that say the same should be.
_partial = functools.cache(functools.partial)


def _files(task: _Task, glue_dir: str) -> dict[str, str]:
    paths = {split: os.path.join(glue_dir, task.folder, file) for split, file in task.splits.items()}
    if task.folder == "AX" and not os.path.isfile(paths["test"]):
        # The name that GLUE's download script gives it.
        paths["test"] = os.path.join(glue_dir, "diagnostic", "diagnostic.tsv")
    # Unlabelled test sets may be absent. The others are named all the same: reading one says that it is not there.
    needed = {split for split in paths if not split.startswith("test")} or paths.keys()
    return {split: path for split, path in paths.items() if split in needed or os.path.isfile(path)}


def write(name: str, row: Row) -> dict[str, str]:
    """T5's texts for a row of TensorFlow Datasets' form: `{'sentence1': str, ..., 'label': int | float}`.

    `name` is GLUE's own (`'mrpc'`). Label -1, of rows without one, is written `'<unk>'`; STS-B's scores are rounded to
    the nearest fifth, in float32 and halves to even, as T5 does: 2.5 becomes `'2.4'`.

    Raises:
      UserError: a text is missing, or there is no such label.
    """
    task = _TASKS[name]
    inputs = write_inputs(task.prefix or name, tuple(task.texts), row, ALIASES[name])
    label = row["label"]
    return {
        "inputs": inputs,
        "targets": label_word(label, task.labels, ALIASES[name]) if task.labels else _fifths(label),
    }


def write_inputs(prefix: str, features: Sequence[str], row: Row, name: str) -> str:
    """`'prefix feature1: ... feature2: ...'`, for a row of the task `name`.

    Raises:
      UserError: a feature is missing, or the label is.
    """
    missing = [feature for feature in (*features, "label") if feature not in row]
    if missing:
        raise UserError(f"A row of {name} lacks {missing[0]!r}; it has {', '.join(map(repr, row))}.")
    return " ".join([prefix, *(part for feature in features for part in (f"{feature}:", row[feature]))])


def label_word(label: int, labels: Sequence[str], name: str) -> str:
    """The word of a class id; T5's `'<unk>'` for -1, which marks rows whose label nobody has told.

    Raises:
      UserError: there is no such class.
    """
    if label == -1:
        return "<unk>"
    if not 0 <= label < len(labels):
        raise UserError(f"{name} has no label {label}: its labels are 0 to {len(labels) - 1}, or -1 for none.")
    return labels[label]


def _fifths(score: float) -> str:
    five = np.float32(5)
    return f"{np.rint(np.float32(score) * five) / five:.1f}"


def write_tsv(name: str, files: tuple[str, ...], row: Row) -> dict[str, str]:
    """`write` for a row of a TSV file of the GLUE site, by the names of its columns, all of them strings.

    Raises:
      UserError: a column is missing, or the label is neither a word nor a number of the task's. The text says which
        line of which of `files` the row is, where that can be found out.
    """
    try:
        return write(name, from_tsv(name, row))
    except UserError as error:
        raise UserError(f"{_place(row, files)}: {error}") from None


def _place(row: Row, files: tuple[str, ...]) -> str:
    # Rows don't say where they are from. A search is quick enough for the one row that ends a command.
    line = "\t".join(row.values())
    for path in files:
        if os.path.isfile(path):
            with open(path, encoding="utf-8-sig", errors="replace") as file:
                for number, candidate in enumerate(file, start=1):
                    if candidate.rstrip("\r\n") == line:
                        return f"{path} line {number}"
    return os.path.dirname(files[0])


def from_tsv(name: str, row: Row) -> dict[str, str | int | float]:
    """A row of a TSV file in TensorFlow Datasets' form: its names for the texts, and the label as a number."""
    task = _TASKS[name]
    missing = [column for column in task.texts.values() if column not in row]
    if missing:
        raise UserError(
            f"there is no column {missing[0]!r}, only {', '.join(map(repr, row))}. The columns of {ALIASES[name]} are "
            "those of the GLUE site's files."
        )
    texts = {feature: row[column] for feature, column in task.texts.items()}
    return texts | {"label": _number(row.get(task.label_column, "-1"), task)}


def _number(label: str, task: _Task) -> int | float:
    if label in task.labels:
        return task.labels.index(label)
    try:
        return int(label) if task.labels else float(label)
    except ValueError:
        expected = f"one of {', '.join(map(repr, task.labels))}" if task.labels else "a number from 0 to 5"
        raise UserError(f"the label {label!r} is not {expected}.") from None
