"""Tests of t5x_mini/train/drift.py: which changes are harmless, which are refused, and where the data goes on."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from t5x_mini import config
from t5x_mini.checkpoint.run_item import RunItem, Training
from t5x_mini.errors import UserError
from t5x_mini.feed.position import Position
from t5x_mini.train import drift
from t5x_mini.train.run import Run

DAMAGE = pytest.mark.damage("A run that goes on with other settings says so, and refuses the dangerous ones.")
TASK = ("mine/PretrainingTask.files={'train': 'a.txt'}", "other/PretrainingTask.files={'train': 'b.txt'}")
MIXED = (*TASK, "both/Mixture.tasks=('mine',)", "MIXTURE_OR_TASK_NAME=both")


def configured(*bindings, files=("gin/quickstart.gin",)):
    return config.load(files, ["MODEL_DIR=runs/x", *bindings])


def changes(before, now, **more):
    first, second = configured(*before), configured(*now)
    return drift.compare(json.loads(json.dumps(drift.settings_of(first))), drift.settings_of(second), **more)


def names(found):
    return [drift.shown_name(change.name) for change in found]


def test_the_same_configuration_has_not_changed():
    assert changes(MIXED, MIXED) == drift.Changes()


@DAMAGE
@pytest.mark.parametrize(
    "binding",
    [
        *("BATCH_SIZE=32", "RANDOM_SEED=1", "MIXTURE_OR_TASK_NAME=cola", "DATA_FEED=tokens", "PACK=True"),
        *("TASK_FEATURE_LENGTHS={'inputs': 64, 'targets': 32}", "SHUFFLE_TRAIN_EXAMPLES=False", "Z_LOSS=0.1"),
        *("LABEL_SMOOTHING=0.1", "LOSS_NORMALIZING_FACTOR=1.0", "DROPOUT_RATE=0.1", "CLIP_GLOBAL_NORM=0.5"),
        *("Cosine.peak=0.9", "Cosine.warmup_steps=7", "AdamW.weight_decay=0.5", "RunConfig.schedule=@Rsqrt()"),
        *("OBJECTIVE=@IidDenoising()", "USE_CACHED_TASKS=True", "LOSS_ON_TARGETS_ONLY=False"),
    ],
)
def test_what_changes_the_learning_has_to_be_allowed(binding):
    found = changes((), (binding,))
    assert names(found.guarded)[:1] == [binding.partition("=")[0]]
    assert not found.fixed


@DAMAGE
@pytest.mark.parametrize(
    "binding",
    [
        *("ARCHITECTURE=causal_lm", "TransformerConfig.emb_dim=64", "TransformerConfig.mlp_activations=('relu',)"),
        *("TransformerConfig.num_encoder_layers=7", "VOCABULARY=bytes", "EXTRA_IDS=50", "FROZEN=('encoder/.*',)"),
        *("PRNG_IMPL=rbg", "RunConfig.optimizer=@Adafactor()"),
    ],
)
def test_what_the_arrays_would_not_survive_is_refused_in_any_case(binding):
    assert names(changes((), (binding,)).fixed)[:1] == [binding.partition("=")[0]]


@pytest.mark.parametrize(
    "binding",
    [
        *("MODEL_DIR=runs/y", "TRAIN_STEPS=2000", "CHECKPOINT_PERIOD=7", "EVAL_PERIOD=3", "MESH_FSDP=2", "PREFETCH=0"),
        *("DTYPE=bfloat16", "REMAT=full", "SCAN_LAYERS=True", "NUM_MICROBATCHES=2", "TOKENS_DIR=elsewhere"),
        *("LOSS_BLOCKS=2", "COMPILATION_CACHE=None", "INITIAL_CHECKPOINT_PATH=runs/z", "CLOSING_REPORT=False"),
    ],
)
def test_what_makes_no_difference_is_listed(binding):
    found = changes((), (binding,))
    assert binding.partition("=")[0] in names(found.free)
    assert not found.guarded and not found.fixed


def test_every_setting_was_thought_about():
    """A new field has to be put into a group: what is in none of drift.py's is taken for dangerous."""
    known = set(drift.settings_of(configured("RunConfig.optimizer=@Adafactor()")))
    guarded = {name for name in known if drift._kind(name) == "guarded"}
    assert guarded == {
        *("RunConfig.schedule", "TransformerConfig.dropout_rate", "TrainConfig.random_seed"),
        *(f"LossConfig.{name}" for name in ("label_smoothing", "z_loss", "normalizing_factor")),
        *("TrainConfig.clip_global_norm", "FeedConfig.objective", "FeedConfig.data_feed"),
        *("FeedConfig.mixture_or_task_name", "FeedConfig.task_feature_lengths", "FeedConfig.batch_size"),
        *("FeedConfig.pack", "FeedConfig.shuffle", "FeedConfig.use_cached_tasks", "FeedConfig.loss_on_targets_only"),
        "FeedConfig.seed",
        *(name for name in known if name.startswith(("Adafactor.", "Cosine.")) and name != "Cosine.total_steps"),
    }


