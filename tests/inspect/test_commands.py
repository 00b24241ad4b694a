"""What `tasks` and `inspect` print, held against what the feeds really deliver."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.image import imread

from t5x_mini import cli, config, terminal
from t5x_mini.errors import UserError
from t5x_mini.feed import feeds
from t5x_mini.feed.config import FeedConfig
from t5x_mini.inspect import commands, figure, stages, token_text
from t5x_mini.inspect.rebuild import rebuild_batch
from t5x_mini.tasks import vocabularies
from t5x_mini.tasks.definitions import Mixture, PretrainingTask, TextToTextTask
from t5x_mini.tasks.objectives import CausalLM, IidDenoising, SpanCorruption
from t5x_mini.tokens.tokenize import tokenize
from t5x_mini.train import loop

WORDS = "the old captain watches a small child near lake and then goes home again after rain with care".split()
PLAIN, COLOUR = terminal.Style(False), terminal.Style(True)
VOCABULARY = vocabularies.load("docs_8k")
ARCHITECTURES = ("encoder_decoder", "prefix_lm", "causal_lm")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    rng = np.random.default_rng(0)
    for split, documents in (("train", 300), ("validation", 20)):
        lines = (" ".join(rng.choice(WORDS, 30)) for _ in range(documents))
        (folder / f"{split}.txt").write_text("\n".join(lines) + "\n")
    pairs = [f"{' '.join(WORDS[: 1 + i % 5])}\t{WORDS[i % 7]}" for i in range(40)]
    (folder / "pairs.tsv").write_text("\n".join(["question\tanswer", *pairs]) + "\n")
    return folder


def feed(folder, name="text", **settings):
    text = {split: str(folder / f"{split}.txt") for split in ("train", "validation")}
    tasks = (
        PretrainingTask(name="text", files=text),
        PretrainingTask(name="bert", files=text, objective=IidDenoising(style="mask", loss_on_masked_only=True)),
        PretrainingTask(name="language", files=text, objective=CausalLM()),
        TextToTextTask(
            name="pairs", files={"train": str(folder / "pairs.tsv")}, inputs="ask: {question}", targets="{answer}"
        ),
        Mixture(name="both", tasks={"text": 0.5, "pairs": 0.5}),
    )
    settings = {"task_feature_lengths": {"inputs": 64, "targets": 20}, "batch_size": 4} | settings
    return FeedConfig(mixture_or_task_name=name, tasks=tasks, **settings)


# --- masked spans ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "objective",
    [
        SpanCorruption(),
        SpanCorruption(noise_density=0.5, mean_span=2.0),
        IidDenoising(style="sentinel_each"),
        IidDenoising(style="mask"),
        IidDenoising(style="mask", random_share=0.2, loss_on_masked_only=True),
    ],
)
def test_spans_give_back_the_text_and_what_was_masked_of_it(objective):
    tokens = np.random.default_rng(1).integers(10, 7000, size=(8, 100)).astype(np.int32)
    made = objective(tokens, np.random.default_rng(2), VOCABULARY)
    for row in range(len(tokens)):
        features = {name: values[row] for name, values in made.items()}
        features = {
            name: values[: np.max(np.flatnonzero(made["targets"][row])) + 1]
            if name == "loss_weights"
            else values[: np.max(np.flatnonzero(values)) + 1]
            for name, values in features.items()
        }
        runs = token_text.spans(features, VOCABULARY)
        assert np.concatenate([run for run, _ in runs]).tolist() == tokens[row].tolist()
        masked = sum(len(run) for run, is_masked in runs if is_masked)
        assert masked == round(100 * objective.noise_density)


def test_masked_text_of_a_worked_example():
    first, second = VOCABULARY.vocab_size - 1, VOCABULARY.vocab_size - 2
    words = [VOCABULARY.encode(word) for word in ("This", "function", "returns", "the", "value")]
    this, function, returns, the, value = words
    features = {
        "inputs": np.array([*this, first, *the, second, 1]),
        "targets": np.array([first, *function, *returns, second, *value, 1]),
    }
    runs = token_text.spans(features, VOCABULARY)
    assert token_text.masked_text(runs, VOCABULARY, PLAIN) == "This [function returns] the [value]"
    coloured = token_text.masked_text(runs, VOCABULARY, COLOUR)
    assert coloured == "This \x1b[1;31mfunction returns\x1b[0m the \x1b[1;34mvalue\x1b[0m"


def test_what_has_no_spans_says_so():
    ids = np.array(VOCABULARY.encode("This returns"))
    assert token_text.spans({"inputs": ids, "targets": ids}, VOCABULARY) is None
    assert token_text.spans({"targets": ids}, VOCABULARY) is None


# --- tokens as text --------------------------------------------------------------------------------------------------


def test_pieces_are_those_of_the_model():
    text = "Returns the value, or None  if x is unknown."
    assert [token_text.piece(VOCABULARY, i) for i in VOCABULARY.encode(text)] == VOCABULARY.pieces(text)
    bytes_ = vocabularies.load("bytes")
    assert [token_text.piece(bytes_, i) for i in bytes_.encode("a b")] == ["a", "▁", "b"]
    specials = [0, 1, VOCABULARY.vocab_size - 1, VOCABULARY.vocab_size - 100]
    shown = [token_text.piece(VOCABULARY, i) for i in specials]
    assert shown == ["<pad>", "</s>", "<extra_id_0>", "<extra_id_99>"]


def test_words_mark_the_positions_with_loss_and_count_padding():
    ids = np.array([*VOCABULARY.encode("the value"), 1, 0, 0])
    words = token_text.token_words(ids, VOCABULARY, PLAIN, loss=[0, 1, 1, 0, 0])
    the, value = VOCABULARY.encode("the value")
    assert words == [f"▁the({the})", f"▁value({value})*", "</s>(1)*", "(2 × padding)"]


def test_long_runs_lose_their_middle_but_never_a_change_of_mark():
    ids, loss = np.full(100, 50), np.arange(100) >= 60
    words = token_text.token_words(ids, VOCABULARY, PLAIN, loss)
    assert "… 36 more …" in words and "… 16 more …" in words
    assert [word.endswith("*") for word in words] == [False] * 25 + [True] * 12 + [False] + [True] * 12


def test_ranges_of_positions():
    assert token_text.ranges(np.array([0, 1, 2, 5, 7, 8])) == "0-2, 5, 7-8"
    assert token_text.ranges(np.array([], int)) == "none"


def test_lines_break_at_the_width_of_the_terminal_whatever_the_colours(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    words = [f"word{i}" for i in range(60)]
    plain = token_text.paragraph("label", words)
    assert max(map(len, plain.splitlines())) <= 80 and plain.split() == ["label", *words]
    coloured = token_text.paragraph("label", [COLOUR.loss(word) for word in words])
    assert re.sub("\x1b\\[[0-9;]*m", "", coloured) == plain


class _Terminal(io.StringIO):
    def isatty(self):
        return True


def test_colour_is_for_terminals_that_want_it(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert terminal.style_for(_Terminal()).colour
    assert not terminal.style_for(io.StringIO()).colour
    monkeypatch.setenv("NO_COLOR", "1")
    assert not terminal.style_for(_Terminal()).colour


# --- stages ----------------------------------------------------------------------------------------------------------


def test_windows_are_the_text_of_their_documents(folder):
    some = stages.examples(feed(folder), "train", 3)["text"]
    assert len(some) == 3
    whole = VOCABULARY.decode([int(i) for example in some for i in example.tokens["text"]])
    documents = list(dict.fromkeys(text for example in some for text in example.raw.values()))
    assert " ".join(documents).startswith(whole)
    assert list(some[0].raw)[0] == "document 1"
    for example in some:
        assert [len(example.features[name]) for name in ("inputs", "targets")] == [64, 14]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_model_receives_what_the_feed_delivers(folder, architecture):
    config = feed(folder, "pairs", task_feature_lengths={"inputs": 8, "targets": 3})
    some = stages.examples(config, "train", config.batch_size)["pairs"]
    shown = stages.model_features(some, config, architecture)
    fed = next(feeds.make_feed(config, architecture, repeat=False))
    assert shown.keys() == fed.keys()
    for name in fed:
        np.testing.assert_array_equal(shown[name], fed[name], err_msg=name)


def test_examples_of_a_task_that_seqio_knows():
    config = FeedConfig(
        mixture_or_task_name="toy_mixture",
        mixture_or_task_module="toy_tasks",
        task_feature_lengths={"inputs": 8, "targets": 8},
        batch_size=4,
    )
    found = stages.examples(config, "train", 2)
    assert list(found) == ["toy", "toy_in_order"]
    assert found["toy"][1].raw == {"row": "1"}
    assert {name: ids.tolist() for name, ids in found["toy"][1].features.items()} == {
        "inputs": [3, 3, 1],
        "targets": [3, 3, 1],
    }


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def printed(folder, tmp_path, capsys):
    """What `inspect_task` prints, as one line a paragraph."""

    def run(name, architecture=None, split="train", examples=1, **settings):
        commands.inspect_task(feed(folder, name, **settings), architecture, split, examples, str(tmp_path / "it.png"))
        assert imread(tmp_path / "it.png").shape[2] == 4
        return re.sub(r"\n {22}", " ", capsys.readouterr().out)

    return run


def test_a_pretraining_task_is_shown_at_every_stage(folder, printed):
    out = printed("text")
    (example,) = stages.examples(feed(folder), "train", 1)["text"]
    (masked,) = re.findall(r"^  masked +(.*)$", out, re.M)
    hidden = len(re.findall(r"\[", masked))
    sentinels = [token for token in example.features["inputs"] if token >= VOCABULARY.vocab_size - 100]
    assert hidden == len(sentinels) > 1
    assert masked.replace("[", "").replace("]", "") == VOCABULARY.decode(example.tokens["text"].tolist())
    assert "loss on             14 of 20 positions: 0-13" in out  # the encoder-decoder's
    assert "loss on             14 of 84 positions: 64-77" in out
    assert "prefix              positions 0-64" in out
    assert "prefix_lm, causal_lm (the same arrays; they differ in the attention mask)" in out
    assert "inputs              median 64, 99 % up to 64, longest 64; limit 64, 0.0% are cut" in out
    assert "encoder_decoder     encoder 0.0%, decoder 30.0%, loss on 70.0% of the decoder's positions" in out


def test_a_text_to_text_task_is_shown_at_every_stage(printed):
    out = printed("pairs", "encoder_decoder", examples=2)
    assert "pairs, train, example 2 of 2" in out
    assert re.search(r"^  question +the old$", out, re.M) and re.search(r"^  inputs as text +ask: the old$", out, re.M)
    assert re.search(r"^    decoder writes +20: ▁the\(\d+\)\* </s>\(1\)\* \(18 × padding\)$", out, re.M)


def test_one_architecture_and_the_whole_loss(printed):
    out = printed("text", "causal_lm", loss_on_targets_only=False)
    assert "encoder reads" not in out and "prefix_lm" not in out
    assert "loss on             78 of 84 positions: 0-77" in out


def test_bert_carries_loss_where_tokens_were_masked(folder, printed):
    out = printed("bert", "encoder_decoder", task_feature_lengths={"inputs": 40, "targets": 40})
    (masked,) = re.findall(r"^  masked +(.*)$", out, re.M)
    carried = int(re.search(r"loss on +(\d+) of 40 positions", out)[1])
    assert masked.count("[") > 1 and carried == 6


def test_a_mixture_shows_each_of_its_tasks(printed):
    out = printed("both", "prefix_lm")
    assert "text, train, example 1 of 1" in out and "pairs, train, example 1 of 1" in out


def test_padding_is_counted(folder):
    config = feed(folder, "pairs", task_feature_lengths={"inputs": 16, "targets": 4})
    shares = commands.padding_shares(config, "encoder_decoder", "train")
    some = stages.examples(config, "train", 16)["pairs"]
    filled = sum(len(example.features["inputs"]) for example in some)
    assert shares["encoder"]["padding"] == pytest.approx(1 - filled / (16 * 16))
    assert sum(shares["decoder"].values()) == pytest.approx(1)
    assert shares["decoder"]["loss"] == pytest.approx(
        sum(len(example.features["targets"]) for example in some) / (16 * 4)
    )


@pytest.mark.slow
def test_packing_leaves_less_padding(folder):
    lengths = {"inputs": 32, "targets": 16}
    loose, packed = (
        commands.padding_shares(
            feed(folder, "pairs", task_feature_lengths=lengths, pack=pack), "encoder_decoder", "train"
        )
        for pack in (False, True)
    )
    assert packed["encoder"]["padding"] < loose["encoder"]["padding"] / 2


def test_a_language_model_reads_no_inputs(folder, printed):
    out = printed("language", "causal_lm", task_feature_lengths={"targets": 32})
    assert "encoder reads" not in out and "loss on             32 of 32 positions: 0-31" in out
    with pytest.raises(
        UserError, match="encoder_decoder reads inputs, and this task makes targets.*architecture=prefix"
    ):
        printed("language", "encoder_decoder", task_feature_lengths={"targets": 32})


def test_an_unknown_split_is_refused(printed):
    with pytest.raises(UserError, match="has a split 'dev'; there are train, validation. Write --split=train"):
        printed("text", split="dev")


def test_what_a_task_leaves_out_is_told_from_what_is_not_there(tmp_path):
    (tmp_path / "pairs.jsonl").write_text('{"question": "x", "answer": null}\n')
    pairs = {"inputs": "{question}", "targets": "{answer}", "files": {"train": str(tmp_path / "pairs.jsonl")}}
    config = dataclasses.replace(feed(tmp_path, "nulls"), tasks=(TextToTextTask(name="nulls", **pairs),))
    with pytest.raises(UserError, match="everything was skipped \\(left out by the task: 1"):
        stages.examples(config, "train", 1)


def test_the_picture_shows_what_is_cut(tmp_path):
    lengths = {"inputs": np.array([5, 10, 20, 70]), "targets": np.array([2, 2, 3, 3])}
    shares = {"prefix_lm": {"decoder": {"loss": 0.2, "no loss": 0.5, "padding": 0.3}}}
    drawn = figure.lengths_figure(lengths, {"inputs": 64, "targets": 8}, shares, "mine, train")
    words = [text.get_text() for axes in drawn.axes for text in axes.texts]
    assert words == ["limit 64, 25.0% cut", "limit 8, none cut", "20%", "50%", "30%"]
    assert [sum(bar.get_height() for bar in axes.patches) for axes in drawn.axes[:2]] == pytest.approx([1, 1])


# --- the list --------------------------------------------------------------------------------------------------------


def _rows(out):
    """Cells of each row of the table, the first line of each."""
    header, rule, *lines = out.splitlines()
    starts = [match.start() for match in re.finditer("-+", rule)]
    cells = ([line[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)] for line in lines)
    return {row[0]: row[1:] for row in cells if row[0]}


def test_the_list_says_what_is_known_without_reading(folder, tmp_path, monkeypatch, capsys):
    prepared = tmp_path / "tfds" / "c4" / "en" / "3.1.0"
    prepared.mkdir(parents=True)
    info = {"splits": [{"name": "train", "shardLengths": ["600", "734"], "numBytes": "9"}]}
    (prepared / "dataset_info.json").write_text(json.dumps(info))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    gone = PretrainingTask(name="gone", files={"train": str(tmp_path / "none-*.txt")})
    remote = TextToTextTask(name="far", files={"train": "gs://bucket/a.tsv"}, metrics=("bleu",))
    base = feed(folder, glue_dir="tiny")
    commands.list_tasks(FeedConfig(**{**vars(base), "tasks": (*base.tasks, gone, remote)}))
    rows = _rows(capsys.readouterr().out)
    size = sum((folder / name).stat().st_size for name in ("train.txt", "validation.txt"))
    assert rows["text"][0] == "pretraining"
    assert rows["text"][2:4] == ["train, validation", f"{size / 1000:.0f} kB"]
    assert rows["text"][4] == "SpanCorruption()"
    assert rows["both"][::4] == ["mixture", "text 0.5, pairs 0.5"]
    assert rows["gone"][3] == "no files" and rows["far"][3:] == ["remote", "bleu"]
    assert rows["installed_docs"][3] == "made at first use"
    assert rows["c4"][1:4] == ["tfds c4/en:3.1.0", "train", "train 1,334 rows"]
    assert rows["glue_rte_v002 (rte)"][4] == "accuracy"


def test_the_list_has_what_a_module_registers(capsys):
    config = FeedConfig(
        mixture_or_task_name="", mixture_or_task_module="toy_tasks", task_feature_lengths={}, batch_size=1
    )
    commands.list_tasks(config)
    rows = _rows(capsys.readouterr().out)
    assert rows["toy"] == ["SeqIO task", "FunctionDataSource", "empty, train, validation", "", ""]
    assert rows["toy_scored"][4] == "share_right, share_right"
    assert rows["toy_mixture"][::4] == ["SeqIO mixture", "toy 1, toy_in_order 1"]


def test_definitions_are_listed_and_staged_without_tensorflow(folder):
    program = f"""
