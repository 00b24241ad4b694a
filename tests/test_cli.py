"""Tests of t5x_mini/cli.py: what each command calls, and how mistakes are shown."""

import subprocess
import sys
import types

import pytest

from t5x_mini import cli

RUN = ["--gin_file=gin/quickstart.gin", "--gin.MODEL_DIR=runs/x"]


@pytest.fixture
def called(monkeypatch):
    """Stands in for the modules that the commands call; collects `(function, arguments)`."""
    calls = []

    def stand_in(module, *functions):
        fake = types.ModuleType(module)
        for name in functions:
            setattr(fake, name, lambda *arguments, name=name: calls.append((name, *arguments)))
        monkeypatch.setitem(sys.modules, module, fake)

    stand_in("t5x_mini.train.loop", "train", "dry_run")
    stand_in("t5x_mini.evaluate.evaluator", "evaluate")
    stand_in("t5x_mini.evaluate.infer", "infer")
    stand_in("t5x_mini.model.mask_figure", "draw_masks")
    stand_in("seqio", "set_tfds_data_dir_override")
    return calls


@pytest.mark.parametrize(
    "arguments, function",
    [(["train"], "train"), (["train", "--dry_run"], "dry_run"), (["eval"], "evaluate"), (["infer"], "infer")],
)
def test_a_command_calls_its_function_with_the_config(called, arguments, function):
    assert cli.main([*arguments, *RUN, "--gin.BATCH_SIZE=4", "--gin.TransformerConfig.emb_dim=8"]) == 0
    ((name, run),) = called
    assert name == function
    assert (run.train.model_dir, run.feed.batch_size, run.model.emb_dim) == ("runs/x", 4, 8)


def test_gin_files_may_be_given_in_two_words_and_repeatedly(called):
    arguments = ["train", "--gin_file", "gin/quickstart.gin", "--gin_file", "gin/architectures/causal_lm.gin"]
    assert cli.main([*arguments, "--gin.MODEL_DIR=runs/x"]) == 0
    assert called[0][1].model.architecture == "causal_lm"


def test_search_paths_are_searched(called, tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.gin").write_text("BATCH_SIZE = 2\n")
    paths = f"--gin_search_paths={tmp_path / 'a'},{tmp_path / 'b'}"
    assert cli.main(["train", *RUN, "--gin_file=mine.gin", paths]) == 0
    assert called[0][1].feed.batch_size == 2


def test_the_tfds_folder_is_set_before_the_command_runs(called):
    assert cli.main(["train", *RUN, "--tfds_data_dir=/data"]) == 0
    assert [call[0] for call in called] == ["set_tfds_data_dir_override", "train"]
    assert called[0][1] == "/data"


def test_only_training_needs_a_number_of_steps(called, capsys):
    steps = "--gin.TRAIN_STEPS=None"
    assert cli.main(["eval", *RUN, steps]) == 0
    assert cli.main(["train", *RUN, steps]) == 1
    assert "Nothing says when to stop training" in capsys.readouterr().err


def test_show_masks_draws(called, capsys):
    assert cli.main(["show", "masks", "--inputs", "3", "--targets=2", "--style=lines", "--output", "a.png"]) == 0
    assert called == [("draw_masks", 3, 2, "lines", "a.png")]
    assert capsys.readouterr().out == "a.png\n"


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["trian"], "There is no command trian; did you mean train?"),
        (["train", "--gin_fil=x"], "`t5x-mini train` doesn't know --gin_fil=x; did you mean --gin_file?"),
        (["train", "--dryrun"], "did you mean --dry_run?"),
        (["eval", "--dry_run"], "`t5x-mini eval` doesn't know --dry_run"),
        (["train", *RUN, "--gin.BATCH_SIZE", "4"], "a binding is one word, --gin.NAME=VALUE."),
        (["train", *RUN, "--gin.BATCH_SIZ=4"], "did you mean BATCH_SIZE?"),
        (["train", "--gin_file=gin/quikstart.gin"], "did you mean gin/quickstart.gin?"),
        (["show", "masks", "--inputs=0"], "must be a whole number above 0, not 0"),
        (["show", "masks", "--style=line"], "'matrix'"),
        (["show", "masks", "--gin.BATCH_SIZE=4"], "`t5x-mini show` reads no configuration"),
        ([], "<command>"),
    ],
)
def test_a_mistake_is_told_in_words_without_a_traceback(called, capsys, arguments, expected):
    assert cli.main(arguments) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("t5x-mini: error: ")
    assert expected in shown
    assert "Traceback" not in shown
    assert called == []


def test_an_interrupt_is_not_a_traceback(called, monkeypatch, capsys):
    def interrupt(run):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["t5x_mini.train.loop"], "train", interrupt)
    assert cli.main(["train", *RUN]) == 130
    assert capsys.readouterr().err == "t5x-mini: interrupted.\n"


def test_a_bug_keeps_its_traceback(called, monkeypatch):
    def fail(run):
        raise ValueError("a bug")

    monkeypatch.setattr(sys.modules["t5x_mini.train.loop"], "train", fail)
    with pytest.raises(ValueError, match="a bug"):
        cli.main(["train", *RUN])


@pytest.mark.parametrize("command", ["train", "eval", "infer", "show"])
def test_help_has_an_example(capsys, command):
    with pytest.raises(SystemExit) as left:
        cli.main([command, "--help"])
    assert left.value.code == 0
    assert f"examples:\n  t5x-mini {command} " in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["trian"], ["--version"]])
def test_what_needs_no_arrays_imports_neither_tensorflow_nor_jax(arguments):
    program = (
        "import sys\nfrom t5x_mini import cli\n"
        f"try: cli.main({arguments!r})\nexcept SystemExit: pass\n"
        "print(sorted({'jax', 'tensorflow', 'seqio', 'flax', 'gin', 'matplotlib'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.stdout.splitlines()[-1] == "[]", ran.stderr


def test_the_module_runs_as_a_program():
    ran = subprocess.run([sys.executable, "-m", "t5x_mini", "trian"], capture_output=True, text=True)
    assert ran.returncode == 1
    assert ran.stderr.startswith("t5x-mini: error: There is no command trian")
