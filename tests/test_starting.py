"""The command line from one run's checkpoint to another run: what is printed, loaded, frozen and refused."""

import json

import numpy as np
import pytest
import tiny_runs
from tiny_runs import arrays, steps_on_disk, training_rows

from t5x_mini import config
from t5x_mini.checkpoint import layout
from t5x_mini.checkpoint.own_source import OwnSource
from t5x_mini.tasks import vocabularies

FROZEN = ("encoder/.*", "token_embedder/embedding")
STEPS = {"TRAIN_STEPS": None, "TRAIN_STEPS_RELATIVE": 2}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    with tiny_runs.tiny(tmp_path_factory.mktemp("tiny")) as tiny:
        yield tiny


@pytest.fixture(scope="module")
def first(tiny):
    """The folder of a run of five steps."""
    folder = tiny.folder / "runs" / "first"
    finished = tiny.run("train", MODEL_DIR=str(folder), TRAIN_STEPS=5)
    assert finished.code == 0, finished.err
    return folder


def start(tiny, folder, first, *arguments, **macros):
    macros = {"INITIAL_CHECKPOINT_PATH": str(first)} | STEPS | macros
    return tiny.run("train", *arguments, MODEL_DIR=str(folder), **macros)


def test_a_vocabulary_that_the_embedding_has_no_rows_for_is_refused(tiny):
    refused = tiny.run("train", "--gin.TransformerConfig.vocab_size=96", MODEL_DIR=str(tiny.folder / "runs" / "small"))
    assert refused.code == 1
    assert "vocabulary has 250 ids, its 100 EXTRA_IDS included, and the model's embedding 96 rows" in refused.err


def flat(folder, step):
    return layout.flatten(arrays(folder, step))


def test_a_checkpoint_says_what_it_was_trained_with(tiny, first):
    run = json.loads((first / "checkpoints" / "5" / "run" / "metadata").read_text())
    assert run["vocabulary_source"] == {"vocabulary": str(tiny.folder / "tiny.model"), "extra_ids": 100}
    settings = run["training"].pop("settings")
    assert settings["FeedConfig.batch_size"] == 16
    assert run["training"] == {
        "learning_rate": pytest.approx(0.01),  # Rsqrt's plateau
        "loss_normalizing_factor": "NUM_REAL_TARGET_TOKENS",
        "dropout_rate": 0.0,
        "feature_lengths": {"inputs": 64, "targets": 14},
    }
    origin = OwnSource(str(first)).origin
    assert (origin.step, origin.learning_rate, origin.feature_lengths) == (5, *list(run["training"].values())[::3])
    assert vocabularies.load(origin.vocabulary, origin.extra_ids).vocab_size == 250


def test_every_array_can_be_read_alone(first):
    source, expected = OwnSource(str(first)), flat(first, 5)
    assert source.shapes == {name: array.shape for name, array in expected.items()}
    for name, array in expected.items():
        read = source.read(name)
        assert read.dtype == array.dtype
        np.testing.assert_array_equal(read, array, err_msg=name)


def test_the_plan_is_printed_and_the_step_is_set(tiny, first, tmp_path):
    finished = start(tiny, tmp_path / "run", first, RESET_STEP=40000)
    assert finished.code == 0, finished.err
    said = finished.out.splitlines()
    at = next(i for i, line in enumerate(said) if line.startswith("starting from"))
    assert said[at] == (
        f"starting from step 5 of {first}/checkpoints/5; the steps of this run count from 40,000; the data starts anew"
    )
    assert "arrays, 0." in said[at + 1] and said[at + 1].startswith("  loaded     ")
    assert said[at + 2 : at + 4] == ["  new        nothing", "  left over  nothing"]
    assert said[at + 5].split() == ["learning", "rate", "0.005", "0.01"]
    assert "warning: the learning rate goes from 0.01 to 0.005 at once" in said
    assert [row["step"] for row in training_rows(tmp_path / "run")] == [40001, 40002]
    assert training_rows(tmp_path / "run")[0]["learning_rate"] == pytest.approx(0.005)
    counts = {name: int(array) for name, array in flat(tmp_path / "run", 40002).items() if name.endswith("/count")}
    assert set(counts.values()) == {7}  # updates that the running means have seen


