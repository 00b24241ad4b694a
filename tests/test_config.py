"""Tests of how gin is read and checked (config.py and what it stands on): what loads, and the words with the rest."""

import dataclasses
import re
import typing

import pytest

from t5x_mini import config, config_checks, resources
from t5x_mini.errors import UserError
from t5x_mini.tasks import objective_mixtures
from t5x_mini.tasks.definitions import Mixture, PretrainingTask, TextToTextTask
from t5x_mini.tasks.objective_mixtures import ObjectiveMixture
from t5x_mini.tasks.objectives import CausalLM, SpanCorruption

RUN = ["MODEL_DIR=runs/x", "MIXTURE_OR_TASK_NAME=task", "TASK_FEATURE_LENGTHS={'inputs': 8}", "BATCH_SIZE=8"]
RUN += ["TRAIN_STEPS=10"]
MODEL = "TransformerConfig.emb_dim=64"  # where it isn't said, it is the checkpoint's


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
        "VOCABULARY": "bytes",
        "EXTRA_IDS": 12,
        "GLUE_DIR": "tiny",
        "DATA_FEED": "seqio",
        "TOKENS_DIR": "g",
        "USE_CACHED_TASKS": True,
        "SHUFFLE_TRAIN_EXAMPLES": False,
        "PACK": True,
        "LOSS_ON_TARGETS_ONLY": False,
        "PREFETCH": 5,
        "DROPOUT_RATE": 0.25,
        "ARCHITECTURE": "causal_lm",
        "DTYPE": "float32",
        "ATTENTION": "flash",
        "SCAN_LAYERS": False,
        "REMAT": "full",
        "LOSS_NORMALIZING_FACTOR": 233472,
        "LABEL_SMOOTHING": 0.1,
        "Z_LOSS": 0.5,
        "INITIAL_CHECKPOINT_PATH": "a/b",
        "RESET_OPTIMIZER": True,
        "RESET_STEP": 1000000,
        "ASSIGNMENT_MAP": (("decoder/(.*)", "encoder/\\1"), ("a", None)),
        "FROZEN": ("encoder/.*", "decoder/.*"),
        "CHECKPOINT_PATH": "c/d",
        "EVAL_CHECKPOINTS": "all",
        "EVAL_LIMIT": 11,
        "RANK_CLASSIFICATION": False,
        "EVAL_OUTPUT_DIR": "e",
        "INFER_OUTPUT_DIR": "f",
        "INFER_INPUT": "questions.txt",
        "INFER_LIMIT": 12,
        "EVAL_STEPS": 3,
        "EVAL_PERIOD": 4,
        "RANDOM_SEED": 6,
        "PRNG_IMPL": "rbg",
        "NUM_MICROBATCHES": 2,
        "CLIP_GLOBAL_NORM": 1.5,
        "BEST_METRIC": "average",
        "PATIENCE": 3,
        "ON_DIVERGENCE": "skip",
        "LOSS_SPIKE": 6.5,
        "MAX_SKIPS": 13,
        "STATISTICS_PERIOD": 50,
        "CLOSING_REPORT": True,
        "CHECKPOINT_PERIOD": 9,
        "CHECKPOINTS_TO_KEEP": None,
        "BEST_CHECKPOINTS_TO_KEEP": 4,
        "CHECKPOINT_KEEP_PERIOD": 5000,
        "ON_DAMAGED_CHECKPOINT": "stop",
        "SAVE_RETRIES": 3,
        "LOSS_BLOCKS": 4,
        "COMPILATION_CACHE": "gs://g/xla",
        "PARTITIONING": "mesh",
        "MESH_DATA": 2,
        "MESH_FSDP": 4,
        "MESH_MODEL": 8,
    }
    objective = ["OBJECTIVE=@SpanCorruption()", "SpanCorruption.mean_span=5"]
    run = config.load([], [*objective, MODEL, *(f"{name}={value!r}" for name, value in values.items())])
    feed, model, loss, train = run.feed, run.model, run.loss, run.train
    assert (train.model_dir, train.train_steps, train.train_steps_relative) == ("runs/y", 77, None)
    assert (feed.mixture_or_task_name, feed.mixture_or_task_module) == ("other", "my.tasks")
    assert (feed.task_feature_lengths, feed.batch_size) == ({"inputs": 16, "targets": 4}, 24)
    assert (feed.use_cached_tasks, feed.shuffle, feed.pack) == (True, False, True)
    assert (feed.loss_on_targets_only, feed.prefetch) == (False, 5)
    assert (feed.seed, train.random_seed) == (6, 6)
    assert (feed.vocabulary, feed.extra_ids, feed.glue_dir) == ("bytes", 12, "tiny")
    assert (feed.data_feed, feed.tokens_dir, feed.objective) == ("seqio", "g", SpanCorruption(mean_span=5))
    assert (model.dropout_rate, model.architecture, model.dtype) == (0.25, "causal_lm", "float32")
    assert (model.attention, model.scan_layers, model.remat) == ("flash", False, "full")
    assert (loss.normalizing_factor, loss.label_smoothing, loss.z_loss, loss.blocks) == (233472, 0.1, 0.5, 4)
    assert train.compilation_cache == "gs://g/xla"
    assert (train.initial_checkpoint_path, train.eval_steps, train.eval_period) == ("a/b", 3, 4)
    assert (train.reset_optimizer, train.reset_step, train.frozen) == (True, 1_000_000, ("encoder/.*", "decoder/.*"))
    kept = run.checkpoint.keep_best, run.checkpoint.keep_period, run.checkpoint.on_damage
    assert kept == (4, 5000, "stop")
    assert train.assignment_map == (("decoder/(.*)", r"encoder/\1"), ("a", None))
    assert (train.prng_impl, train.num_microbatches, train.clip_global_norm) == ("rbg", 2, 1.5)
    assert (train.closing_report, run.checkpoint.period, run.checkpoint.keep) == (True, 9, None)
    paths = run.evaluate.checkpoint_path, run.evaluate.eval_output_dir, run.evaluate.infer_output_dir
    assert paths == ("c/d", "e", "f")
    chosen = run.evaluate.eval_checkpoints, run.evaluate.eval_limit, run.evaluate.rank_classification
    assert (*chosen, train.best_metric, train.patience) == ("all", 11, False, "average", 3)
    assert (train.statistics_period, train.on_divergence, train.loss_spike) == (50, "skip", 6.5)
    assert train.max_skips == 13
    assert (run.evaluate.infer_input, run.evaluate.infer_limit) == ("questions.txt", 12)
    mesh = run.partitioning
    assert (mesh.kind, mesh.data, mesh.fsdp, mesh.model) == ("mesh", 2, 4, 8)
    defaults = (resources.gin_root() / "defaults.gin").read_text()
    macros = set(re.findall(r"^([A-Z][A-Z_]+) = ", defaults, re.M))
    assert macros == {*values, "OBJECTIVE", "TRAIN_STEPS_RELATIVE"}
    assert config.load([], [*RUN, "DATA_FEED=tokens"]).feed.data_feed == "tokens"
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
        (
            "eval/FeedConfig.pack = True\n",
            "scopes (eval/FeedConfig.pack) are only for tasks and objectives: write FeedConfig.pack.",
        ),
        ("eval/BATCH_SIZE = 8\n", "scopes (eval/BATCH_SIZE) are only for tasks and objectives: write BATCH_SIZE."),
        (
            "RunConfig.optimizer = @a/AdamW()\n",
            "scopes (@a/AdamW()) are only for tasks and objectives: write @AdamW().",
        ),
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
        "VOCABULARY = @seqio.SentencePieceVocabulary()\n",
        "train/utils.DatasetConfig.pack = %PACK\n",
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


