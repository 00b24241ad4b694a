"""Every file in gin/ loads, alone or beside the run that it is for."""

import dataclasses
import math
import re
import shlex

import pytest

from t5x_mini import checkpoint_defaults, cli, config, config_checks, gin_files, resources
from t5x_mini.feed import feeds
from t5x_mini.model import transformer
from t5x_mini.model.config import ARCHITECTURES, TransformerConfig
from t5x_mini.parallel.mesh import mesh_shape
from t5x_mini.tasks import registry, vocabularies
from t5x_mini.tasks.definitions import PretrainingTask

ROOT = resources.gin_root()
# Without defaults.gin, which comes before every other, and studies, which are no runs (tests/study).
FILES = sorted(
    name
    for path in ROOT.rglob("*.gin")
    if (name := path.relative_to(ROOT.parent).as_posix()) != "gin/defaults.gin" and not name.startswith("gin/studies/")
)
ALONE = {"gin/quickstart.gin", "gin/runs/pretrain.gin"}
# (emb_dim, heads, encoder layers, decoder layers, head_dim, mlp_dim), from T5X's gin files; `mini` is ours.
SIZES = {
    "t5_1_0/tiny": (8, 4, 2, 2, 3, 16),
    "t5_1_0/mini": (256, 4, 4, 4, 64, 1024),
    "t5_1_0/small": (512, 8, 6, 6, 64, 2048),
    "t5_1_0/base": (768, 12, 12, 12, 64, 3072),
    "t5_1_0/large": (1024, 16, 24, 24, 64, 4096),
    "t5_1_0/xl": (1024, 32, 24, 24, 128, 16384),
    "t5_1_0/xxl": (1024, 128, 24, 24, 128, 65536),
    "t5_1_1/tiny": (8, 4, 2, 2, 3, 16),
    "t5_1_1/mini": (256, 4, 4, 4, 64, 512),
    "t5_1_1/small": (512, 6, 8, 8, 64, 1024),
    "t5_1_1/base": (768, 12, 12, 12, 64, 2048),
    "t5_1_1/large": (1024, 16, 24, 24, 64, 2816),
    "t5_1_1/xl": (2048, 32, 24, 24, 64, 5120),
    "t5_1_1/xxl": (4096, 64, 24, 24, 64, 10240),
    "byt5/tiny": (8, 4, 2, 2, 3, 16),
    "byt5/mini": (256, 4, 6, 2, 64, 512),
    "byt5/small": (1472, 6, 12, 4, 64, 3584),
    "byt5/base": (1536, 12, 18, 6, 64, 3968),
    "byt5/large": (1536, 16, 36, 12, 64, 3840),
    "byt5/xl": (2560, 32, 36, 12, 64, 6720),
    "byt5/xxl": (4672, 64, 36, 12, 64, 12352),
}
# The multilingual ones differ from T5 1.1 in the vocabulary and, umT5, in the position bias.
SIZES |= {size.replace("t5_1_1", name): SIZES[size] for name in ("mt5", "umt5") for size in SIZES if "t5_1_1" in size}
FAMILIES = ("t5_1_0", "t5_1_1", "mt5", "byt5", "umt5")
# Rows of the public models' embeddings.
VOCAB_SIZES = {"t5_1_0": 32128, "t5_1_1": 32128, "mt5": 250112, "byt5": 384, "umt5": 256384}
PARAMETERS = {
    "t5_1_0": {
        "small": 60_506_624,
        "base": 222_903_552,
        "large": 737_668_096,
        "xl": 2_851_598_336,
        "xxl": 11_307_321_344,
    },
    "t5_1_1": {
        "small": 76_961_152,
        "base": 247_577_856,
        "large": 783_150_080,
        "xl": 2_849_757_184,
        "xxl": 11_135_332_352,
    },
    "mt5": {
        "small": 300_176_768,
        "base": 582_401_280,
        "large": 1_229_581_312,
        "xl": 3_742_619_648,
        "xxl": 12_921_057_280,
    },
    "byt5": {
        "small": 299_637_760,
        "base": 581_653_248,
        "large": 1_228_183_552,
        "xl": 3_737_801_728,
        "xxl": 12_906_899_328,
    },
    "umt5": {
        "small": 306_601_984,
        "base": 592_043_520,
        "large": 1_242_449_920,
        "xl": 3_768_356_864,
        "xxl": 12_972_531_712,
    },
}


