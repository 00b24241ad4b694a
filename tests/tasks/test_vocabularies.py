import subprocess
import sys

import pytest

from t5x_mini.errors import UserError
from t5x_mini.tasks import vocabularies

TEXT = [f"the quick brown fox number {i} jumps over the lazy dog {i * 7}" for i in range(300)]


def test_shipped_vocabulary_has_t5s_layout():
    vocabulary = vocabularies.default_vocabulary()
    assert (vocabulary.pad_id, vocabulary.eos_id, vocabulary.unk_id) == (0, 1, 2)
    assert vocabulary.vocab_size == 8100
    assert vocabulary.extra_ids == 100
    assert vocabulary.decode([8099, 8000]) == "<extra_id_0> <extra_id_99>"
    assert vocabulary.tokenizer.IdToPiece(0) == "<pad>"
    assert vocabulary.tokenizer.bos_id() == -1


def test_shipped_vocabulary_reads_documentation():
    vocabulary = vocabularies.default_vocabulary()
    text = "Returns the elementwise sum of two arrays, as a new array of the same shape and dtype."
    ids = vocabulary.encode(text)
    assert vocabulary.unk_id not in ids
    assert len(ids) < len(text) / 3
    assert vocabulary.decode(ids) == text


def test_shipped_file_is_small():
    from t5x_mini import resources

    with open(resources.data_path("vocabularies/docs_8k.model"), "rb") as file:
        assert len(file.read()) < 1e6


def test_trained_vocabulary_has_t5s_layout(tmp_path):
    path = vocabularies.train_vocabulary(TEXT, tmp_path / "new/folder/vocabulary", 60)
    assert path == tmp_path / "new/folder/vocabulary.model"
    vocabulary = vocabularies.sentencepiece_vocabulary(path, extra_ids=7)
    assert (vocabulary.pad_id, vocabulary.eos_id, vocabulary.unk_id) == (0, 1, 2)
    assert vocabulary.vocab_size == 67
    assert vocabulary.decode(vocabulary.encode(TEXT[0])) == TEXT[0]


def test_long_lines_are_trained_on_too(tmp_path):
    # SentencePiece drops lines over 4192 bytes: one line of everything would leave nothing.
    path = vocabularies.train_vocabulary([" ".join(TEXT)], tmp_path / "vocabulary", 60)
    assert 2 not in vocabularies.sentencepiece_vocabulary(path).encode(TEXT[0])


@pytest.mark.parametrize("text", ["word " * 999, "x" * 5000, "a" * 1000, "short", "trailing newline\n"])
def test_cutting_loses_nothing(text):
    pieces = list(vocabularies._cut([text]))
    assert "".join(pieces) == text.rstrip("\n")
    assert all(len(piece) <= 1000 for piece in pieces)


def test_too_little_text_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"could not make a vocabulary of 5000 pieces.*smaller --size"):
        vocabularies.train_vocabulary(TEXT, tmp_path / "vocabulary", 5000)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_is_refused():
    with pytest.raises(UserError, match=r"'no/such\.model' does not exist\. Write the path of a SentencePiece model"):
        vocabularies.sentencepiece_vocabulary("no/such.model")


def test_a_remote_vocabulary_is_not_read_before_it_is_used():
    assert vocabularies.sentencepiece_vocabulary("gs://no-such-bucket/a.model").extra_ids == 100


def test_command_trains_on_a_text_file(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(TEXT))
    command = [sys.executable, "-m", "t5x_mini.tasks.vocabularies", "--text", text, "--size", "60"]
    done = subprocess.run([*command, "--output", tmp_path / "vocabulary"], capture_output=True, text=True, check=True)
    assert str(tmp_path / "vocabulary.model") in done.stdout
    assert vocabularies.sentencepiece_vocabulary(tmp_path / "vocabulary.model", extra_ids=0).vocab_size == 60
