"""What a task is: where its text comes from and what is learned from it, as plain data.

A definition says nothing of vocabularies, lengths or batches (those belong to a run) and imports neither TensorFlow nor
SeqIO: `seqio_tasks.py` makes SeqIO tasks of definitions, and `feed/tokenize.py` reads them as they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from t5x_mini.tasks.objectives import Objective

Row = Mapping[str, Any]
"""One record of a source: `{'text': 'A document.'}`, `{'sentence1': ..., 'sentence2': ..., 'label': 1}`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Where rows come from; exactly one of `files`, `tfds` and `huggingface` is given.

    Attributes:
        name: of the task. In gin it is the scope: `my_text/PretrainingTask.files = ...`.
        files: paths by split, each a path, glob or folder, or several: `{'train': 'text/*.txt'}`. The suffix says what
            they are: `.txt` (a document a line), `.tsv`, `.jsonl` (or `.json`), each also as `.gz` or `.zst`, and
            `.parquet`. `gs://`, `s3://` and `https://` work, `installed_docs://train`
            and `tiny_world://train`.
        tfds: a TensorFlow Datasets builder, `'c4/en:3.1.0'`.
        huggingface: a dataset of the Hugging Face hub, or a folder that `datasets` wrote; `'allenai/c4:en'` names a
            configuration after the colon.
        splits: names of the source's splits by the task's, for `tfds` and `huggingface`:
            `{'validation': 'validation_matched'}`. None: the source's own.
    """

    name: str
    files: Mapping[str, str | tuple[str, ...]] | None = None
    tfds: str | None = None
    huggingface: str | None = None
    splits: Mapping[str, str] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainingTask(Source):
    """Text without labels, and an objective that makes examples of windows of its tokens.

    Attributes:
        field: of a row, that holds the text. A line of a `.txt` file is the row `{'text': line}`.
        objective: makes inputs and targets of a window of tokens. None: the run's, `FeedConfig.objective`.
        eos_between_documents: end each document with EOS before documents are joined; T5 joins them without.
    """

    field: str = "text"
    objective: Objective | None = None
    eos_between_documents: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextToTextTask(Source):
    """Rows written out as a text to read and a text to write, with a way to score what a model writes.

    Attributes:
        inputs: template of the inputs: `'translate English to German: {en}'`.
        targets: template of the targets: `'{de}'`.
        columns: names of a TSV file's columns where its first line doesn't hold them; where that is so of some files
            alone, by their paths: `{'dev.tsv': ('label', 'sentence')}`.
        metrics: names in `evaluate/metrics.py`: `('bleu',)`.
        postprocessor: name in `evaluate/postprocessors.py` of what turns a written text into what the metrics take;
            None: the text as it is.
        labels: class names, where `postprocessor` is `'label'`.
        write: from Python, in place of the templates: a module-level function from a row to
            `{'inputs': str, 'targets': str}`, or to None for a row that is left out.
    """

    inputs: str = "{inputs}"
    targets: str = "{targets}"
    columns: tuple[str, ...] | Mapping[str, tuple[str, ...]] | None = None
    metrics: tuple[str, ...] = ()
    postprocessor: str | None = None
    labels: tuple[str, ...] = ()
    write: Callable[[Row], Mapping[str, str] | None] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixture:
    """Several tasks or mixtures in one stream.

    Attributes:
        name: of the mixture; in gin, the scope.
        tasks: names with rates, `{'my_text': 0.7, 'my_pairs': 0.3}`; or names alone, `('my_text', 'my_pairs')`, whose
            rates are their numbers of training examples, capped and tempered (Raffel et al. 2020, section 3.5.2).
        limit: an example count above this counts as this; for names alone.
        temperature: rates are raised to `1 / temperature`; 1: proportional, large: equal. For names alone.
        without: names among `tasks`, or of tasks in its mixtures, that are left out, for the paper's leave-one-out
            training; a mixture's name leaves out all of its tasks.
    """

    name: str
    tasks: Mapping[str, float] | Sequence[str]
    limit: int | None = None
    temperature: float = 1.0
    without: Sequence[str] = ()


Definition = PretrainingTask | TextToTextTask | Mixture
