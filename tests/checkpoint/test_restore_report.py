"""What is printed before a run starts from a checkpoint, word for word."""

import dataclasses

import eight_devices
import pytest

from t5x_mini.checkpoint import restore_report
from t5x_mini.checkpoint.restore_plan import RestorePlan
from t5x_mini.checkpoint.source import Origin
from t5x_mini.feed import feeds
from t5x_mini.feed.config import FeedConfig
from t5x_mini.train.schedules import Rsqrt


def run(**changes):
    """A run at 0.01 without dropout; `changes` of the parts of its configuration."""
    made = eight_devices.run(eight_devices.mesh(-1, 1, 1), "causal_lm")
    return dataclasses.replace(made, config=dataclasses.replace(made.config, **changes))


ORIGIN = Origin(
    path="runs/x/checkpoints/7",
    kind="t5x_mini",
    model=run().config.model,
    step=7,
    learning_rate=0.01,
    loss_normalizing_factor="NUM_REAL_TARGET_TOKENS",
    dropout_rate=0.0,
)
SHAPES = {
    "params/encoder/layers_0/mlp/wo/kernel": (1024, 512),
    "params/decoder/layers_0/mlp/wo/kernel": (1024, 512),
    "params/token_embedder/embedding": (1024, 256),
    "opt_state/encoder/layers_0/mlp/wo/kernel/v": (1024, 512),
}
STATE = "opt_state/encoder/layers_0/mlp/wo/kernel/v"


def changed(part, **changes):
    return {part: dataclasses.replace(getattr(run().config, part), **changes)}


def described(made=None, *, new=(), left_over=(), starts_at=None, **origin):
    origin = dataclasses.replace(ORIGIN, **origin)
    taken = {name: None if name in new else name for name in SHAPES}
    plan = RestorePlan(origin, origin.step or 0 if starts_at is None else starts_at, taken, SHAPES, dict(left_over))
    return restore_report.describe(plan, made or run())


def warnings(*arguments, **options):
    return [line for line in described(*arguments, **options).splitlines() if line.startswith("warning: ")]


def test_a_run_that_goes_on_as_it_was():
    assert described() == (
        "starting from step 7 of runs/x/checkpoints/7; the data starts anew\n"
        "  loaded     4 arrays, 7.0 MiB: encoder 1, decoder 1, token_embedder 1, optimiser 1\n"
        "  new        nothing\n"
        "  left over  nothing\n"
        "                   this run                  the checkpoint\n"
        "  learning rate    0.01                      0.01\n"
        "  loss divided by  NUM_REAL_TARGET_TOKENS    NUM_REAL_TARGET_TOKENS\n"
        "  dropout          0                         0"
    )


def test_a_checkpoint_that_says_little():
    text = described(
        run(schedule=Rsqrt()),
        new=[STATE],
        left_over={"params/decoder/other": (4, 4)},
        **dict(path="google/flan-t5-small", kind="hf", step=None, learning_rate=None),
        **dict(loss_normalizing_factor=None, dropout_rate=0.1, notes=("Its vocabulary is not known.",)),
    )
    assert text == (
        "starting from google/flan-t5-small (Hugging Face), which does not say its step; the steps of this run count "
        "from 0\n"
        "  loaded     3 arrays, 5.0 MiB: encoder 1, decoder 1, token_embedder 1\n"
        "  new        1 arrays, 2.0 MiB: optimiser 1\n"
        "  left over  1 arrays, 0.0 MiB: decoder 1\n"
        "                   this run                  the checkpoint\n"
        "  learning rate    0.01                      not known\n"
        "  loss divided by  NUM_REAL_TARGET_TOKENS    not known\n"
        "  dropout          0                         0.1\n"
        "note: Its vocabulary is not known.\n"
        "warning: the learning rate starts as at step 0, at 0.01. To go on where T5's pretraining ended, write "
        "--gin.RESET_STEP=1000000\n"
        "warning: its config.json says dropout 0.1, here it is 0 (DROPOUT_RATE)"
    )


