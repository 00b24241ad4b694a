import dataclasses
import json

import pytest

from t5x_mini.errors import UserError
from t5x_mini.feed.config import FeedConfig
from t5x_mini.tasks import vocab_command, vocabularies
from t5x_mini.tasks.definitions import Mixture, PretrainingTask, TextToTextTask

TEXTS = [f"the quick brown fox number {i} jumps over the lazy dog {i * 7}" for i in range(300)]


@pytest.fixture
def feed(tmp_path):
    (tmp_path / "train.txt").write_text("\n".join(TEXTS))
    (tmp_path / "valid.txt").write_text("a zebra\n")
    pairs = [json.dumps({"en": f"seven qwertz {i}", "de": f"sieben äöü {i}"}) for i in range(200)]
    (tmp_path / "pairs.jsonl").write_text("\n".join([*pairs, "broken"]))
    text = PretrainingTask(
        name="my_text", files={"train": str(tmp_path / "train.txt"), "validation": str(tmp_path / "valid.txt")}
    )
    files = {"train": str(tmp_path / "pairs.jsonl")}
    pairs = TextToTextTask(name="my_pairs", files=files, inputs="to German: {en}", targets="{de}")
    inner = Mixture(name="inner", tasks={"my_text": 1.0})
    outer = Mixture(name="outer", tasks=("inner", "my_pairs", "my_text"))
    return FeedConfig(
        mixture_or_task_name="outer", tasks=(text, pairs, inner, outer), task_feature_lengths={}, batch_size=1
    )


def unknown(path, text):
    return 2 in vocabularies.load(path).encode(text)


def test_training_on_files(feed, tmp_path, capsys):
    output = str(tmp_path / "new" / "my_vocabulary.model")
    vocab_command.vocab_command(output, text=[str(tmp_path / "*.txt")], size=60)
    assert vocabularies.load(output, 7).vocab_size == 67
    printed = capsys.readouterr().out
    assert f"{output}: 60 ids" in printed and f"VOCABULARY = {output!r}" in printed
    # Texts 100, 200 and 300 of 301 were held out.
    held_out = [TEXTS[99], TEXTS[199], TEXTS[299]]
    measured = vocabularies.bytes_per_token(vocabularies.load(output), held_out)
    assert f"wasn't trained on: {measured:.2f} bytes a token" in printed


def test_training_on_a_task(feed, tmp_path, capsys):
    output = str(tmp_path / "a.model")
    vocab_command.vocab_command(output, feed=feed, task="my_text", size=60)
    measured = vocabularies.bytes_per_token(vocabularies.load(output), ["a zebra"])
    assert f"wasn't trained on: {measured:.2f} bytes a token" in capsys.readouterr().out
    # With a validation split, all of the training split is trained on.
    assert open(vocabularies.train(TEXTS, tmp_path / "b", size=60), "rb").read() == open(output, "rb").read()


def test_training_on_a_mixture_of_inputs_and_targets(feed, tmp_path, capsys):
    output = str(tmp_path / "a.model")
    vocab_command.vocab_command(output, feed=feed, task="outer", size=80)
    assert not unknown(output, "to German: seven qwertz sieben äöü") and not unknown(output, "lazy dog")
    assert "Left out or cut: broken JSON: 1, first at" in capsys.readouterr().out


def test_training_on_what_a_module_registers_with_seqio(feed, tmp_path, monkeypatch, capsys):
    (tmp_path / "module_for_vocab.py").write_text(
        "import seqio\n"
        "rows = lambda split, shuffle_files, seed=None: __import__('tensorflow').data.Dataset.from_tensor_slices(\n"
        f"    {{'question': {TEXTS!r}, 'answer': ['', 'qqq zzz'] * 150, 'id': list(range(300))}})\n"
        "seqio.TaskRegistry.add('task_for_vocab', source=seqio.FunctionDataSource(rows, splits=['train']),\n"
        "    preprocessors=[], output_features={'targets': seqio.Feature(seqio.ByteVocabulary())}, metric_fns=[])\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    feed = dataclasses.replace(feed, mixture_or_task_module="module_for_vocab")
    output = str(tmp_path / "a.model")
    vocab_command.vocab_command(output, feed=feed, task="task_for_vocab", size=60)
    assert not unknown(output, "lazy dog qqq zzz") and unknown(output, "ÄÄÄ")
    assert "Left out or cut: empty: 150, first at task_for_vocab" in capsys.readouterr().out


def test_the_settings_arrive(feed, tmp_path):
    output = str(tmp_path / "a.model")
    settings = {"size": 320, "model_type": "bpe", "byte_fallback": True}
    vocab_command.vocab_command(output, feed=feed, task="my_text", **settings)
    expected = vocabularies.train(TEXTS, tmp_path / "b", **settings)
    assert open(output, "rb").read() == open(expected, "rb").read()


def test_nothing_to_train_on(feed, tmp_path):
    output = str(tmp_path / "a.model")
    with pytest.raises(UserError, match="There are no files"):
        vocab_command.vocab_command(output, text=[str(tmp_path / "none.txt")])
    (tmp_path / "blank.txt").write_text("\n\n")
    with pytest.raises(UserError, match="There is no text to train a vocabulary on"):
        vocab_command.vocab_command(output, text=[str(tmp_path / "blank.txt")])
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(UserError, match=r"There is no text.* Left out or cut: invalid UTF-8: 1, first at .*latin\.txt"):
        vocab_command.vocab_command(output, text=[str(tmp_path / "latin.txt")])
    with pytest.raises(UserError, match="no task or mixture named 'my_txt'"):
        vocab_command.vocab_command(output, feed=feed, task="my_txt")
    with pytest.raises(UserError, match=r"300 pieces.*There is enough for \d+: write --size=\d+ or less"):
        vocab_command.vocab_command(output, feed=feed, task="my_text", size=300)


def test_comparing(feed, tmp_path, capsys):
    vocab_command.compare_command("docs_8k", "bytes", sentence="Hi é")
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == vocabularies.load("docs_8k").pieces("Hi é")
    assert lines[4].split() == ["H", "i", "▁", "<0xC3>", "<0xA9>"]
    assert lines[5] == "  5 tokens, 1.00 bytes a token"
    vocab_command.compare_command("docs_8k", "bytes", text=[str(tmp_path / "train.txt")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == vocabularies.load("docs_8k").pieces(TEXTS[0])
    assert lines[5] == f"  {sum(map(len, TEXTS))} tokens, 1.00 bytes a token"
    vocab_command.compare_command("docs_8k", "bytes")
    assert "<0xC3>" in capsys.readouterr().out


def test_comparing_what_is_not_there():
    with pytest.raises(UserError, match="'docs_9k' does not exist. Did you mean 'docs_8k'"):
        vocab_command.compare_command("docs_8k", "docs_9k")
