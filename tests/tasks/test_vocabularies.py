import gzip
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from t5x_mini import resources
from t5x_mini.errors import UserError
from t5x_mini.tasks import files, vocabularies, vocabulary_training

SHIPPED = resources.data_path("vocabularies/docs_8k.model")
SENTENCES = [f"the quick brown fox number {i} jumps over the lazy dog {i * 7}" for i in range(300)]
TEXTS = [
    "Returns the elementwise sum of two arrays, as a new array of the same shape and dtype.",
    "",
    " ",
    "<extra_id_0>",
    "I like <extra_id_0> and <extra_id_17>ly, not jel<extra_id_1>.<extra_id_99> <extra_id_100>",
    "naïve café – „Ünïcödé“ ﬁne Å Å ½ ｆｕｌｌ 日本語 😀🇪🇺 \u200b\ufeff \x00 \x07",
    "two  spaces\tand a tab\nand a line",
    "</s> <pad> <unk> <s>",
    "▁already ▁marked",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return vocabularies.train(SENTENCES, tmp_path_factory.mktemp("vocabulary") / "test", size=60)


@pytest.mark.parametrize("extra_ids", [0, 7, 100])
@pytest.mark.parametrize("name", ["docs_8k", "bytes", "trained"])
def test_ids_and_texts_are_seqios(name, extra_ids, trained):
    vocabulary = vocabularies.load(trained if name == "trained" else name, extra_ids)
    seqio = vocabulary.seqio()
    assert (vocabulary.vocab_size, vocabulary.extra_ids) == (seqio.vocab_size, seqio.extra_ids)
    assert (vocabulary.pad_id, vocabulary.eos_id, vocabulary.unk_id) == (seqio.pad_id, seqio.eos_id, seqio.unk_id)
    for text in TEXTS:
        ids = vocabulary.encode(text)
        assert ids == list(seqio.encode(text))
        assert vocabulary.decode(ids) == seqio.decode(ids)
    size = vocabulary.vocab_size
    for ids in ([], [1], [5, 6, 1, 7], [0, 0, 5], [2, 5], [size - 1, size, size + 9], list(range(3, size, 13))):
        assert vocabulary.decode(ids) == seqio.decode(ids)
        assert vocabulary.decode(np.array(ids, np.int32)) == seqio.decode(ids)


def test_bytes_with_byt5s_extra_ids():
    vocabulary = vocabularies.load("bytes", extra_ids=125)
    assert vocabulary.vocab_size == 384
    assert vocabulary.encode("aé") == [100, 198, 172]
    assert vocabulary.decode([100, 198, 172, 383, 2, 0, 98, 1, 98]) == "aé_"
    assert vocabulary.decode([198, 98]) == "_"
    assert vocabulary.pieces("a é") == ["a", "▁", "<0xC3>", "<0xA9>"]


def test_shipped_vocabulary_has_t5s_layout():
    vocabulary = vocabularies.load("docs_8k")
    assert (vocabulary.pad_id, vocabulary.eos_id, vocabulary.unk_id) == (0, 1, 2)
    assert (vocabulary.vocab_size, vocabulary.extra_ids) == (8100, 100)
    assert vocabulary.decode([8099, 8000]) == "<extra_id_0> <extra_id_99>"
    assert vocabulary.encode("<extra_id_0>") == [8099]


def test_shipped_vocabulary_reads_documentation():
    vocabulary = vocabularies.load("docs_8k")
    ids = vocabulary.encode(TEXTS[0])
    assert vocabulary.unk_id not in ids
    assert len(ids) < len(TEXTS[0]) / 3
    assert vocabulary.decode(ids) == TEXTS[0]


def test_shipped_file_is_small():
    with open(SHIPPED, "rb") as file:
        assert len(file.read()) < 1e6


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["docs_8k", "bytes"])
def test_a_batch_is_its_texts_one_after_the_other(name, threads):
    vocabulary = vocabularies.load(name)
    ids, lengths = vocabulary.encode_batch(TEXTS, threads)
    assert (ids.dtype, lengths.dtype) == (np.int32, np.int32)
    assert [row.tolist() for row in np.split(ids, np.cumsum(lengths)[:-1])] == [vocabulary.encode(t) for t in TEXTS]
    assert [len(part) for part in vocabulary.encode_batch([])] == [0, 0]
    assert [part.tolist() for part in vocabulary.encode_batch([""])] == [[], [0]]