def test_no_step_is_no_matter_where_the_rate_is_constant_or_the_step_is_set():
    unknown = dict(kind="hf", step=None, learning_rate=None)
    assert not warnings(**unknown)
    assert not warnings(run(schedule=Rsqrt(), **changed("train", reset_step=5)), starts_at=5, **unknown)


def test_a_step_that_is_set_is_said():
    assert "starting from step 7 of runs/x/checkpoints/7; the steps of this run count from 0; " in described(
        starts_at=0
    )


def test_a_learning_rate_that_jumps():
    assert warnings(learning_rate=0.002) == ["warning: the learning rate goes from 0.002 to 0.01 at once"]
    assert not warnings(learning_rate=0.01001)


def test_the_first_rate_is_that_of_the_step_it_starts_at():
    assert "learning rate    0.001 " in described(run(schedule=Rsqrt()), starts_at=1_000_000)


@pytest.mark.parametrize(
    ("own", "of_the_run", "warned"),
    [("docs_8k", "docs_8k", 0), ("bytes", "bytes", 0), ("docs_8k", "bytes", 1), ("bytes", "docs_8k", 1)],
)
def test_a_vocabulary_that_lies_beside_the_checkpoint_is_compared(own, of_the_run, warned):
    feed = FeedConfig(
        mixture_or_task_name="installed_docs_span_corruption",
        vocabulary=of_the_run,
        task_feature_lengths={"targets": 6},
        batch_size=8,
    )
    made = dataclasses.replace(run(), vocabulary=feeds.vocabulary_id(feed))
    words = f"warning: its vocabulary is {own}, and this run's is another one, "
    found = warnings(made, kind="hf", vocabulary=own, vocabulary_id=None)
    assert [line.startswith(words) for line in found] == [True] * warned


def test_models_that_are_not_the_same_are_noted():
    text = described(model=dataclasses.replace(ORIGIN.model, architecture="prefix_lm", num_decoder_layers=5))
    assert text.splitlines()[-1] == (
        "note: this run's model is not the checkpoint's: architecture is causal_lm here, prefix_lm there, "
        "num_decoder_layers is 2 here, 5 there"
    )


def test_another_dropout():
    assert warnings(dropout_rate=0.1) == ["warning: it was trained with dropout 0.1, here it is 0 (DROPOUT_RATE)"]


def test_another_normalizer_matters_to_state_that_is_kept():
    words = (
        "warning: the optimiser's state is that of a loss divided by 233472. Write "
        "--gin.LOSS_NORMALIZING_FACTOR=233472, or begin with a fresh one: --gin.RESET_OPTIMIZER=True"
    )
    assert warnings(loss_normalizing_factor=233472) == [words]
    assert not warnings(new=[STATE], loss_normalizing_factor=233472)
    assert not warnings(run(**changed("loss", normalizing_factor=233472)), loss_normalizing_factor=233472)


def test_the_plain_sum_is_a_normalizer_of_one():
    assert not warnings(run(**changed("loss", normalizing_factor=None)), loss_normalizing_factor=1)
    assert warnings(loss_normalizing_factor=1)[0].startswith(
        "warning: the optimiser's state is that of a loss divided by 1."
    )


@pytest.mark.parametrize(("rows", "factor"), [(32128, 233472), (250112, 234496), (384, 193536)])
def test_the_public_checkpoints_of_t5x_want_their_constant(rows, factor):
    public = dict(
        kind="t5x",
        model=dataclasses.replace(ORIGIN.model, vocab_size=rows),
        step=1_000_000,
        loss_normalizing_factor=None,
    )
    public["learning_rate"] = None
    assert warnings(**public) == [
        "warning: if this is one of the public T5 checkpoints, its optimiser's state is that of a loss divided by "
        f"{factor}. Write --gin.LOSS_NORMALIZING_FACTOR={factor}, or begin with a fresh one: --gin.RESET_OPTIMIZER=True"
    ]
    assert not warnings(run(**changed("loss", normalizing_factor=factor)), **public)
    assert not warnings(new=[STATE], **public)
    assert not warnings(**public | dict(step=1000))
    assert not warnings(**public | dict(kind="t5x_mini"))
