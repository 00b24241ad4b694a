"""What the tokens of a run's batch cost: the numbers of training itself, and where they lie."""

from __future__ import annotations

import dataclasses
import math
import re
import shutil

import numpy as np
import pytest
import tiny_runs

from t5x_mini import config, terminal
from t5x_mini.errors import UserError
from t5x_mini.inspect import commands, token_loss, token_text
from t5x_mini.inspect.rebuild import rebuild_batch
from t5x_mini.inspect.token_loss import Checkpoint, TokenLoss
from t5x_mini.tasks import vocabularies
from t5x_mini.tokens.tokenize import tokenize
from t5x_mini.train.config import LossConfig

PLAIN, COLOUR = terminal.Style(False), terminal.Style(True)

_GIN = """
include 'gin/models/t5_1_1/tiny.gin'
include 'gin/hardware/cpu.gin'
TransformerConfig.emb_dim = 16
TransformerConfig.head_dim = 8
TransformerConfig.mlp_dim = 24
TransformerConfig.num_encoder_layers = 1
TransformerConfig.num_decoder_layers = 1
mine/TextToTextTask.files = {{'train': '{folder}/pairs.tsv'}}
mine/TextToTextTask.inputs = '{{question}}'
mine/TextToTextTask.targets = '{{answer}}'
MIXTURE_OR_TASK_NAME = 'mine'
VOCABULARY = 'bytes'
TASK_FEATURE_LENGTHS = {{'inputs': 24, 'targets': 16}}
BATCH_SIZE = 16
TRAIN_STEPS = 5
CHECKPOINT_PERIOD = 2
EVAL_PERIOD = 0
"""


def trained(here, architecture, *bindings, data_feed="tokens"):
    """The folder of a run of five steps, with checkpoints at 2, 4 and 5."""
    words = "sun moon star rain snow wind".split()
    pairs = [f"{words[i % 6]} {i % 10}\t{words[i % 5]}" for i in range(80)]
    (here / "pairs.tsv").write_text("\n".join(["question\tanswer", *pairs]) + "\n")
    (here / "run.gin").write_text(_GIN.format(folder=here))
    bindings = [
        *(f"DATA_FEED={data_feed}", f"TOKENS_DIR={here / 'tokens'}", f"MODEL_DIR={here / 'run'}"),
        *(f"ARCHITECTURE={architecture}", *bindings),
    ]
    if data_feed == "tokens":
        tokenize(config.load_feed([str(here / "run.gin")], bindings)[0], "mine")
    arguments = ["train", f"--gin_file={here / 'run.gin'}", *(f"--gin.{binding}" for binding in bindings)]
    finished = tiny_runs.run(arguments)
    assert finished.code == 0, finished.err
    return here / "run"


@pytest.fixture(scope="module", autouse=True)
def quick(tmp_path_factory):
    with tiny_runs.quick_compilation(tmp_path_factory.mktemp("compiled")):
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("run"), "encoder_decoder")


def measured(run, step):
    rebuilt = rebuild_batch(str(run), step)
    checkpoint = token_loss.nearest_checkpoint(rebuilt.config, str(run), step)
    return checkpoint, token_loss.measure(checkpoint, rebuilt.config, rebuilt.batch), rebuilt


# --- against training ------------------------------------------------------------------------------------------------


def assert_as_in_training(run, step):
    checkpoint, losses, rebuilt = measured(run, step)
    assert checkpoint.step == checkpoint.met == step - 1
    assert token_loss.why_they_differ(checkpoint, rebuilt.config) == []
    recorded, with_z_loss = token_loss.recorded_loss(str(run), step)
    assert losses.mean == pytest.approx(recorded, rel=1e-5)
    assert recorded < with_z_loss < recorded + 0.1
    assert not losses.nats[~losses.carries].any() and (losses.nats[losses.carries] > 0).all()
    assert losses.carries.sum() == (rebuilt.batch["decoder_loss_weights"] > 0).sum()
    return losses, rebuilt


def test_the_loss_is_that_of_training_where_the_checkpoint_is_the_one_that_met_the_batch(run):
    assert_as_in_training(run, 3)


ARCHITECTURES = ["encoder_decoder", "prefix_lm", "causal_lm"]


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_packed_rows_cost_what_they_did_in_training(tmp_path, architecture):
    losses, rebuilt = assert_as_in_training(trained(tmp_path, architecture, "PACK=True", data_feed="seqio"), 5)
    assert losses.examples.max() > 1
    assert losses.examples is rebuilt.batch["decoder_segment_ids"]


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES[1:])
def test_rows_of_language_models_cost_what_they_did_in_training(tmp_path, architecture):
    losses, _ = assert_as_in_training(trained(tmp_path, architecture), 5)
    assert losses.examples.max() == 1