import sys
from t5x_mini.inspect import commands, stages
from t5x_mini.feed.config import FeedConfig
from t5x_mini.tasks.definitions import PretrainingTask
task = PretrainingTask(name="text", files={{"train": {str(folder / "train.txt")!r}}})
feed = FeedConfig(mixture_or_task_name="text", tasks=(task,), task_feature_lengths={{"inputs": 64, "targets": 20}},
                  batch_size=4)
commands.list_tasks(feed)
stages.examples(feed, "train", 2)
assert not {{"tensorflow", "seqio"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


# --- a batch of a run ------------------------------------------------------------------------------------------------

_GIN = """
include 'gin/models/t5_1_1/tiny.gin'
include 'gin/hardware/cpu.gin'
mine/PretrainingTask.files = {{'train': '{folder}/train.txt'}}
MIXTURE_OR_TASK_NAME = 'mine'
VOCABULARY = 'docs_8k'
TASK_FEATURE_LENGTHS = {{'inputs': 32, 'targets': 16}}
BATCH_SIZE = 8
TRAIN_STEPS = 7
CHECKPOINT_PERIOD = 3
EVAL_PERIOD = 0
CLOSING_REPORT = False
"""


@pytest.fixture(scope="module", params=["seqio", "tokens"])
def run(request, folder, tmp_path_factory):
    """(folder of a run of seven steps, the batches that it trained on)."""
    here = tmp_path_factory.mktemp(request.param)
    (here / "run.gin").write_text(_GIN.format(folder=folder))
    bindings = [f"DATA_FEED={request.param}", f"TOKENS_DIR={here / 'tokens'}", f"MODEL_DIR={here / 'run'}"]
    if request.param == "tokens":
        tokenize(config.load_feed([str(here / "run.gin")], bindings)[0], "mine")
    seen = []

    class Recorded:
        def __init__(self, feed):
            self.feed, self.position = feed, feed.position

        def __iter__(self):
            for batch in self.feed:
                seen.append(batch)
                yield batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "prefetch", lambda feed, *rest, real=loop.prefetch: real(Recorded(feed), *rest))
        arguments = ["train", f"--gin_file={here / 'run.gin'}", *(f"--gin.{binding}" for binding in bindings)]
        assert cli.main(arguments) == 0
    return here / "run", seen


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 3, 4, 7])  # before, at and behind a checkpoint, and the last one
def test_a_rebuilt_batch_is_the_one_that_was_trained_on(run, step):
    folder, seen = run
    rebuilt = rebuild_batch(str(folder), step)
    assert rebuilt.batch.keys() == seen[0].keys()
    for name, rows in rebuilt.batch.items():
        np.testing.assert_array_equal(rows, seen[step - 1][name], err_msg=name)
    others = [batch for number, batch in enumerate(seen, start=1) if number != step]
    assert not any(np.array_equal(rebuilt.batch["decoder_target_tokens"], b["decoder_target_tokens"]) for b in others)


@pytest.mark.slow
def test_the_batch_is_printed_row_by_row(run, capsys):
    folder, seen = run
    capsys.readouterr()
    commands.inspect_run(str(folder), 5, 8)
    out = capsys.readouterr().out
    assert "batch 5 of" in out and "8 rows of mine" in out and out.count("decoder writes") == 8
    first = int(seen[4]["decoder_target_tokens"][7, 1])
    assert re.search(rf"\({first}\) \d+\.\d\d", out.partition("row 7,")[2].partition("decoder writes")[2])


@pytest.mark.slow
@pytest.mark.parametrize("step", [0, 8])
def test_a_step_that_was_not_done_is_refused(run, step):
    with pytest.raises(UserError, match=rf"has no batch {step}: it has done the steps 1 to 7\. Write another --step"):
        rebuild_batch(str(run[0]), step)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not a run: it has no config.gin. Write a MODEL_DIR"):
        rebuild_batch(str(tmp_path), 1)