@pytest.mark.parametrize(
    ("macro", "value"), [("RESET_OPTIMIZER", "True"), ("RESET_STEP", "0"), ("ASSIGNMENT_MAP", "(('a', None),)")]
)
def test_how_to_start_from_a_checkpoint_needs_one(macro, value):
    assert _message([], [*RUN, f"{macro}={value}"]) == (
        f"{macro} says how to start from a checkpoint, and INITIAL_CHECKPOINT_PATH names none: write "
        f"--gin.INITIAL_CHECKPOINT_PATH=runs/another, or leave {macro} out."
    )
    assert config.load([], [*RUN, MODEL, f"{macro}={value}", "INITIAL_CHECKPOINT_PATH=runs/x"])


@pytest.mark.parametrize(
    ("binding", "words"),
    [
        ("ASSIGNMENT_MAP=(('a', 'b', 'c'),)", "must be a tuple, each item (a string, a string or None)"),
        ("ASSIGNMENT_MAP=('a', 'b')", "must be a tuple, each item (a string, a string or None)"),
        ("ASSIGNMENT_MAP=((1, None),)", "must be a tuple, each item (a string, a string or None)"),
        ("FROZEN='encoder/.*'", "must be a tuple, each item a string, not 'encoder/.*'"),
        ("RESET_STEP=yes", "must be True or a whole number or None, not 'yes'"),
        ("RESET_STEP=False", "must be True or a whole number or None, not False"),
        ("RESET_STEP=-1", "must be 0 or more, not -1"),
    ],
)
def test_how_to_start_is_of_the_right_type(binding, words):
    assert words in _message([], [*RUN, "INITIAL_CHECKPOINT_PATH=runs/x", binding])


