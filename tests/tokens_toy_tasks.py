"""SeqIO tasks of words, as somebody may register them in Python, to be kept as tokens."""

import os
from pathlib import Path

import seqio

from t5x_mini.tasks import vocabularies
from t5x_mini.tasks.objectives import SpanCorruption
from t5x_mini.tasks.seqio_tasks import apply_objective, tokenize

FOLDER = Path(os.environ["TOKENS_TOY_TASKS"])
VOCABULARY = vocabularies.load("docs_8k").seqio()
PAIR = {"inputs": seqio.Feature(VOCABULARY, add_eos=True), "targets": seqio.Feature(VOCABULARY, add_eos=True)}
SOURCE = seqio.TextLineDataSource({"train": str(FOLDER / "train-*.txt"), "validation": str(FOLDER / "validation.txt")})


@seqio.map_over_dataset
def to_pair(line):
    return {"inputs": "say " + line, "targets": line}


def needs_lengths(dataset, sequence_length):
    return dataset.take(sequence_length["inputs"])


def add(name, *preprocessors, features=PAIR):
    options = dict(preprocessors=list(preprocessors), output_features=features, metric_fns=[])
    seqio.TaskRegistry.add(name, source=SOURCE, **options)


END = seqio.preprocessors.append_eos_after_trim
add("words_pairs", to_pair, seqio.preprocessors.tokenize, seqio.CacheDatasetPlaceholder(), END)
add("words_without_eos", to_pair, seqio.preprocessors.tokenize)
add("words_stream", tokenize(), seqio.CacheDatasetPlaceholder(), apply_objective(SpanCorruption()))
add(
    "words_stream_with_eos",
    tokenize(),
    seqio.CacheDatasetPlaceholder(),
    apply_objective(SpanCorruption(), eos_between_documents=True),
)
add("words_no_place", tokenize(), apply_objective(SpanCorruption()))
add("words_by_length", to_pair, seqio.preprocessors.tokenize, needs_lengths)
add("words_as_text", to_pair)
add("words_late", to_pair, seqio.CacheDatasetPlaceholder(), tokenize("targets"), apply_objective(SpanCorruption()))
seqio.MixtureRegistry.add("words_mixture", ["words_pairs", "words_without_eos"], default_rate=1.0)
