"""A vocabulary of ours and transformers' tokenizer of its files give the same ids."""

import json

import pytest
from sentencepiece import sentencepiece_model_pb2

from t5x_mini.checkpoint.huggingface.tokenizer_files import read_tokenizer, write_tokenizer
from t5x_mini.errors import UserError
from t5x_mini.tasks import vocabularies

transformers = pytest.importorskip("transformers")

TEXTS = [
    "Thank you <extra_id_0> me to your party <extra_id_1> week.",
    "<extra_id_2> <extra_id_3>",
    "a  b\n\nc\td",
    "  def f(x):\n    return x  ",
    "naïve café 北京 🙂 ﬁ ＡＢ",
    "1\u00a02\u3000 3\u200b4",
    "already▁marked",
    "",
    " ",
]
CORPUS = [f"{subject} {verb} the {thing}." for subject in "We They".split() for verb in "saw made lost kept".split()
          for thing in "house river letter winter paper music garden window stone party".split()]  # fmt: skip


@pytest.fixture(scope="module", params=["docs_8k", "unigram", "bpe", "bytes fall back", "bpe, bytes fall back"])
def vocabulary(request, tmp_path_factory):
    if request.param == "docs_8k":
        return vocabularies.load("docs_8k", 100)
    options = dict(byte_fallback="bytes" in request.param, model_type="bpe" if "bpe" in request.param else "unigram")
    size = 290 if options["byte_fallback"] else 35
    path = vocabularies.train(CORPUS, tmp_path_factory.mktemp("vocabulary") / "made", size=size, **options)
    return vocabularies.load(path, 10)


def tokenizer_of(folder, vocabulary, model_type="t5"):
    write_tokenizer(folder, vocabulary)
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return transformers.AutoTokenizer.from_pretrained(str(folder))


@pytest.mark.parametrize("model_type", ["t5", "umt5"])
def test_ids_are_ours_and_eos(vocabulary, model_type, tmp_path):
    tokenizer = tokenizer_of(tmp_path, vocabulary, model_type)
    for text in [*TEXTS, *CORPUS]:
        assert tokenizer(text)["input_ids"] == [*vocabulary.encode(text), 1], text
    first, last = vocabulary.vocab_size - 1, vocabulary.vocab_size - vocabulary.extra_ids
    assert tokenizer.convert_tokens_to_ids("<extra_id_0>") == first
    assert tokenizer.convert_tokens_to_ids(f"<extra_id_{vocabulary.extra_ids - 1}>") == last
    assert len(tokenizer) == vocabulary.vocab_size
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)


def test_answers_read_the_same(vocabulary, tmp_path):
    tokenizer = tokenizer_of(tmp_path, vocabulary)
    for text in CORPUS:
        ids = [*vocabulary.encode(text), 1]
        assert tokenizer.decode([0, *ids, 0], skip_special_tokens=True) == vocabulary.decode(ids) == text
    ids = [vocabulary.vocab_size - 1, *vocabulary.encode("We saw"), 1, 0]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "We saw"
    assert tokenizer.decode(ids).startswith("<extra_id_0>")


@pytest.mark.parametrize("extra_ids", [0, 7, 125])
def test_bytes_have_their_extra_ids_from_the_last_down(extra_ids, tmp_path):
    """transformers' own ByT5 numbers them from 259 up; T5 and these files from the last id down."""
    vocabulary = vocabularies.load("bytes", extra_ids)
    tokenizer = tokenizer_of(tmp_path, vocabulary)
    for text in TEXTS[2:]:
        assert tokenizer(text)["input_ids"] == [*vocabulary.encode(text), 1], text
        assert tokenizer.decode(vocabulary.encode(text)) == text
    for i in range(extra_ids):
        assert tokenizer.convert_tokens_to_ids(f"<extra_id_{i}>") == vocabulary.vocab_size - 1 - i
    assert read_tokenizer(tmp_path, {}) == ("bytes", extra_ids)


def test_a_written_tokenizer_is_read_as_its_vocabulary(vocabulary, tmp_path):
    write_tokenizer(tmp_path, vocabulary)
    name, extra_ids = read_tokenizer(tmp_path, {})
    assert vocabularies.load(name, extra_ids).fingerprint() == vocabulary.fingerprint()


def test_extra_ids_that_the_model_holds_are_special_tokens(tmp_path):
    """As in mT5's and umT5's models."""
    model = sentencepiece_model_pb2.ModelProto.FromString(docs_8k())
    for i in reversed(range(30)):
        model.pieces.add(piece=f"▁<extra_id_{i}>", type=model.SentencePiece.USER_DEFINED)
    (tmp_path / "held.model").write_bytes(model.SerializeToString())
    vocabulary = vocabularies.load(tmp_path / "held.model", 30)
    tokenizer = tokenizer_of(tmp_path, vocabulary, "mt5")
    for text in TEXTS:
        assert tokenizer(text)["input_ids"] == [*vocabulary.encode(text), 1], text
    assert tokenizer.convert_tokens_to_ids("<extra_id_0>") == 8029
    assert tokenizer.decode([8029, 5], skip_special_tokens=True) == tokenizer.decode([5])


def test_the_classes_defaults_count_where_the_file_says_nothing(tmp_path):
    (tmp_path / "spiece.model").write_bytes(docs_8k())
    assert read_tokenizer(tmp_path, {}) == (str(tmp_path / "spiece.model"), 100)
    assert read_tokenizer(tmp_path, {"tokenizer_class": "ByT5Tokenizer"}) == ("bytes", 125)


@pytest.mark.parametrize(
    "spec, field", [("normalizer_spec", "remove_extra_whitespaces"), ("trainer_spec", "split_by_whitespace")]
)
def test_models_that_cut_text_in_another_way_are_refused(spec, field, tmp_path):
    model = sentencepiece_model_pb2.ModelProto.FromString(docs_8k())
    setattr(getattr(model, spec), field, False)
    (tmp_path / "other.model").write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match=rf"made with {field} = False, where T5's have True"):
        write_tokenizer(tmp_path, vocabularies.load(tmp_path / "other.model"))


def docs_8k():
    with open(vocabularies.load("docs_8k").path, "rb") as file:
        return file.read()