def test_a_regex_of_a_gin_file_may_be_a_raw_string(write):
    rules = r"((r'decoder/layers_(\d+)/(.*)', r'encoder/layers_\1/\2'),)"
    write(f"INITIAL_CHECKPOINT_PATH = 'x'\nASSIGNMENT_MAP = {rules}\n")
    assert config.load(["run.gin"], [*RUN, MODEL]).train.assignment_map == (
        (r"decoder/layers_(\d+)/(.*)", r"encoder/layers_\1/\2"),
    )


def test_what_is_best_is_measured_at_evaluations():
    assert "EVAL_PERIOD = 0 makes none" in _message([], [*RUN, "BEST_METRIC=loss", "EVAL_PERIOD=0"])
    assert "write --gin.BEST_METRIC=average" in _message([], [*RUN, "PATIENCE=2"])
    assert config.load([], [*RUN, "PATIENCE=2", "BEST_METRIC=loss"]).train.patience == 2
    assert config.load([], [*RUN, "BEST_METRIC=train/loss", "EVAL_PERIOD=0"]).train.best_metric == "train/loss"
    assert "PATIENCE = 2 counts evaluations" in _message([], [*RUN, "BEST_METRIC=train/loss", "PATIENCE=2"])


def test_the_number_of_steps_is_said_once():
    assert "both say when to stop" in _message([], [*RUN, "TRAIN_STEPS_RELATIVE=5"])
    assert "Nothing says when to stop training." in _message([], RUN[:4])
    assert config.load([], [*RUN[:4], MODEL], training=False).train.train_steps is None


def test_settings_that_contradict_each_other_are_refused():
    microbatches = _message([], [*RUN, "NUM_MICROBATCHES=3"])
    assert microbatches == "BATCH_SIZE = 8 can't be split into NUM_MICROBATCHES = 3 equal parts."
    assert "PARTITIONING = 'pmap' copies the whole model" in _message([], [*RUN, "PARTITIONING=pmap", "MESH_FSDP=2"])
    assert config.load([], [*RUN, "PARTITIONING=pmap"]).partitioning.kind == "pmap"
    assert "set USE_CACHED_TASKS = False" in _message([], [*RUN, "DATA_FEED=tokens", "USE_CACHED_TASKS=True"])


@pytest.mark.parametrize("binding", ["BATCH_SIZE", "=5", "TASK_FEATURE_LENGTHS={'inputs': 8", "MODEL_DIR='runs"])
def test_a_malformed_binding_is_refused(binding):
    text = _message([], [*RUN, binding])
    assert text.startswith(f"--gin.{binding}: ")
    assert "--gin.NAME=VALUE" in text or "is a bracket or a quote left open?" in text


# Tasks, which scopes name

TEXT = """
my_text/PretrainingTask.files = {'train': 'text/*.txt'}
pairs/TextToTextTask:
  files = {'train': ['a.tsv', 'b.tsv']}
  inputs = 'translate: {en}'
  targets = '{de}'
  metrics = ['bleu']
both/Mixture.tasks = {'my_text': 0.7, 'pairs': 3}
"""


def _from(*names):
    """Bindings that give tasks a source."""
    return [f"{name}/PretrainingTask.tfds=c4" for name in names]


def _tasks(*bindings):
    return config.load_feed([], bindings)[0].tasks