def test_tasks_count_as_far_as_they_are_trained_on():
    assert names(changes(MIXED, (*MIXED, "mine/PretrainingTask.field=body")).guarded) == ["mine/PretrainingTask"]
    assert changes(MIXED, (*MIXED, "other/PretrainingTask.field=body")) == drift.Changes()
    assert changes(MIXED, (*MIXED, "third/PretrainingTask.files={'train': 'c.txt'}")) == drift.Changes()
    more = changes(MIXED, (*MIXED, "both/Mixture.tasks=('mine', 'other')"))
    assert names(more.guarded) == ["both/Mixture"] and more.of_stream == more.guarded


def test_a_vocabulary_that_moved_is_the_same_one():
    moved = ("VOCABULARY=elsewhere.model",)
    assert names(changes((), moved).fixed) == ["VOCABULARY"]
    assert names(changes((), moved, same_vocabulary=False).fixed) == ["VOCABULARY"]
    assert names(changes((), moved, same_vocabulary=True).free) == ["VOCABULARY"]


def test_a_decoder_only_model_has_no_encoder_to_change():
    causal = ("ARCHITECTURE=causal_lm",)
    assert changes(causal, (*causal, "TransformerConfig.num_encoder_layers=7")) == drift.Changes()


def test_what_only_one_version_knows_is_left_out():
    now = drift.settings_of(configured())
    assert drift.compare({**now, "TrainConfig.gone": 3}, now) == drift.Changes()
    del now["LossConfig.z_loss"]
    assert drift.compare(drift.settings_of(configured("Z_LOSS=0.5")), now) == drift.Changes()


def test_settings_hold_no_secrets():
    found = drift.settings_of(configured("mine/PretrainingTask.files={'train': 'https://me:hunter2@host/x.txt'}"))
    assert "hunter2" not in json.dumps(found) and "https://[redacted]@host/x.txt" in json.dumps(found)


# Refusing


def run_of(*bindings):
    made = configured(*bindings)
    return Run(made, None, None, None, 100, "a vocabulary")


def saved(*bindings, vocabulary="a vocabulary"):
    settings = json.loads(json.dumps(drift.settings_of(configured(*bindings))))
    item = RunItem(model=configured().model, vocabulary=vocabulary, training=Training(settings=settings))
    return RunItem.from_json(json.loads(json.dumps(item.to_json())))


def refusal(before, now, allowed=()):
    with pytest.raises(UserError) as error:
        drift.check(before, run_of(*now), allowed, Path("runs/x"))
    assert str(error.value).count("\n") < 10
    return str(error.value)


def test_one_message_names_all_and_says_how_to_go_on_anyway(capsys):
    words = refusal(saved(), ("BATCH_SIZE=32", "Z_LOSS=0.5", "RANDOM_SEED=3", "EVAL_PERIOD=7"))
    assert "runs/x was trained with other settings:" in words
    assert "    BATCH_SIZE: 16 when it was saved, 32 now\n" in words
    assert words.count("RANDOM_SEED: 0 when it was saved, 3 now") == 1
    assert "runs/x/config.gin" in words and "the data is then read from another place" in words
    flag = words.partition("--allow_changes=")[2]
    assert flag == "BATCH_SIZE,RANDOM_SEED,Z_LOSS"
    assert not capsys.readouterr().out
    found = drift.check(saved(), run_of("BATCH_SIZE=32", "Z_LOSS=0.5"), flag.split(","), Path("runs/x"))
    assert names(found.guarded) == ["BATCH_SIZE", "Z_LOSS"]
    assert "changed: BATCH_SIZE: 16 when it was saved, 32 now" in capsys.readouterr().out


def test_harmless_changes_are_listed_a_line_each(capsys):
    found = drift.check(saved(), run_of("EVAL_PERIOD=7", "PREFETCH=0", "MODEL_DIR=moved"), (), Path("runs/x"))
    listed = capsys.readouterr().out.splitlines()
    assert sorted(listed) == [
        "changed: EVAL_PERIOD: 250 when it was saved, 7 now",
        "changed: PREFETCH: 2 when it was saved, 0 now",
    ]
    assert len(found.free) == 3


def test_a_change_that_is_not_allowed_yet_is_refused_with_the_whole_flag():
    words = refusal(saved(), ("BATCH_SIZE=32", "Z_LOSS=0.5"), ["BATCH_SIZE"])
    assert "BATCH_SIZE: 16" not in words and "Z_LOSS: 0.0001 when it was saved, 0.5 now" in words
    assert words.endswith("--allow_changes=BATCH_SIZE,Z_LOSS")