def test_vocabularies_travel_to_other_processes(trained, monkeypatch, tmp_path):
    for vocabulary in (vocabularies.load(trained, 7), vocabularies.load("bytes", 7)):
        monkeypatch.chdir(tmp_path)  # a relative path would be lost on the way
        copy = pickle.loads(pickle.dumps(vocabulary))
        assert (copy.vocab_size, copy.encode("the <extra_id_3>")) == (
            vocabulary.vocab_size,
            vocabulary.encode("the <extra_id_3>"),
        )


def test_loading_from_several_threads():
    with ThreadPoolExecutor(8) as threads:
        loaded = list(threads.map(lambda extra_ids: vocabularies.load("docs_8k", extra_ids), range(16)))
    assert [vocabulary.vocab_size for vocabulary in loaded] == list(range(8000, 8016))


def test_a_fingerprint_tells_what_decides_the_ids(trained):
    mark = vocabularies.load("docs_8k").fingerprint()
    assert (mark["library"], mark["version"]) == ("sentencepiece", sentencepiece.__version__)
    assert (mark["vocab_size"], mark["extra_ids"], len(mark["sha256"])) == (8100, 100, 64)
    assert mark == vocabularies.load(SHIPPED).fingerprint()
    assert mark["sha256"] != vocabularies.load(trained).fingerprint()["sha256"]
    assert mark != vocabularies.load("docs_8k", 7).fingerprint()
    assert vocabularies.load("bytes").fingerprint() != vocabularies.load("bytes", 7).fingerprint()


def with_extra_ids(path, numbers):
    model = sentencepiece_model_pb2.ModelProto.FromString(open(SHIPPED, "rb").read())
    for i in numbers:
        model.pieces.add(piece=f"▁<extra_id_{i}>", type=sentencepiece_model_pb2.ModelProto.SentencePiece.USER_DEFINED)
    path.write_bytes(model.SerializeToString())
    return path


def test_a_model_with_extra_ids_of_its_own_gets_no_others(tmp_path):
    path = with_extra_ids(tmp_path / "mt5.model", reversed(range(100)))
    vocabulary = vocabularies.load(path, extra_ids=100)
    assert (vocabulary.vocab_size, vocabulary.extra_ids) == (8100, 100)
    assert vocabulary.encode("<extra_id_0>") == vocabulary.seqio().encode("<extra_id_0>") == [8099]
    assert vocabularies.load(path, extra_ids=0).vocab_size == 8100
    with pytest.raises(UserError, match=r"holds 100 extra ids.*EXTRA_IDS = 100"):
        vocabularies.load(path, extra_ids=50)


def test_a_model_whose_extra_ids_lie_elsewhere_is_refused(tmp_path):
    path = with_extra_ids(tmp_path / "upside_down.model", range(100))
    with pytest.raises(UserError, match=r"<extra_id_0>.*last"):
        vocabularies.load(path, extra_ids=100)


def test_other_layouts_are_refused(tmp_path):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES), model_prefix=str(tmp_path / "bert"), vocab_size=60, minloglevel=2
    )
    with pytest.raises(UserError, match=r"padding -1, EOS 2 and unknown 0.*padding 0, EOS 1 and unknown 2"):
        vocabularies.load(tmp_path / "bert.model")


@pytest.mark.parametrize("content", [b"", b"no model", gzip.compress(b"text")], ids=["empty", "text", "gzip"])
def test_a_file_that_is_no_model_is_refused(tmp_path, content):
    path = tmp_path / "text.model"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"text\.model' is not a SentencePiece model"):
        vocabularies.load(path)


def test_a_missing_file_is_refused():
    with pytest.raises(UserError, match=r"'no/such\.model' does not exist\. Write the path of a SentencePiece model"):
        vocabularies.load("no/such.model")
    with pytest.raises(UserError, match=r"'docs_9k' does not exist\. Did you mean 'docs_8k'\?.*bytes, docs_8k"):
        vocabularies.load("docs_9k")


def test_a_negative_number_of_extra_ids_is_refused():
    for name in ("docs_8k", "bytes"):
        with pytest.raises(UserError, match=r"EXTRA_IDS is -1\. Write 0 to 1,000,000"):
            vocabularies.load(name, -1)


def test_a_remote_vocabulary_is_fetched_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    files.write_bytes("memory://t5/sentencepiece.model", open(SHIPPED, "rb").read())
    first = vocabularies.load("memory://t5/sentencepiece.model", 7)
    assert first.encode(TEXTS[0]) == vocabularies.load("docs_8k").encode(TEXTS[0])
    read = files.read_bytes
    monkeypatch.setattr(
        files, "read_bytes", lambda path: pytest.fail("fetched again") if files.is_remote(path) else read(path)
    )
    assert vocabularies.load("memory://t5/sentencepiece.model").path == first.path
    assert first.path.startswith(str(tmp_path / "t5x_mini" / "vocabularies"))