def test_tasks_are_collected_in_their_order_under_the_names_of_their_scopes(write):
    name = write(TEXT)
    tasks = (
        PretrainingTask(name="my_text", files={"train": "text/*.txt"}, field="body"),
        TextToTextTask(
            name="pairs",
            files={"train": ("a.tsv", "b.tsv")},
            inputs="translate: {en}",
            targets="{de}",
            metrics=("bleu",),
        ),
        Mixture(name="both", tasks={"my_text": 0.7, "pairs": 3}),
    )
    field = "my_text/PretrainingTask.field=body"
    assert config.load([name], [*RUN, field]).feed.tasks == tasks
    assert config.load_feed([name], [field])[0].tasks == tasks
    assert config.load([], RUN).feed.tasks == ()


def test_a_mixture_may_be_names_alone():
    (mixture,) = _tasks("all/Mixture.tasks=['a', 'b']", "all/Mixture.limit=1000", "all/Mixture.temperature=2")
    assert mixture == Mixture(name="all", tasks=("a", "b"), limit=1000, temperature=2)


def test_squads_files_are_a_task_of_their_own_class():
    (task,) = _tasks("mine/SquadTask.files={'train': 'train.json'}")
    assert (type(task).__name__, task.name) == ("SquadTask", "mine")


def test_an_objective_inside_a_task_takes_the_settings_of_its_scope_before_those_of_none():
    tasks = _tasks(
        *_from("a", "b", "c", "d"),
        "a/PretrainingTask.objective=@SpanCorruption()",
        "b/PretrainingTask.objective=@SpanCorruption()",
        "c/PretrainingTask.objective=@r/SpanCorruption()",
        "d/PretrainingTask.objective=%OBJECTIVE",
        "SpanCorruption.mean_span=4",
        "a/SpanCorruption.mean_span=5",
        "r/SpanCorruption.noise_density=0.5",
        "d/SpanCorruption.mean_span=6",
    )
    assert [task.objective for task in tasks] == [
        SpanCorruption(mean_span=5),
        SpanCorruption(mean_span=4),
        SpanCorruption(noise_density=0.5, mean_span=4),
        SpanCorruption(mean_span=6),
    ]


def test_a_scope_reaches_no_other_task_and_not_the_run():
    feed, _ = config.load_feed(
        [], [*_from("a"), "a/PretrainingTask.objective=@SpanCorruption()", "a/SpanCorruption.mean_span=5"]
    )
    assert feed.objective == SpanCorruption()
    scoped, _ = config.load_feed([], ["OBJECTIVE=@a/SpanCorruption()", "a/SpanCorruption.mean_span=5"])
    assert scoped.objective == SpanCorruption(mean_span=5)


def test_a_task_without_an_objective_has_the_runs():
    (task,) = _tasks("a/PretrainingTask.files={'train': 'x.txt'}")
    assert task.objective is None


@pytest.mark.parametrize(
    "text, expected",
    [
        ("t/PretrainingTsk.files = {}", "there is no class PretrainingTsk; did you mean PretrainingTask?"),
        ("t/PretrainingTask.fils = {}", "PretrainingTask has no field fils; did you mean files?"),
        ("t/PretrainingTask.files = 'a.txt'", "t/PretrainingTask.files must be a dict, each key a string and each"),
        ("t/PretrainingTask.name = 'u'", "the name of a task is its scope, here t: leave this line out."),
        ("t/PretrainingTask.objective = @AdamW()\nt/PretrainingTask.tfds = 'x'", "must be @SpanCorruption() or "),
        ("t/PretrainingTask.field = 'a'", "the task t has no source. Write for example t/PretrainingTask.files = "),
        ("t/PretrainingTask.objective = @SpanCoruption()", "did you mean SpanCorruption?"),
        ("t/TextToTextTask.write = 'f'", "TextToTextTask.write is a function, which only Python can give."),
        ("t/Mixture.limit = 0", "t/Mixture.limit must be above 0, not 0"),
        ("PretrainingTask.field = 'a'", "a PretrainingTask has its name in front: write for example my_task/Pretrain"),
        ("a/b/PretrainingTask.field = 'a'", "a/b/PretrainingTask.field has more than one scope"),
        ("FeedConfig.tasks = ()", "tasks are defined one by one: my_text/PretrainingTask.files = "),
        ("OBJECTIVE = @a/b/SpanCorruption()", "@a/b/SpanCorruption() has more than one scope"),
        (
            "ObjectiveMixture.objectives = [@AdamW()]\nOBJECTIVE = @ObjectiveMixture()",
            "must be a tuple, each item @Span",
        ),
        ("OBJECTIVE = @SpanCorruption", "OBJECTIVE (for FeedConfig.objective) must be "),
    ],
)
def test_a_mistake_in_a_task_is_refused_with_its_line(write, text, expected):
    message = _message([write(f"\n{text}\n")], RUN)
    assert message.startswith("run.gin, line 2: ")
    assert expected in message
    assert message.endswith("\n    " + text.splitlines()[0])


