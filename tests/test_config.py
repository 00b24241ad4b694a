"""Tests of t5x_mini/config.py and config_checks.py: what loads, and the words with which the rest is refused."""

import dataclasses
import re
import typing

import pytest

from t5x_mini import config, config_checks, resources
from t5x_mini.errors import UserError

RUN = ["MODEL_DIR=runs/x", "MIXTURE_OR_TASK_NAME=task", "TASK_FEATURE_LENGTHS={'inputs': 8}", "BATCH_SIZE=8"]
RUN += ["TRAIN_STEPS=10"]


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a gin file into the working directory, and gives its name."""
    monkeypatch.chdir(tmp_path)

    def write(text, name="run.gin"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        return name

    return write


def _message(*arguments, **options):
    with pytest.raises(UserError) as refused:
        config.load(*arguments, **options)
    text = str(refused.value)
    assert len(text.splitlines()) <= 6
    return text


# Values


def test_every_macro_sets_the_field_that_it_names():
    values = {
        "MODEL_DIR": "runs/y",
        "MIXTURE_OR_TASK_NAME": "other",
        "MIXTURE_OR_TASK_MODULE": "my.tasks",
        "TASK_FEATURE_LENGTHS": {"inputs": 16, "targets": 4},
        "TRAIN_STEPS": 77,
        "BATCH_SIZE": 24,
        "USE_CACHED_TASKS": True,
        "SHUFFLE_TRAIN_EXAMPLES": False,
        "PACK": True,
        "LOSS_ON_TARGETS_ONLY": False,
        "PREFETCH": 5,
        "DROPOUT_RATE": 0.25,
        "ARCHITECTURE": "causal_lm",
        "DTYPE": "float32",
        "SCAN_LAYERS": False,
        "REMAT": "full",
        "LOSS_NORMALIZING_FACTOR": 233472,
        "LABEL_SMOOTHING": 0.1,
        "Z_LOSS": 0.5,
        "INITIAL_CHECKPOINT_PATH": "a/b",
        "CHECKPOINT_PATH": "c/d",
        "EVAL_OUTPUT_DIR": "e",
        "INFER_OUTPUT_DIR": "f",
        "EVAL_STEPS": 3,
        "EVAL_PERIOD": 4,
        "RANDOM_SEED": 6,
        "PRNG_IMPL": "rbg",
        "NUM_MICROBATCHES": 2,
        "CLIP_GLOBAL_NORM": 1.5,
        "CLOSING_REPORT": True,
        "CHECKPOINT_PERIOD": 9,
        "CHECKPOINTS_TO_KEEP": None,
        "PARTITIONING": "mesh",
        "MESH_DATA": 2,
        "MESH_FSDP": 4,
        "MESH_MODEL": 8,
    }
    run = config.load([], [f"{name}={value!r}" for name, value in values.items()])
    feed, model, loss, train = run.feed, run.model, run.loss, run.train
    assert (train.model_dir, train.train_steps, train.train_steps_relative) == ("runs/y", 77, None)
    assert (feed.mixture_or_task_name, feed.mixture_or_task_module) == ("other", "my.tasks")
    assert (feed.task_feature_lengths, feed.batch_size) == ({"inputs": 16, "targets": 4}, 24)
    assert (feed.use_cached_tasks, feed.shuffle, feed.pack) == (True, False, True)
    assert (feed.loss_on_targets_only, feed.prefetch) == (False, 5)
    assert (feed.seed, train.random_seed) == (6, 6)
    assert (model.dropout_rate, model.architecture, model.dtype) == (0.25, "causal_lm", "float32")
    assert (model.scan_layers, model.remat) == (False, "full")
    assert (loss.normalizing_factor, loss.label_smoothing, loss.z_loss) == (233472, 0.1, 0.5)
    assert (train.initial_checkpoint_path, train.eval_steps, train.eval_period) == ("a/b", 3, 4)
    assert (train.prng_impl, train.num_microbatches, train.clip_global_norm) == ("rbg", 2, 1.5)
    assert (train.closing_report, run.checkpoint.period, run.checkpoint.keep) == (True, 9, None)
    paths = run.evaluate.checkpoint_path, run.evaluate.eval_output_dir, run.evaluate.infer_output_dir
    assert paths == ("c/d", "e", "f")
    mesh = run.partitioning
    assert (mesh.kind, mesh.data, mesh.fsdp, mesh.model) == ("mesh", 2, 4, 8)
    defaults = (resources.gin_root() / "defaults.gin").read_text()
    macros = set(re.findall(r"^([A-Z][A-Z_]+) = ", defaults, re.M))
    assert macros == {*values, "TRAIN_STEPS_RELATIVE"}
    relative = config.load([], [*RUN, "TRAIN_STEPS=None", "TRAIN_STEPS_RELATIVE=5"])
    assert relative.train.train_steps_relative == 5


def test_the_later_binding_wins(write):
    write("BATCH_SIZE = 1\nTRAIN_STEPS = 1\n", "first.gin")
    write("BATCH_SIZE = 2\n", "second.gin")
    run = config.load(["first.gin", "second.gin"], [*RUN[:3], "TRAIN_STEPS=3"])
    assert (run.feed.batch_size, run.train.train_steps) == (2, 3)


@pytest.mark.parametrize("word", ["c4_span_corruption", "runs/x", "gs://bucket/run-1", "it's", "a b", "1.2.3", "./x#1"])
def test_a_bare_word_of_the_command_line_is_a_string(word):
    assert config.load([], [*RUN, f"MODEL_DIR={word}"]).train.model_dir == word


def test_values_of_the_command_line_may_be_gin():
    run = config.load([], [*RUN, "RunConfig.optimizer=@AdamW()", "AdamW.b1=0.5", "TRAIN_STEPS=%BATCH_SIZE", "Z_LOSS=0"])
    assert (type(run.optimizer).__name__, run.optimizer.b1, run.train.train_steps) == ("AdamW", 0.5, 8)
    assert run.loss.z_loss == 0


def test_blocks_lists_and_macros_of_ones_own(write):
    text = "LENGTH = 64\nTASK_FEATURE_LENGTHS = {'inputs': %LENGTH, 'targets': 7}\n"
    name = write(text + "TransformerConfig:\n  mlp_activations = ['relu']\n  emb_dim = %LENGTH\n")
    run = config.load([name], [*RUN[:2], *RUN[3:]])
    assert run.feed.task_feature_lengths == {"inputs": 64, "targets": 7}
    assert (run.model.mlp_activations, run.model.emb_dim) == (("relu",), 64)


def test_fields_take_numbers_by_their_annotation():
    assert config_checks.fits(1, float) and config_checks.fits(1.5, float) and config_checks.fits(None, float | None)
    assert (
        not config_checks.fits(True, int) and not config_checks.fits(1.0, int) and not config_checks.fits(True, float)
    )
    assert config_checks.fits("a", typing.Literal["a", 1]) and not config_checks.fits(True, typing.Literal["a", 1])
    assert config_checks.fits(["a"], tuple[str, ...]) and not config_checks.fits([1], tuple[str, ...])


def test_every_optimizer_and_schedule_can_be_chosen():
    from t5x_mini.train import optimizers, schedules

    for cls in typing.get_args(optimizers.Optimizer):
        assert type(config.load([], [*RUN, f"RunConfig.optimizer=@{cls.__name__}()"]).optimizer) is cls
    for cls in typing.get_args(schedules.Schedule):
        peak = [f"{cls.__name__}.peak=0.5"] if "peak" in {field.name for field in dataclasses.fields(cls)} else []
        assert type(config.load([], [*RUN, *peak, f"RunConfig.schedule=@{cls.__name__}()"]).schedule) is cls


# Files


def test_files_are_searched_in_the_working_directory_then_the_search_paths_then_the_package(write, tmp_path):
    assert config.load(["gin/quickstart.gin"]).feed.batch_size == 16
    write("BATCH_SIZE = 3\n", "elsewhere/gin/quickstart.gin")
    elsewhere = [str(tmp_path / "elsewhere")]
    assert config.load(["gin/quickstart.gin"], RUN[:3] + RUN[4:], elsewhere).feed.batch_size == 3
    write("BATCH_SIZE = 4\n", "gin/quickstart.gin")
    assert config.load(["gin/quickstart.gin"], RUN[:3] + RUN[4:], elsewhere).feed.batch_size == 4


def test_an_include_is_found_in_the_package_and_read_where_it_stands(write):
    name = write(
        "TransformerConfig.emb_dim = 1\ninclude 'gin/models/t5_1_1/mini.gin'\nTransformerConfig.num_heads = 9\n"
    )
    model = config.load([name], RUN).model
    assert (model.emb_dim, model.num_heads, model.mlp_dim) == (256, 9, 512)


def test_an_unknown_file_is_refused_with_the_closest_name_and_the_places(write, tmp_path):
    write("")
    text = _message(["gin/quikstart.gin"], RUN, ["/searched/too"])
    assert "There is no gin file gin/quikstart.gin; did you mean gin/quickstart.gin?" in text
    for place in (tmp_path, "/searched/too", resources.gin_root().parent):
        assert f"{place}/gin/quikstart.gin" in text
    assert "did you mean run.gin?" in _message(["rum.gin"], RUN)


def test_an_unknown_include_is_refused_with_its_line(write):
    name = write("# one\ninclude 'gin/models/t5_1_1/smal.gin'\n")
    text = _message([name], RUN)
    assert text.startswith("run.gin, line 2: There is no gin file")
    assert "did you mean gin/models/t5_1_1/small.gin?" in text


def test_a_file_that_includes_itself_is_refused(write):
    write("include 'b.gin'\n", "a.gin")
    write("include 'a.gin'\n", "b.gin")
    assert "b.gin, line 1: a.gin ends up including itself." in _message(["a.gin"], RUN)


def test_a_file_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "model.gin").write_bytes(b"\xff\xfe\x00")
    assert "model.gin can't be read as a gin file" in _message([str(tmp_path / "model.gin")], RUN)


@pytest.mark.parametrize(
    "text, line, shown",
    [
        ("BATCH_SIZE = 8\n\nTRAIN_STEPS = ten\n", 3, "TRAIN_STEPS = ten"),
        ("TRAIN_STEPS 10\n", 1, "TRAIN_STEPS 10"),
        ("BATCH_SIZE = 8\n# why\nTASK_FEATURE_LENGTHS = {'inputs': 8\n", 3, "TASK_FEATURE_LENGTHS = {'inputs': 8"),
    ],
)
def test_what_is_not_gin_is_refused_with_its_line(write, text, line, shown):
    message = _message([write(text)], RUN)
    assert message.startswith(f"run.gin, line {line}: ")
    assert message.endswith(f"\n    {shown}")
    assert "bracket" in message


# Names


@pytest.mark.parametrize(
    "text, expected",
    [
        ("\nTRAIN_STEPZ = 5\n", "run.gin, line 2: nothing uses a macro TRAIN_STEPZ; did you mean TRAIN_STEPS?"),
        ("batch_size = 5\n", "nothing uses a macro batch_size; did you mean BATCH_SIZE?"),
        ("FeedConfig:\n  pack = True\n  batchsize = 4\n", "run.gin, line 3: FeedConfig has no field batchsize; "),
        ("FedConfig.pack = True\n", "there is no class FedConfig; did you mean FeedConfig?"),
        ("RunConfig.optimizer = @AdmW()\n", "there is no class AdmW; did you mean AdamW?"),
        ("BATCH_SIZE = %BATCHES\n", "the macro %BATCHES has no value"),
        ("BATCH_SIZE = %BATCH_SIZE\n", "BATCH_SIZE is defined by itself."),
        ("eval/FeedConfig.pack = True\n", "scopes (eval/FeedConfig.pack) are not used here: write FeedConfig.pack."),
        ("import my.tasks\n", "gin files don't import. Write MIXTURE_OR_TASK_MODULE = 'my.tasks'."),
    ],
)
def test_an_unknown_name_is_refused_with_the_closest_one(write, text, expected):
    assert expected in _message([write(text)], RUN[:3] + RUN[4:])


def test_an_unknown_name_of_the_command_line_is_refused_in_its_words():
    text = _message([], [*RUN, "TRAIN_STEPZ=5"])
    assert text.startswith("--gin.TRAIN_STEPZ=5: nothing uses a macro TRAIN_STEPZ; did you mean TRAIN_STEPS?")


@pytest.mark.parametrize(
    "text",
    [
        "from __gin__ import dynamic_registration\n",
        "import __main__ as train_script\n",
        "from t5x import utils\n",
        "import t5.data.mixtures\n",
        "include 't5x/configs/runs/pretrain.gin'\n",
        "train/utils.DatasetConfig.pack = True\n",
        "utils.DatasetConfig:\n  pack = True\n",
        "MODEL = @models.EncoderDecoderModel()\n",
        "RunConfig.optimizer = @adafactor.Adafactor()\n",
        "USE_HARDWARE_RNG = True\n",
    ],
)
def test_t5x_files_are_recognised(write, text):
    message = _message([write("BATCH_SIZE = 1\n" + text)], RUN)
    assert "run.gin, line" in message
    assert "this is written for T5X" in message
    assert "docs/from_t5x.md" in message


# Types, ranges, what is missing


@pytest.mark.parametrize(
    "text, expected",
    [
        (
            "TRAIN_STEPS = 'ten'",
            "TRAIN_STEPS (for TrainConfig.train_steps) must be a whole number or None, not 'ten' (str)",
        ),
        ("TRAIN_STEPS = 5.0", "must be a whole number or None, not 5.0 (float)"),
        ("PACK = 1", "must be True or False, not 1 (int)"),
        ("BATCH_SIZE = True", "must be a whole number, not True (bool)"),
        ("MODEL_DIR = 2024", "must be a string, not 2024 (int)"),
        ("MODEL_DIR = None", "must be a string, not None"),
        ("DTYPE = 'float16'", "must be 'bfloat16' or 'float32', not 'float16'"),
        ("TASK_FEATURE_LENGTHS = 512", "must be a dict, each key a string and each value a whole number, not 512"),
        ("TransformerConfig.mlp_activations = 'relu'", "must be a tuple, each item a string, not 'relu'"),
        ("RunConfig.optimizer = @AdamW", "must be @Adafactor() or @AdamW() or @Muon(), not @AdamW."),
        ("RunConfig.optimizer = @Rsqrt()", "not @Rsqrt()."),
        ("DROPOUT_RATE = 1.0", "must be at least 0 and below 1, not 1.0"),
        ("BATCH_SIZE = 0", "BATCH_SIZE (for FeedConfig.batch_size) must be above 0, not 0"),
        ("TASK_FEATURE_LENGTHS = {}", "must be not empty, with lengths above 0, not {}"),
        ("CHECKPOINTS_TO_KEEP = 0", "must be above 0, not 0"),
        ("MESH_DATA = 0", "must be above 0, or -1 for all devices that are left, not 0"),
        ("Rsqrt.base = -1", "Rsqrt.base is -1: write a number above 0"),
    ],
)
def test_a_wrong_value_is_refused_with_what_is_right_and_where_it_stands(write, text, expected):
    name = text.split(" = ")[0]
    bindings = [binding for binding in RUN if not binding.startswith(f"{name}=")]
    message = _message([write(f"\n\n{text}\n")], bindings)
    assert message.startswith("run.gin, line 3: ")
    assert expected in message
    assert message.endswith(f"\n    {text}")


def test_the_line_of_a_wrong_value_is_where_it_was_written_not_where_it_was_used(write):
    text = _message([write("MINE = 'eight'\nBATCH_SIZE = %MINE\n")], RUN[:3] + RUN[4:])
    assert text.startswith("run.gin, line 1: MINE (for FeedConfig.batch_size) must be a whole number, not 'eight'")


def test_all_missing_values_are_named_at_once_with_examples():
    with pytest.raises(UserError) as refused:
        config.load([])
    text = str(refused.value)
    assert "These have no value: MIXTURE_OR_TASK_NAME, TASK_FEATURE_LENGTHS, BATCH_SIZE, MODEL_DIR." in text
    assert "--gin.MODEL_DIR=runs/my_run" in text
    twice = _message([], [*RUN, "RANDOM_SEED=%gin.REQUIRED"])
    assert twice.startswith("These have no value: RANDOM_SEED. Write for example\n  --gin.RANDOM_SEED=")
    assert "  --gin.Linear.peak=..." in _message([], [*RUN, "RunConfig.schedule=@Linear()"])


def test_the_number_of_steps_is_said_once():
    assert "both say when to stop" in _message([], [*RUN, "TRAIN_STEPS_RELATIVE=5"])
    assert "Nothing says when to stop training." in _message([], RUN[:4])
    assert config.load([], RUN[:4], training=False).train.train_steps is None


def test_settings_that_contradict_each_other_are_refused():
    microbatches = _message([], [*RUN, "NUM_MICROBATCHES=3"])
    assert microbatches == "BATCH_SIZE = 8 can't be split into NUM_MICROBATCHES = 3 equal parts."
    assert "PARTITIONING = 'pmap' copies the whole model" in _message([], [*RUN, "PARTITIONING=pmap", "MESH_FSDP=2"])
    assert config.load([], [*RUN, "PARTITIONING=pmap"]).partitioning.kind == "pmap"


@pytest.mark.parametrize("binding", ["BATCH_SIZE", "=5", "TASK_FEATURE_LENGTHS={'inputs': 8", "MODEL_DIR='runs"])
def test_a_malformed_binding_is_refused(binding):
    text = _message([], [*RUN, binding])
    assert text.startswith(f"--gin.{binding}: ")
    assert "--gin.NAME=VALUE" in text or "is a bracket or a quote left open?" in text


# Bindings that nothing uses


def test_a_binding_of_a_class_that_is_not_used_is_warned_about(capsys):
    config.load([], [*RUN, "AdamW.b1=0.8"])
    warning = "warning: --gin.AdamW.b1=0.8: AdamW.b1 has no effect, because AdamW is not used: RunConfig.optimizer is "
    assert capsys.readouterr().err == warning + "@Adafactor().\n"
    config.load([], [*RUN, "AdamW.b1=0.8", "RunConfig.optimizer=@AdamW()"])
    assert capsys.readouterr().err == ""


def test_a_macro_whose_field_is_bound_to_something_else_is_warned_about(capsys):
    config.load([], [*RUN, "TrainConfig.train_steps=5"])
    assert "--gin.TRAIN_STEPS=10: TRAIN_STEPS has no effect" in capsys.readouterr().err


def test_a_files_settings_of_an_optimizer_are_no_mistake_when_a_later_one_chooses_another(write, capsys):
    name = write("RunConfig.optimizer = @AdamW()\nAdamW.b1 = 0.8\n")
    config.load([name], [*RUN, "RunConfig.optimizer=@Muon()"])
    assert capsys.readouterr().err == ""
    config.load([write("AdamW.b1 = 0.8\n")], RUN)
    assert "run.gin, line 1: AdamW.b1 has no effect" in capsys.readouterr().err


# The operative config


@pytest.mark.parametrize("optimizer", ["adafactor", "adamw_rms", "muon"])
def test_the_operative_config_loads_to_an_equal_config(write, capsys, optimizer):
    files = ["gin/quickstart.gin", f"gin/optimizers/{optimizer}.gin", "gin/architectures/prefix_lm.gin"]
    run = config.load(files, ["MODEL_DIR=it's", "CLIP_GLOBAL_NORM=2.5", "TransformerConfig.mlp_activations=['relu']"])
    again = config.load([write(config.operative_config(), "config.gin")])
    assert again == run
    assert capsys.readouterr().err == ""


def test_macros_still_work_after_the_operative_config(write):
    config.load(["gin/quickstart.gin"])
    name = write(config.operative_config(), "config.gin")
    assert config.load([name], ["TRAIN_STEPS=7", "MODEL_DIR=runs/again"]).train.train_steps == 7


def test_one_load_leaves_nothing_behind_for_the_next():
    before = config.load([], RUN)
    config.load(["gin/quickstart.gin"], ["LABEL_SMOOTHING=0.3", "RunConfig.optimizer=@Muon()"])
    assert config.load([], RUN) == before
    assert "LABEL_SMOOTHING = 0.0" in config.operative_config()
    assert "Muon" not in config.operative_config()
