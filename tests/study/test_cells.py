"""From a study to its runs: the same FLOPs for all cells, the model of a pretraining for its finetuning, every file."""

import re
import shlex

import pytest

from t5x_mini import cli, config, resources
from t5x_mini.checkpoint.run_item import identity
from t5x_mini.errors import UserError
from t5x_mini.study.cells import make_cells, make_trials
from t5x_mini.study.config import Study
from t5x_mini.tasks import vocabularies

ROOT = resources.gin_root()
STUDIES = sorted(path.stem for path in (ROOT / "studies").glob("*.gin") if "Study.axes" in path.read_text())
BASE = ("gin/tiny_glue/pretrain.gin", "gin/studies/tiny_pretraining.gin")


def study(**changes):
    axes = {
        "size": {
            "two layers": (),
            "one layer": ("TransformerConfig.num_encoder_layers=1", "TransformerConfig.num_decoder_layers=1"),
            "causal": ("ARCHITECTURE=causal_lm",),
        }
    }
    finetuning = ("gin/tiny_glue/finetune.gin", "gin/studies/tiny_finetuning.gin")
    return Study(**{"pretraining": BASE, "finetuning": finetuning, "axes": axes, "seeds": 2} | changes)


def test_cells_are_matched_by_flops_to_half_a_step():
    first, *others = make_cells(study())
    assert first.steps == 800
    for cell in others:
        assert abs(cell.flops - first.flops) <= cell.step_flops / 2
    assert others[0].steps > 1.5 * first.steps and others[0].parameters < first.parameters


def test_or_by_steps():
    assert [cell.steps for cell in make_cells(study(match="steps"))] == [800] * 3


def test_sharing_layers_saves_parameters_and_no_flops():
    shared = study(axes={"layers": {"apart": (), "shared": ("TransformerConfig.share_layers=True",)}})
    apart, same = make_cells(shared)
    assert (apart.step_flops, apart.steps) == (same.step_flops, same.steps)
    assert same.parameters < apart.parameters


def test_trials_come_seed_by_seed_each_with_its_own_runs(tmp_path):
    cells = make_cells(study())
    trials = make_trials(study(), cells, tmp_path)
    assert [(trial.cell.name, trial.seed) for trial in trials] == [
        (cell.name, seed) for seed in (0, 1) for cell in cells
    ]
    for trial in trials:
        assert trial.pretraining.folder == tmp_path / trial.cell.folder / f"seed{trial.seed}" / "pretraining"
        assert trial.pretraining.config.train.train_steps == trial.pretraining.steps == trial.cell.steps
        assert trial.pretraining.config.train.random_seed == trial.finetuning.config.train.random_seed == trial.seed
        assert trial.finetuning.config.train.initial_checkpoint_path == str(trial.pretraining.folder)
        assert identity(trial.finetuning.config.model) == identity(trial.pretraining.config.model)
        assert trial.finetuning.config.feed.vocabulary == "tiny_world"
    folders = [run.folder for trial in trials for run in trial.runs]
    assert len(set(folders)) == len(folders) == 12


def test_a_runs_text_is_its_configuration(tmp_path):
    (trial, *_) = make_trials(study(), make_cells(study()), tmp_path)
    for run in trial.runs:
        (tmp_path / "run.gin").write_text(run.text)
        assert config.load([str(tmp_path / "run.gin")]) == run.config


def test_settings_of_the_command_line_go_over_the_studys(tmp_path):
    cells = make_cells(study(), ["TRAIN_STEPS=30", "Cosine.warmup_steps=3"])
    assert cells[0].steps == 30
    trials = make_trials(study(), cells, tmp_path, ["TRAIN_STEPS_RELATIVE=4", "Cosine.warmup_steps=1"])
    assert trials[0].finetuning.steps == 4


def test_a_study_may_do_without_finetuning(tmp_path):
    (trial, *_) = make_trials(study(finetuning=()), make_cells(study()), tmp_path)
    assert trial.finetuning is None and trial.runs == [trial.pretraining]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("RANDOM_SEED=3",), "sets RANDOM_SEED itself, by Study.seeds: leave out 'RANDOM_SEED=3'"),
        (("MODEL_DIR=runs/x",), "sets MODEL_DIR itself, by --output"),
        (("prefix_lm",), "'prefix_lm' is neither. Write NAME=VALUE"),
        (("TRAIN_STEPS=None", "TRAIN_STEPS_RELATIVE=3"), "write TRAIN_STEPS, not TRAIN_STEPS_RELATIVE"),
        (("ARCHITECTURE=causal",), "must be 'encoder_decoder' or"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        make_cells(study(axes={"axis": {"choice": settings}}))


def test_cells_that_would_share_a_folder_are_refused():
    with pytest.raises(UserError, match="share the folder a_b"):
        make_cells(study(axes={"axis": {"a b": (), "a-b": ()}}))


# --------------------------------------------------------------------------------------------------------- gin/studies


def test_the_papers_ablations_are_there():
    assert STUDIES == [
        "architectures",
        "architectures_c4",
        "corruption_rate",
        "multi_task",
        "objectives",
        "span_length",
    ]


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_loads_without_a_warning_and_its_rows_fit(name, capsys, tmp_path):
    made = config.load_study([f"gin/studies/{name}.gin"])
    cells = make_cells(made)
    trials = make_trials(made, cells, tmp_path)
    assert made.reference.keys() == {cell.name for cell in cells}
    assert capsys.readouterr().err == ""
    vocabulary = vocabularies.load("tiny_world", 100)
    for trial in trials[: len(cells)]:
        feed = trial.pretraining.config.feed
        feed.objective.window(feed.task_feature_lengths, vocabulary)  # raises where it doesn't fit
        assert abs(trial.cell.flops / cells[0].flops - 1) < 0.002


@pytest.mark.parametrize("path", sorted((ROOT / "studies").glob("*.gin")), ids=lambda path: path.stem)
def test_every_file_begins_with_a_command_that_runs(path, monkeypatch, capsys):
    comment = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    commands = re.findall(r"^#     (t5x-mini study .*)$", comment, re.MULTILINE)
    assert commands or path.stem == "tiny_world"
    monkeypatch.chdir(ROOT.parent)
    for command in commands:
        assert cli.main([*shlex.split(command)[1:], "--dry_run"]) == 0, command


def test_the_architectures_are_those_of_the_papers_table():
    made = config.load_study(["gin/studies/architectures.gin"])
    models = {cell.name: trial.pretraining.config.model for cell, trial in _with_trials(made)}
    assert models["denoising, enc-dec, shared"].share_layers
    assert models["denoising, enc-dec, half the layers"].num_decoder_layers == 1
    assert {name: model.architecture for name, model in models.items() if name.startswith("LM")} == {
        "LM, encoder-decoder": "encoder_decoder",
        "LM, enc-dec, shared": "encoder_decoder",
        "LM, enc-dec, half the layers": "encoder_decoder",
        "LM, language model": "causal_lm",
        "LM, prefix LM": "prefix_lm",
    }
    assert len(models) == 10 and made.seeds == 3


def _with_trials(made):
    cells = make_cells(made)
    return zip(cells, make_trials(made, cells, ROOT / "nowhere"), strict=False)
