"""Tasks registered with SeqIO in Python: their examples, or the text before their objective, as tokens on disk."""

import numpy as np
import pytest

from t5x_mini.errors import UserError
from t5x_mini.feed.config import FeedConfig
from t5x_mini.tasks import vocabularies
from t5x_mini.tokens import pool, seqio_reader
from t5x_mini.tokens.store import TokenStore
from t5x_mini.tokens.tokenize import tokenize

LINES = {"train-0": ["a file", "nothing"], "train-1": ["is left"], "validation": ["the number of tokens"]}
LOCAL = vocabularies.load("docs_8k")


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """The configuration of a run that knows the tasks of tokens_toy_tasks.py."""
    folder = tmp_path_factory.mktemp("words")
    for name, lines in LINES.items():
        (folder / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOKENS_TOY_TASKS", str(folder))
        fixed = dict(task_feature_lengths={"inputs": 16, "targets": 16}, batch_size=4)
        yield FeedConfig(mixture_or_task_name="unused", mixture_or_task_module="tokens_toy_tasks", **fixed)


def kept(words, name, split="train"):
    """(contents, tokens, lengths) of all parts, read in this process."""
    [(contents, parts)] = seqio_reader.plans(words, name, (split,))
    pieces = [piece for part in range(parts) for piece in seqio_reader.documents(words, contents, part, parts)]
    tokens, lengths = (np.concatenate([piece[at] for piece in pieces]).tolist() for at in (0, 1))
    return contents, tokens, lengths


def test_examples_without_their_eos(words):
    contents, tokens, lengths = kept(words, "words_pairs")
    assert (contents.kind, contents.features, contents.eos) == (
        "examples",
        ("inputs", "targets"),
        ("inputs", "targets"),
    )
    texts = [text for line in ("a file", "nothing", "is left") for text in (f"say {line}", line)]
    ids = [LOCAL.encode(text) for text in texts]
    assert tokens == sum(ids, [])
    assert lengths == [[len(ids[row]), len(ids[row + 1])] for row in (0, 2, 4)]
    assert contents.vocabulary["sha256"] == LOCAL.fingerprint()["sha256"]
    assert "tensorflow_text 2." in contents.vocabulary["version"]


def test_examples_that_have_no_eos_get_none(words):
    contents, tokens, _ = kept(words, "words_without_eos", "validation")
    assert contents.eos == ()
    assert tokens == LOCAL.encode("say the number of tokens") + LOCAL.encode("the number of tokens")


@pytest.mark.parametrize(("name", "end"), [("words_stream", []), ("words_stream_with_eos", [1])])
def test_text_before_an_objective(words, name, end):
    contents, tokens, lengths = kept(words, name)
    assert (contents.kind, contents.features, contents.eos) == ("stream", ("targets",), ())
    ids = [LOCAL.encode(line) + end for line in ("a file", "nothing", "is left")]
    assert tokens == sum(ids, []) and lengths == [[len(row)] for row in ids]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("words_no_place", "CacheDatasetPlaceholder.. before seqio_tasks.apply_objective"),
        ("words_by_length", "read without TASK_FEATURE_LENGTHS.* fails with .*DATA_FEED = 'seqio'"),
        ("words_as_text", "fails with ValueError: .*Got string, expected int32"),
        ("words_late", "gives 'targets' as TensorSpec.*string.*Tokenise before seqio.CacheDatasetPlaceholder"),
    ],
)
def test_what_cannot_be_kept_is_refused(words, name, message):
    with pytest.raises(UserError, match=message):
        kept(words, name)


def test_an_unknown_split_is_refused(words):
    with pytest.raises(UserError, match="'words_mixture' has no split 'test'; it has train, validation"):
        list(seqio_reader.plans(words, "words_mixture", ("test",)))


@pytest.mark.slow
def test_a_mixture_through_processes_in_bounded_memory(words, tmp_path, monkeypatch):
    peaks = []

    def write(*arguments, write=pool._write):
        done = write(*arguments)
        peaks.append(done.peak_bytes)
        return done

    monkeypatch.setattr(pool, "_write", write)
    folders = tokenize(words, "words_mixture", workers=1, output=str(tmp_path))
    assert folders == [
        f"{tmp_path}/{name}/{split}"
        for name in ("words_pairs", "words_without_eos")
        for split in ("train", "validation")
    ]
    store = TokenStore(folders[0])
    assert len(store.manifest.shards) == 2
    examples = store.examples([0, 2], {"inputs": 8, "targets": 4})
    assert [row[row > 0].tolist() for row in examples["inputs"]] == [
        [*LOCAL.encode("say a file"), 1],
        [*LOCAL.encode("say is left"), 1],
    ]
    assert len(peaks) == 6 and max(peaks) <= 1.5 * 2**30