def test_another_model_needs_a_run_of_its_own():
    words = refusal(saved(), ("ARCHITECTURE=causal_lm", "BATCH_SIZE=32"), ["ARCHITECTURE", "BATCH_SIZE"])
    assert "ARCHITECTURE can't be changed within a run" in words and "--allow_changes" not in words
    assert "--gin.INITIAL_CHECKPOINT_PATH=runs/x" in words


def test_many_changes_are_cut_short():
    many = [f"AdamW.{name}=0.5" for name in ("b1", "b2", "weight_decay")]
    many += [f"Cosine.{name}={value}" for name, value in (("peak", 0.9), ("warmup_steps", 3), ("final", 0.1))]
    words = refusal(saved(), ("BATCH_SIZE=32", "Z_LOSS=0.5", "LABEL_SMOOTHING=0.1", "DROPOUT_RATE=0.1", *many))
    assert words.count(" when it was saved, ") == 4 and "    and " in words


def test_a_name_that_is_no_setting_is_refused():
    words = refusal(saved(), (), ["BATCHSIZE"])
    assert "--allow_changes=BATCHSIZE: there is no such setting; did you mean BATCH_SIZE?" in words
    assert drift.check(saved(), run_of(), ["BATCH_SIZE", "FeedConfig.seed"], Path("x")) == drift.Changes()


def test_a_checkpoint_of_an_earlier_version_is_not_compared():
    old = RunItem.from_json({"model": {}, "training": {"learning_rate": 0.1}})
    assert drift.check(old, run_of("BATCH_SIZE=32"), (), Path("x")) == drift.Changes()


# The data


class Feed:
    """What `place` asks of a feed."""

    def __init__(self, **fingerprint):
        self.fingerprint = fingerprint

    def position(self):
        return Position(self.fingerprint, b"", 0)


TOKENS = {"data_feed": "tokens", "batch_size": 16, "seed": 0, "tokens of a": "digest"}


def stream_changes(**settings):
    return drift.Changes(guarded=tuple(drift.Change(f"FeedConfig.{name}", 0, 1) for name in settings))


@pytest.mark.parametrize("batch_size, batches, row", [(32, 5, 160), (5, 29, 145), (16, 9, 144), (7, 21, 147)])
def test_the_token_feed_goes_on_behind_the_rows_that_were_read(capsys, batch_size, batches, row):
    feed = Feed(**{**TOKENS, "batch_size": batch_size})
    found = drift.place(stream_changes(batch_size=1), Position(TOKENS, b"", 9), feed)
    assert found == Position(feed.fingerprint, b"", batches)
    assert f"the data goes on behind row {row}, with another BATCH_SIZE" in capsys.readouterr().out
    assert 0 <= row - 9 * 16 < batch_size


def test_seqio_s_stream_begins_anew_and_says_so(capsys):
    feed = Feed(batch_size=32, host_count=1)
    place = drift.place(stream_changes(batch_size=1), Position({"batch_size": 16, "host_count": 1}, b"state", 3), feed)
    assert place == feed.position()
    assert "the data is read from its start, because BATCH_SIZE changed" in capsys.readouterr().out


def test_what_nobody_allowed_is_refused_all_the_same():
    with pytest.raises(UserError, match="tokens of a: digest when it was saved, others now"):
        feed = Feed(**{**TOKENS, "batch_size": 32, "tokens of a": "others"})
        drift.place(stream_changes(batch_size=1), Position(TOKENS, b"", 9), feed)
    # Another mixture brings other tokens.
    feed = Feed(**{**TOKENS, "tokens of a": "others"})
    assert (
        drift.place(stream_changes(mixture_or_task_name=1), Position(TOKENS, b"", 9), feed).batches_after_snapshot == 9
    )


def test_an_unchanged_stream_goes_on_where_it_was():
    position = Position(TOKENS, b"state", 3)
    free = drift.Changes(free=(drift.Change("FeedConfig.prefetch", 0, 1),))
    assert drift.place(free, position, None) is position
    learning = drift.Changes(guarded=(drift.Change("LossConfig.z_loss", 0, 1),))
    assert drift.place(learning, position, None) is position


def test_values_are_as_json_gives_them_back():
    @dataclasses.dataclass(frozen=True)
    class Part:
        lengths: dict
        function: object
        size: object

    plain = drift._plain(Part({"b": 1, "a": (1, 2)}, test_values_are_as_json_gives_them_back, np.float32(3)))
    assert json.loads(json.dumps(plain)) == plain
    assert list(plain["lengths"]) == ["a", "b"] and plain["function"].startswith("test_values")