# What a file comes after, where that is more than the quickstart.
AFTER = {"gin/strategies/tasks_of_t5.gin": ["gin/strategies/multi_task.gin"]}


def _load(name, *bindings):
    files = [name] if name in ALONE else ["gin/quickstart.gin", *AFTER.get(name, ()), name]
    start = ["INITIAL_CHECKPOINT_PATH=runs/y"] if "finetune" in name else []
    return config.load(files, ["MODEL_DIR=runs/x", *start, *bindings])


def _with_vocabulary(family, size):
    model = _load(f"gin/models/{family}/{size}.gin").model
    return dataclasses.replace(model, vocab_size=VOCAB_SIZES[family])


@pytest.mark.parametrize("name", FILES)
def test_loads_without_a_warning_and_without_a_vain_binding(name, capsys):
    assert isinstance(_load(name), config.RunConfig)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", FILES)
def test_begins_with_the_command_that_runs_it(name):
    head = re.match(r"(#.*\n)+", (ROOT.parent / name).read_text()).group()
    if name.endswith("/family.gin"):
        assert "not run by itself" in head
    else:
        assert re.search(rf"t5x-mini (train|eval|infer|tokenize) .*(\\\n#.*)?--gin_file={name}", head)


def _commands(name):
    """The commands in a file's comments, each as a list of arguments."""
    comments = re.sub(r"^# ?", "", (ROOT.parent / name).read_text(), flags=re.M).replace("\\\n", " ")
    return [shlex.split(command)[1:] for command in re.findall(r"t5x-mini .*--gin_file=.*", comments)]


def _all_but_the_model(path, training):
    """What a checkpoint says of a configuration, in place of one: its model is the default's."""
    said = ("MODEL_DIR=runs/x", "TASK_FEATURE_LENGTHS={'inputs': 512, 'targets': 114}", "BATCH_SIZE=32")
    return [] if training else [gin_files.read_binding(binding) for binding in said]


@pytest.mark.parametrize("name", FILES)
def test_its_commands_load_and_the_file_has_its_say(name, tmp_path, monkeypatch, capsys):
    config.load(["gin/quickstart.gin"])
    monkeypatch.chdir(tmp_path)
    # No checkpoint is here to take a model from.
    monkeypatch.setattr(checkpoint_defaults, "bindings", _all_but_the_model)
    for arguments in _commands(name):
        options = cli._parse(arguments)
        for run_config in (file for file in options.gin_file if file.startswith("runs/")):
            (tmp_path / run_config).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / run_config).write_text(config.operative_config())
        if options.command in ("inspect", "tokenize"):
            feed, _ = config.load_feed(options.gin_file, options.bindings, task=options.task)
            assert options.task in registry.definitions(feed)
            continue
        if options.command == "glue":  # which makes these of its own options
            options.bindings += ["MODEL_DIR=runs/x", "INITIAL_CHECKPOINT_PATH=runs/y"]
        if options.command == "plan":  # which writes no run
            options.bindings += ["MODEL_DIR=runs/x"]
        training = options.command == "train"
        run = config.load(options.gin_file, options.bindings, training=training)
        if name in options.gin_file:
            again = config.load([*options.gin_file, name], options.bindings, training=training)
            assert again == run, "another file overrides it"
    assert capsys.readouterr().err == ""


def test_every_published_size_is_here_and_right():
    found = {name[len("gin/models/") : -len(".gin")] for name in FILES if name.startswith("gin/models/")}
    assert found - {f"{family}/family" for family in FAMILIES} == set(SIZES)
    for size, numbers in SIZES.items():
        model = _load(f"gin/models/{size}.gin").model
        layers = (model.num_encoder_layers, model.num_decoder_layers)
        assert (model.emb_dim, model.num_heads, *layers, model.head_dim, model.mlp_dim) == numbers, size
        activations = ("relu",) if size.startswith("t5_1_0") else ("gelu", "linear")
        assert (model.mlp_activations, model.logits_via_embedding) == (activations, size.startswith("t5_1_0")), size
        assert model.relpos_bias_per_layer == size.startswith("umt5"), size