def test_a_dry_run_prints_the_plan_and_makes_nothing(tiny, first, tmp_path):
    finished = start(tiny, tmp_path / "run", first, "--dry_run", FROZEN=FROZEN)
    assert finished.code == 0, finished.err
    assert f"starting from step 5 of {first}/checkpoints/5; " in finished.out
    assert "would train to step 7" in finished.out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("partitioning", ["mesh", pytest.param("pmap", marks=pytest.mark.slow)])
def test_frozen_parameters_stay_bit_for_bit_and_the_run_can_be_resumed(tiny, first, tmp_path, partitioning):
    folder = tmp_path / "run"
    macros = {"FROZEN": FROZEN, "PARTITIONING": partitioning, "CLIP_GLOBAL_NORM": 1.0}
    finished = start(tiny, folder, first, **macros)
    assert finished.code == 0, finished.err
    assert "left over" in finished.out
    before, after = flat(first, 5), flat(folder, 7)
    frozen = {name for name in before if name.startswith(("params/encoder/", "params/token_embedder/"))}
    assert frozen
    for name in (name for name in before if name.startswith("params/")):
        assert np.array_equal(before[name], after[name]) == (name in frozen), name
    assert not any(name.startswith(("opt_state/encoder/", "opt_state/token_embedder/")) for name in after)
    assert any(name.startswith("opt_state/decoder/") for name in after)

    resumed = start(tiny, folder, first, **macros | {"TRAIN_STEPS_RELATIVE": 3})
    assert resumed.code == 0, resumed.err
    assert "resuming from step 7" in resumed.out and steps_on_disk(folder) == [7, 8]
    changed = start(tiny, folder, first, **macros | {"TRAIN_STEPS_RELATIVE": 4, "FROZEN": ()})
    assert changed.code == 1
    assert "FROZEN" in changed.err and "was trained with other settings" in changed.err


def test_frozen_parameters_are_counted_in_the_models_description(tiny, first, tmp_path):
    finished = start(tiny, tmp_path / "run", first, "--dry_run", FROZEN=("token_embedder/embedding",))
    assert "8,192 of them frozen" in finished.out  # 256 rows of 32


def test_a_regex_that_freezes_nothing_is_refused(tiny, first, tmp_path):
    finished = start(tiny, tmp_path / "run", first, FROZEN=("encoder/mlp",))
    assert finished.code == 1 and "FROZEN has 'encoder/mlp', which matches no parameter" in finished.err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_new_layers_by_an_assignment_map(tiny, first, tmp_path):
    rules = ((r"decoder/layers_2/(.*)", r"decoder/layers_1/\1"),)
    more = {"TransformerConfig.num_decoder_layers": 3}
    finished = start(tiny, tmp_path / "run", first, **more)
    assert finished.code == 1 and "num_decoder_layers: 2 in the checkpoint, 3 in this run" in finished.err
    finished = start(tiny, tmp_path / "run", first, ASSIGNMENT_MAP=rules, **more)
    assert finished.code == 0, finished.err
    assert any("/layers_2/" in name for name in flat(tmp_path / "run", 7))
    # Rules are for the start alone: what is resumed is the run's own.
    resumed = start(tiny, tmp_path / "run", first, ASSIGNMENT_MAP=rules, **more | {"TRAIN_STEPS_RELATIVE": 3})
    assert resumed.code == 0 and "resuming from step 7" in resumed.out, resumed.err


@pytest.mark.slow
def test_another_optimizer_needs_a_fresh_state(tiny, first, tmp_path):
    adamw = "--gin_file=gin/optimizers/adamw.gin", "--gin.Cosine.warmup_steps=1"
    refused = start(tiny, tmp_path / "run", first, *adamw)
    assert refused.code == 1 and "--gin.RESET_OPTIMIZER=True" in refused.err
    assert not steps_on_disk(tmp_path / "run")
    finished = start(tiny, tmp_path / "run", first, *adamw, RESET_OPTIMIZER=True)
    assert finished.code == 0, finished.err
    assert steps_on_disk(tmp_path / "run") == [7]