def test_another_step_costs_something_else(run):
    checkpoint, losses, rebuilt = measured(run, 2)
    assert (checkpoint.step, checkpoint.met) == (2, 1)
    assert losses.mean != pytest.approx(token_loss.recorded_loss(str(run), 2)[0], rel=1e-5)
    smoothed = dataclasses.replace(
        rebuilt.config,
        loss=LossConfig(label_smoothing=0.1),
        model=dataclasses.replace(rebuilt.config.model, dropout_rate=0.2),
    )
    assert token_loss.why_they_differ(checkpoint, smoothed) == [
        "the checkpoint is of another step",
        "training dropped out 0.2",
        "training smoothed labels by 0.1",
    ]


def test_a_batch_of_any_number_of_rows_is_measured(run):
    checkpoint, losses, rebuilt = measured(run, 3)
    some = {name: rows[:11] for name, rows in rebuilt.batch.items()}
    np.testing.assert_allclose(token_loss.measure(checkpoint, rebuilt.config, some).nats, losses.nats[:11], rtol=1e-5)


def test_a_loss_that_is_not_written_down(run):
    assert token_loss.recorded_loss(str(run), 99) is None


# --- which checkpoint ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "step"), [(1, 2), (3, 2), (4, 2), (5, 4), (6, 5)])  # 4 lies between 2 and 4
def test_the_nearest_checkpoint_is_taken_and_of_two_the_earlier(run, batch, step):
    found = token_loss.nearest_checkpoint(rebuild_batch(str(run), 1).config, str(run), batch)
    assert found == Checkpoint(str(run / "checkpoints" / str(step)), step, batch - 1)


def test_what_a_run_started_from_counts(run):
    started = rebuild_batch(str(run), 1).config
    train = dataclasses.replace(started.train, initial_checkpoint_path=str(run / "checkpoints" / "4"), reset_step=True)
    found = token_loss.nearest_checkpoint(dataclasses.replace(started, train=train), str(run), 1)
    assert found == Checkpoint(str(run / "checkpoints" / "4"), 0, 0)
    train = dataclasses.replace(train, assignment_map=((".*", None),))
    assert token_loss.nearest_checkpoint(dataclasses.replace(started, train=train), str(run), 1).step == 2


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (7, "the very parameters that met the batch"),
        (6, "1 step before the parameters that met the batch"),
        (9, "2 steps after the parameters that met the batch, which it has been trained on since"),
    ],
)
def test_the_distance_is_told(step, words):
    assert Checkpoint("x", step, 7).distance == words


# --- where the loss lies ---------------------------------------------------------------------------------------------


def losses(nats, carries=None, examples=None):
    nats = np.array(nats, float)
    carries = np.ones(nats.shape, bool) if carries is None else np.array(carries, bool)
    examples = np.ones(nats.shape, int) if examples is None else np.array(examples)
    return TokenLoss(np.where(carries, nats, 0), carries, examples)


def test_rows_and_tokens_are_sorted_by_what_they_cost():
    some = losses([[1, 2, 9], [5, 5, 9], [9, 9, 9]], carries=[[1, 1, 0], [1, 1, 0], [0, 0, 0]])
    assert some.of_rows[:2] == [1.5, 5] and math.isnan(some.of_rows[2])
    assert some.rows == [1, 0, 2]
    assert some.mean == 13 / 4
    assert some.costliest(3) == [(1, 0), (1, 1), (0, 1)]
    assert len(some.costliest(20)) == 4


def test_what_is_not_a_number_is_shown_first():
    some = losses([[1.0, 2.0], [math.nan, 1.0], [3.0, 3.0]])
    assert some.rows == [1, 2, 0] and some.costliest(1) == [(1, 0)]


def test_quarters_are_those_of_each_example_of_a_packed_row():
    nats = [[1, 2, 3, 4, 1, 1, 2, 2, 3, 3, 4, 4, 9]]
    examples = [[1] * 4 + [2] * 8 + [0]]
    assert losses(nats, np.array(examples) > 0, examples).of_quarters == [1, 2, 3, 4]
    of_two = losses([[5, 6]]).of_quarters
    assert of_two[0] == 5 and of_two[2] == 6 and math.isnan(of_two[1]) and math.isnan(of_two[3])


# --- on the terminal -------------------------------------------------------------------------------------------------