@pytest.mark.parametrize("family", FAMILIES)
def test_the_sizes_have_the_published_numbers_of_parameters(family):
    counts = {size: transformer.param_count(_with_vocabulary(family, size)) for size in PARAMETERS[family]}
    assert counts == PARAMETERS[family]


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_counts_as_many(family):
    """Those numbers are right: its models, made without memory, of the sizes in the public models' config.json."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    name = {"mt5": "MT5", "umt5": "UMT5"}.get(family, "T5")
    tied = family == "t5_1_0"
    for size, count in PARAMETERS[family].items():
        emb_dim, heads, encoder_layers, decoder_layers, head_dim, mlp_dim = SIZES[f"{family}/{size}"]
        config = getattr(transformers, f"{name}Config")(
            vocab_size=VOCAB_SIZES[family],
            d_model=emb_dim,
            num_heads=heads,
            num_layers=encoder_layers,
            num_decoder_layers=decoder_layers,
            d_kv=head_dim,
            d_ff=mlp_dim,
            feed_forward_proj="relu" if tied else "gated-gelu",
        )
        with torch.device("meta"):
            tensors = getattr(transformers, f"{name}ForConditionalGeneration")(config).state_dict()
        copies = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"} | (
            {"lm_head.weight"} if tied else set()
        )
        assert sum(tensor.numel() for key, tensor in tensors.items() if key not in copies) == count, size


def test_the_vocabularies_have_as_many_ids_as_the_public_models_have_rows():
    byt5 = _load("gin/models/byt5/small.gin").feed
    assert feeds.model_vocab_size(byt5) == vocabularies.load(byt5.vocabulary, byt5.extra_ids).vocab_size == 384
    # The others' files are remote: T5's holds 32,000 pieces, mT5's 250,000 and its extra ids, umT5's 256,000.
    for family, pieces in (("t5_1_0", 32_000), ("t5_1_1", 32_000), ("mt5", 250_000), ("umt5", 256_000)):
        ids = pieces + _load(f"gin/models/{family}/small.gin").feed.extra_ids
        assert -(-ids // 128) * 128 == VOCAB_SIZES[family], family


def test_the_number_in_a_files_first_line_is_its_number_of_parameters():
    units = {"thousand": 1e3, "million": 1e6, "billion": 1e9}
    for size in SIZES:
        first = (ROOT / "models" / f"{size}.gin").read_text().splitlines()[0]
        number, unit, rows = re.search(r": ([\d.]+) (\w+) parameters with a vocabulary of (\d+)\.$", first).groups()
        family, name = size.split("/")
        assert int(rows) == VOCAB_SIZES[family], size
        digits = len(number.partition(".")[2])
        assert round(transformer.param_count(_with_vocabulary(family, name)) / units[unit], digits) == float(number), (
            size
        )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_architecture_file_changes_the_architecture_alone(architecture):
    switched = _load(f"gin/architectures/{architecture}.gin")
    plain = _load("gin/quickstart.gin")
    assert switched.model == dataclasses.replace(plain.model, architecture=architecture)
    assert dataclasses.replace(switched, model=plain.model) == plain


def test_pretrain_is_the_recipe_of_t5_1_1():
    run = _load("gin/runs/pretrain.gin")
    assert run.feed.mixture_or_task_name == "c4_span_corruption"
    assert (run.feed.batch_size, run.feed.task_feature_lengths) == (2048, {"inputs": 512, "targets": 114})
    assert (type(run.optimizer).__name__, type(run.schedule).__name__) == ("Adafactor", "Rsqrt")
    assert (run.schedule.base, run.schedule.warmup_steps) == (1.0, 10_000)
    assert (run.train.train_steps, run.model.dropout_rate, run.loss.z_loss) == (1_000_000, 0.0, 1e-4)
    assert run.model == TransformerConfig()


def test_the_models_and_c4_have_t5s_vocabulary_and_the_quickstart_its_own():
    t5 = "gs://t5-data/vocabs/cc_all.32000/sentencepiece.model"
    sizes = [f"gin/models/{size}.gin" for size in SIZES if size.startswith("t5_")]
    for name in (*sizes, "gin/runs/pretrain.gin", "gin/tasks/c4.gin", "gin/tasks/span_corruption.gin"):
        assert _load(name).feed.vocabulary == t5, name
    assert _load("gin/quickstart.gin").feed.vocabulary == "docs_8k"


def test_c4s_files_are_a_task_with_the_runs_objective():
    feed = _load("gin/tasks/c4.gin").feed
    (task,) = feed.tasks
    assert feed.mixture_or_task_name == task.name
    assert isinstance(task, PretrainingTask) and task.objective is None and task.field == "text"
    assert set(task.files) == {"train", "validation"}
    assert all(pattern.endswith(".json.gz") for pattern in task.files.values())


def test_optimizer_files_choose_what_they_say():
    chosen = {name: _load(f"gin/optimizers/{name}.gin") for name in ("adafactor", "adamw", "adamw_rms", "muon")}
    names = {name: type(run.optimizer).__name__ for name, run in chosen.items()}
    assert names == {"adafactor": "Adafactor", "adamw": "AdamW", "adamw_rms": "AdamW", "muon": "Muon"}
    assert chosen["adamw_rms"].optimizer.scale_by_parameter_rms and not chosen["adamw"].optimizer.scale_by_parameter_rms


def test_muons_adamw_takes_the_options_of_adamw():
    assert _load("gin/optimizers/muon.gin", "AdamW.b2=0.95").optimizer.adamw.b2 == 0.95


def test_the_meshes_use_all_devices_of_the_machine_they_are_named_after():
    machines = dict(one_gpu=1, eight_gpus=8) | {"v4-8": 4, "v4-32": 16, "v5e-16": 16, "v6e-64": 64}
    machines |= {"v5e-256": 256, "two_v5e-256": 512}
    assert {f"{name}.gin" for name in (*machines, "cpu")} == {path.name for path in (ROOT / "hardware").iterdir()}
    for name, devices in machines.items():
        assert math.prod(mesh_shape(_load(f"gin/hardware/{name}.gin").partitioning, devices)) == devices


def test_defaults_bind_every_macro_and_agree_with_the_dataclasses():
    """What a field is when gin is silent is what it is when only Python speaks."""
    run = config.load(
        [],
        ["MODEL_DIR=x", "MIXTURE_OR_TASK_NAME=x", "BATCH_SIZE=8", "TASK_FEATURE_LENGTHS={'inputs': 8}"],
        training=False,
    )
    fixed = (run.model, run.loss, run.checkpoint, run.partitioning, run.evaluate, run.decoding)
    for part in (*fixed, run.optimizer, run.schedule):
        assert part == type(part)()
    assert run.train == type(run.train)(model_dir="x")
    assert run.feed == type(run.feed)(mixture_or_task_name="x", batch_size=8, task_feature_lengths={"inputs": 8})


def test_every_macro_is_explained_by_a_comment():
    lines = (ROOT / "defaults.gin").read_text().splitlines()
    group_of_mesh_axes = ("MESH_FSDP", "MESH_MODEL", "INFER_OUTPUT_DIR")
    for number, line in enumerate(lines):
        if re.match(r"[A-Z]", line) and " = " in line and "." not in line.split(" = ")[0]:
            assert lines[number - 1].startswith("#") or line.startswith(group_of_mesh_axes), line


def test_suggestions_ignore_case():
    assert config_checks.closest("train_step", ["TRAIN_STEPS", "BATCH_SIZE"]) == "; did you mean TRAIN_STEPS?"
    assert config_checks.closest("zzz", ["TRAIN_STEPS"]) == "."