@pytest.mark.slow
def test_no_run_goes_on_in_the_folder_of_an_import(tiny, first, tmp_path):
    from t5x_mini.checkpoint import array_writer
    from t5x_mini.checkpoint.run_item import RunItem

    source, folder = OwnSource(str(first)), tmp_path / "imported"
    params = {name: shape for name, shape in source.shapes.items() if name.startswith("params/")}
    array_writer.write(str(folder), 5, params, source.read, RunItem(model=source.origin.model))
    refused = tiny.run("train", MODEL_DIR=str(folder), TRAIN_STEPS=9)
    assert refused.code == 1
    assert (
        f"{folder}/checkpoints/5 was imported: it has no random key and no place in any data, so no run can go on in "
        f"its folder. Start a run of its own from it: --gin.INITIAL_CHECKPOINT_PATH={folder} --gin.MODEL_DIR="
    ) in refused.err
    finished = start(tiny, tmp_path / "run", folder)
    assert finished.code == 0, finished.err
    assert "  new  " in finished.out and "optimiser" in finished.out
    assert steps_on_disk(tmp_path / "run") == [7]


@pytest.mark.slow
def test_continuing_ones_own_run_by_the_file_that_comes_with_it(tiny, first, tmp_path):
    finished = tiny_runs.run(
        [
            *("train", f"--gin_file={first / 'config.gin'}", "--gin_file=gin/runs/continue.gin"),
            *(f"--gin.INITIAL_CHECKPOINT_PATH={first}", f"--gin.MODEL_DIR={tmp_path / 'more'}"),
            *("--gin.TRAIN_STEPS_RELATIVE=2", "--gin.EVAL_PERIOD=0"),
        ]
    )
    assert finished.code == 0, finished.err
    assert "warning: the learning rate goes from 0.01 to 0.001 at once" in finished.out
    assert [row["step"] for row in training_rows(tmp_path / "more")] == [6, 7]
    losses = [row["loss_per_nonpadding_target_token"] for row in training_rows(first)]
    assert training_rows(tmp_path / "more")[0]["loss_per_nonpadding_target_token"] < losses[0]
    assert config.operative_config().count("@Constant()") == 1


# Without a model file

NO_MODEL = f"""
include 'gin/hardware/cpu.gin'
MIXTURE_OR_TASK_NAME = 'tiny_sentences'
MIXTURE_OR_TASK_MODULE = {tiny_runs.MODULE!r}
EVAL_STEPS = 2
"""
TRAINING = """
TASK_FEATURE_LENGTHS = {'inputs': 64, 'targets': 14}
BATCH_SIZE = 16
TRAIN_STEPS_RELATIVE = 2
EVAL_PERIOD = 0
"""


@pytest.fixture
def no_model(tmp_path):
    """The words of a command with a gin file that says nothing of the model."""
    path = tmp_path / "no_model.gin"

    def words(command, *bindings):
        path.write_text(NO_MODEL + TRAINING * (command == "train"))
        return [command, f"--gin_file={path}", *(f"--gin.{binding}" for binding in bindings)]

    return words


def test_the_model_is_the_checkpoints_where_none_is_named(no_model, first, tmp_path):
    folder = tmp_path / "run"
    finished = tiny_runs.run(no_model("train", f"INITIAL_CHECKPOINT_PATH={first}", f"MODEL_DIR={folder}"))
    assert finished.code == 0, finished.err
    assert [row["step"] for row in training_rows(folder)] == [6, 7]
    # What it found is written down, so that the run can be gone on with when the checkpoint is gone.
    alone = config.load([str(folder / "config.gin")], ["INITIAL_CHECKPOINT_PATH=None"])
    assert (alone.model.emb_dim, alone.model.vocab_size) == (32, 256)
    assert alone.feed.vocabulary == OwnSource(str(first)).origin.vocabulary


def test_what_is_measured_brings_its_model_and_its_folder(no_model, first):
    finished = tiny_runs.run(no_model("eval", f"CHECKPOINT_PATH={first}/checkpoints/5"))
    assert finished.code == 0, finished.err
    assert (first / "eval" / "validation-5.json").exists()


def test_a_model_that_is_named_is_not_replaced(no_model, first, tmp_path):
    words = no_model("train", f"INITIAL_CHECKPOINT_PATH={first}", f"MODEL_DIR={tmp_path / 'run'}")
    finished = tiny_runs.run([*words, "--gin_file=gin/models/t5_1_1/tiny.gin"])
    assert finished.code == 1
    assert "emb_dim" in finished.err


def test_a_checkpoint_that_is_not_there_is_refused(no_model, tmp_path):
    finished = tiny_runs.run(no_model("train", f"INITIAL_CHECKPOINT_PATH={tmp_path}/none", f"MODEL_DIR={tmp_path}/run"))
    assert finished.code == 1
    assert f"There is no checkpoint in {tmp_path}/none" in finished.err