def test_a_remote_vocabulary_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"'memory://t5/none\.model' does not exist"):
        vocabularies.load("memory://t5/none.model")
    with pytest.raises(UserError, match=r"cannot be read: .*cannot be reached.*set VOCABULARY to a local file"):
        vocabularies.load("http://127.0.0.1:1/sentencepiece.model")
    assert not any(tmp_path.rglob("*.model"))


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
@pytest.mark.parametrize("byte_fallback", [False, True])
def test_trained_vocabulary_has_t5s_layout(tmp_path, model_type, byte_fallback):
    size = 60 + 256 * byte_fallback
    path = vocabularies.train(
        SENTENCES, tmp_path / "new/folder/vocabulary", size=size, model_type=model_type, byte_fallback=byte_fallback
    )
    assert path == str(tmp_path / "new/folder/vocabulary.model")
    vocabulary = vocabularies.load(path, extra_ids=7)
    assert vocabulary.vocab_size == size + 7
    assert vocabulary.decode(vocabulary.encode(SENTENCES[0])) == SENTENCES[0]
    assert (2 in vocabulary.encode("語")) == (not byte_fallback)
    assert ("語" in vocabulary.decode(vocabulary.encode("語"))) == byte_fallback


def test_training_twice_gives_the_same_file(tmp_path):
    paths = [vocabularies.train(SENTENCES, tmp_path / name, size=60, max_sentences=150) for name in "ab"]
    assert len({open(path, "rb").read() for path in paths}) == 1


def test_training_samples_from_all_of_the_text(tmp_path):
    # Of 3000 sentences 300 are kept; if they were the first or the last, one of the letters would be unknown.
    texts = ["aaa bbb aa bb"] * 1500 + ["yyy zzz yy zz"] * 1500
    path = vocabularies.train(texts, tmp_path / "sampled", size=10, max_sentences=300)
    assert 2 not in vocabularies.load(path).encode("aabb yyzz")


def test_long_lines_are_trained_on_too(tmp_path):
    # SentencePiece drops lines over 4192 bytes: one line of everything would leave nothing.
    path = vocabularies.train([" ".join(SENTENCES)], tmp_path / "vocabulary", size=60)
    assert 2 not in vocabularies.load(path).encode(SENTENCES[0])


@pytest.mark.parametrize("text", ["word " * 999, "x" * 5000, "a" * 1000, "short", "trailing newline\n", "語" * 3000])
def test_cutting_loses_nothing(text):
    pieces = list(vocabulary_training._sentences([text]))
    assert "".join(pieces) == text.rstrip("\n")
    assert all(len(piece) <= 1000 and len(piece.encode()) <= 4192 for piece in pieces)


def test_too_little_text_is_refused(tmp_path):
    with pytest.raises(
        UserError, match=r"could not make a vocabulary of 5000 pieces.*enough for \d+: write --size=\d+ or"
    ):
        vocabularies.train(SENTENCES, tmp_path / "vocabulary", size=5000)
    with pytest.raises(UserError, match=r"vocabulary of 5 pieces.*characters alone need \d+: write --size=\d+ or more"):
        vocabularies.train(SENTENCES, tmp_path / "vocabulary", size=5)
    with pytest.raises(UserError, match=r"no text"):
        vocabularies.train([], tmp_path / "vocabulary", size=50)
    with pytest.raises(UserError, match=r"'word'.*'unigram'.*'bpe'"):
        vocabularies.train(SENTENCES, tmp_path / "vocabulary", model_type="word")
    assert list(tmp_path.iterdir()) == []


def test_comparing():
    docs, raw = vocabularies.load("docs_8k"), vocabularies.load("bytes")
    lines = vocabularies.compare(docs, raw, ["the array", "naïve"]).splitlines()
    assert lines[1].split() == docs.pieces("the array")
    tokens = len(docs.encode("the array")) + len(docs.encode("naïve"))
    assert lines[2].split()[0] == str(tokens)
    assert lines[2].endswith(f"{15 / tokens:.2f} bytes a token")
    assert lines[5] == "  15 tokens, 1.00 bytes a token"


def test_tensorflow_is_not_needed():
    code = (
        "import sys; from t5x_mini.tasks import vocabularies, sources, files;"
        "vocabularies.load('docs_8k').encode_batch(['a b']);"
        "assert not {'tensorflow', 'seqio', 'jax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