def test_tokens_are_coloured_by_what_they_cost_or_have_the_number_behind_them():
    vocabulary = vocabularies.load("docs_8k")
    the, value = vocabulary.encode("the value")
    ids, nats = np.array([the, value, 1, 0]), np.array([0.0, 0.3, 12.25, 0.0])
    words = token_text.token_words(ids, vocabulary, PLAIN, np.array([0, 1, 1, 0]), nats)
    assert words == [f"▁the({the})", f"▁value({value}) 0.30", "</s>(1) 12.25", "(1 × padding)"]
    words = token_text.token_words(ids, vocabulary, COLOUR, np.array([0, 1, 1, 0]), nats)
    assert words[1:3] == [f"\x1b[38;5;71m▁value({value})\x1b[0m", "\x1b[38;5;196m</s>(1)\x1b[0m"]
    assert COLOUR.cost("x", math.nan) == COLOUR.cost("x", 99.0)
    legend = terminal.cost_legend(COLOUR)
    assert re.sub("\x1b\\[[0-9;]*m", "", legend).split("  ") == ["up to 0.25", "0.5", "1", "2", "4", "8", "more"]
    assert "\x1b[38;5;71m0.5\x1b[0m" in legend


def test_all_tokens_with_loss_are_there_however_long():
    ids, nats = np.full(60, 50), np.arange(60) / 10
    words = token_text.token_words(ids, vocabularies.load("docs_8k"), PLAIN, np.ones(60), nats)
    assert [float(word.split()[1]) for word in words] == pytest.approx(nats.tolist())


def test_a_token_stands_in_its_text():
    vocabulary = vocabularies.load("docs_8k")
    first = vocabulary.vocab_size - 1
    ids = np.array([first, *vocabulary.encode("returns the value of it"), 1])
    words = token_text.in_context(ids, 3, vocabulary, PLAIN, around=1)
    assert words == "… the [value] of …"
    assert token_text.in_context(ids, 0, vocabulary, PLAIN, around=2) == "[<extra_id_0>] returns the …"
    assert token_text.in_context(ids, len(ids) - 1, vocabulary, COLOUR, around=1) == "… it \x1b[1m[</s>]\x1b[0m"
    newline = vocabularies.load("bytes").encode("a\nb")
    assert token_text.in_context(np.array(newline), 1, vocabularies.load("bytes"), PLAIN) == "a[\\n]b"


def test_the_command_prints_rows_losses_and_the_costliest_tokens(run, capsys):
    commands.inspect_run(str(run), 3, 8)
    out = capsys.readouterr().out
    _, found, _ = measured(run, 3)
    assert f"losses are those of {run}/checkpoints/2, the very parameters that met the batch" in out
    shown = [int(row) for row in re.findall(r"^  row (\d+), \d+\.\d+ nats a token$", out, re.M)]
    assert shown == found.rows[:8]
    assert "8 more rows are not shown; --rows=16 shows all." in out
    (mean, recorded) = re.search(
        r"this batch +(\S+) nats a token.*\n +in training +(\S+) in metrics.jsonl", out
    ).groups()
    assert mean == recorded == f"{found.mean:.3f}"
    assert f"a guess {math.log(384):.2f}" in out  # 359 ids, in an embedding of a multiple of 128 rows
    quarters = re.search(r"quarters of targets +([\d. ]+)\(", out)[1].split()
    assert quarters == [f"{mean:.2f}" for mean in found.of_quarters]
    row, position = found.costliest(1)[0]
    tokens = out.partition("costliest tokens\n")[2].splitlines()
    assert len(tokens) == 20
    assert tokens[0].startswith(f"  {found.nats[row, position]:>6.2f}  row {row:<3} position {position:<4}")
    assert all("[" in line for line in tokens)


def test_without_a_checkpoint_the_batch_is_shown_alone(run, tmp_path, capsys):
    for name in ("config.gin", "metrics.jsonl"):
        shutil.copy(run / name, tmp_path)
    commands.inspect_run(str(tmp_path), 3, 2)
    out = capsys.readouterr().out
    assert f"no losses: {tmp_path} has no checkpoint yet" in out
    assert re.findall(r"^  row (\d+)$", out, re.M) == ["0", "1"] and "14 more rows are not shown" in out
    assert "costliest" not in out and re.search(r"decoder writes .*\*", out)


def test_a_checkpoint_of_another_model_is_told_beside_the_batch(run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run")
    text = (run / "config.gin").read_text()
    (tmp_path / "run" / "config.gin").write_text(text.replace("emb_dim = 16", "emb_dim = 32"))
    assert "emb_dim = 16" in text
    commands.inspect_run(str(tmp_path / "run"), 3, 1)
    out = capsys.readouterr().out
    assert "no losses: " in out and "emb_dim" in out and "  row 0\n" in out


def test_a_run_without_checkpoints_is_refused(run, tmp_path):
    with pytest.raises(UserError, match="has no checkpoint yet"):
        token_loss.nearest_checkpoint(rebuild_batch(str(run), 1).config, str(tmp_path), 1)