def test_a_misspelt_task_is_not_a_new_one(write):
    name = write(TEXT)
    text = _message([name], [*RUN, "my_txt/PretrainingTask.field=body"])
    assert text.startswith(
        "--gin.my_txt/PretrainingTask.field=body: the task my_txt has no source; did you mean my_text? "
        "Write for example my_txt/PretrainingTask.files = {'train': 'text/*.txt'}."
    )


def test_a_name_has_one_class(write):
    name = write("a/PretrainingTask.field = 'x'\na/Mixture.tasks = ('b',)\n")
    assert "run.gin, line 2: a is a PretrainingTask already (run.gin, line 1)." in _message([name], RUN)


def test_what_a_task_lacks_is_missing():
    assert "These have no value: m/Mixture.tasks. " in _message([], [*RUN, "m/Mixture.limit=3"])


def test_an_objectives_mistake_is_told_with_the_line_that_it_was_bound_in(write):
    text = _message([write("\nMINE = -1\nSpanCorruption.mean_span = %MINE\n")], RUN)
    assert text == "run.gin, line 2: SpanCorruption.mean_span must be positive; found -1. T5 uses 3.0.\n    MINE = -1"
    name = write(
        "a/PretrainingTask.tfds = 'x'\na/PretrainingTask.objective = @b/SpanCorruption()\n"
        "b/SpanCorruption.noise_density = 2\n"
    )
    assert _message([name], RUN).startswith("run.gin, line 3: SpanCorruption.noise_density must lie between 0 and 1")


MIXED = """
r/SpanCorruption.mean_span = 3
x/SpanCorruption.mean_span = 32
long/ObjectiveMixture.objectives = (@x/SpanCorruption(), @CausalLM())
ObjectiveMixture:
  objectives = [@r/SpanCorruption(), @long/ObjectiveMixture()]
  rates = [3, 1]
OBJECTIVE = @ObjectiveMixture()
"""


def test_an_objective_may_hold_others_each_with_its_scope(write, capsys):
    run = config.load([write(MIXED)], RUN)
    inner = ObjectiveMixture(objectives=(SpanCorruption(mean_span=32), CausalLM()), rates=(3, 1))
    assert run.feed.objective == ObjectiveMixture(objectives=(SpanCorruption(mean_span=3), inner), rates=(3, 1))
    assert config.load([write(config.operative_config(), "config.gin")]) == run
    assert capsys.readouterr().err == ""


def test_an_objective_that_holds_itself_is_refused(write):
    name = write("ObjectiveMixture.objectives = [@ObjectiveMixture()]\nOBJECTIVE = @ObjectiveMixture()\n")
    assert _message([name], RUN).startswith("run.gin, line 1: @ObjectiveMixture() is part of itself.")


def test_settings_of_objectives_are_no_mistake_when_a_later_file_chooses_another(write, capsys):
    config.load([write(MIXED)], [*RUN, "OBJECTIVE=@CausalLM()"])
    assert capsys.readouterr().err == ""
    config.load([], [*RUN, *_from("a"), "UL2.random_roll=True", "a/PretrainingTask.objective=@PrefixLM()"])
    expected = "UL2.random_roll has no effect, because UL2 is not used: OBJECTIVE is @SpanCorruption()."
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("cls", objective_mixtures.OBJECTIVES)
def test_every_objective_can_be_chosen(write, cls, capsys):
    needed = ["ObjectiveMixture.objectives=[@PrefixLM()]"] if cls is ObjectiveMixture else []
    run = config.load([], [*RUN, f"OBJECTIVE=@{cls.__name__}()", *needed])
    assert type(run.feed.objective) is cls
    assert config.load([write(config.operative_config(), "config.gin")]) == run
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "bindings, expected",
    [
        (
            [*_from("text"), "txt/SpanCorruption.mean_span=5", "text/PretrainingTask.objective=@SpanCorruption()"],
            "txt/SpanCorruption.mean_span has no effect, because no value is @txt/SpanCorruption(), and no task txt "
            "has one; did you mean text?",
        ),
        (
            ["t/SpanCorruption.mean_span=5", *_from("t")],
            "no value is @t/SpanCorruption(), and no task t has one",
        ),
        (
            ["SpanCorruption.mean_span=3", "OBJECTIVE=@r/SpanCorruption()", "r/SpanCorruption.mean_span=5"],
            "SpanCorruption.mean_span has no effect, because every scope that is used binds its own.",
        ),
    ],
)
def test_a_scope_that_is_not_used_is_warned_about(capsys, bindings, expected):
    for load in (config.load_feed, config.load):
        load([], [*RUN, *bindings])
        assert expected in capsys.readouterr().err


def test_a_task_that_the_run_does_not_use_is_no_mistake(write, capsys):
    config.load([write(TEXT)], RUN)
    assert capsys.readouterr().err == ""


# Feeds without a run


def test_a_feed_needs_nothing_but_has_what_the_files_say(capsys):
    feed, architecture = config.load_feed([])
    assert (feed.mixture_or_task_name, feed.batch_size, architecture) == ("", 8, "encoder_decoder")
    assert feed.task_feature_lengths == {"inputs": 512, "targets": 114}
    feed, architecture = config.load_feed(
        ["gin/quickstart.gin", "gin/architectures/causal_lm.gin"], ["AdamW.b1=0.5", "RANDOM_SEED=3"], task="mine"
    )
    assert (feed.mixture_or_task_name, feed.batch_size, architecture) == ("mine", 16, "causal_lm")
    assert (feed.task_feature_lengths, feed.seed) == ({"inputs": 128, "targets": 29}, 3)
    assert feed == dataclasses.replace(
        config.load(["gin/quickstart.gin"], ["RANDOM_SEED=3"]).feed, mixture_or_task_name="mine"
    )
    assert capsys.readouterr().err == ""


def test_a_feed_is_checked_as_a_run_is():
    with pytest.raises(UserError, match="must be above 0, not 0"):
        config.load_feed([], ["BATCH_SIZE=0"])
    with pytest.raises(UserError, match="did you mean TRAIN_STEPS"):
        config.load_feed([], ["TRAIN_STEPZ=5"])


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


def test_the_operative_config_defines_the_same_tasks(write, capsys):
    text = TEXT + "my_text/PretrainingTask.objective = @r/SpanCorruption()\nr/SpanCorruption.mean_span = 5\n"
    text += "OBJECTIVE = @SpanCorruption()\nSpanCorruption.noise_density = 0.3\n"
    text += "quoted/TextToTextTask:\n  files = {'train': 'it\\'s'}\n  inputs = 'two\\nlines \"{a}\"'\n"
    run = config.load([write(text)], RUN)
    assert config.load([write(config.operative_config(), "config.gin")]) == run
    assert len(run.feed.tasks) == 4 and run.feed.tasks[0].objective.noise_density == 0.3
    assert capsys.readouterr().err == ""


def test_the_operative_config_holds_what_nothing_bound(write):
    config.load([], RUN)
    assert "  relpos_buckets = 32\n" in config.operative_config()
    assert "\nSpanCorruption:\n  noise_density = 0.15\n" in config.operative_config()


def test_an_objectives_settings_can_still_be_changed_after_the_operative_config(write, capsys):
    config.load(
        [], [*RUN, *_from("a"), "a/PretrainingTask.objective=@SpanCorruption()", "a/SpanCorruption.noise_density=0.5"]
    )
    name = write(config.operative_config(), "config.gin")
    (task,) = config.load([name], ["SpanCorruption.mean_span=4"]).feed.tasks
    assert task.objective == SpanCorruption(noise_density=0.5, mean_span=4)
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
