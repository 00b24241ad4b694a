"""Tests of t5x_mini/cli.py: what each command calls, and how mistakes are shown."""

import os
import shlex
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import made_up_runs
import pytest

from t5x_mini import cli
from t5x_mini.commands.parser import COMMANDS
from t5x_mini.errors import Terminated, UserError

ROOT = Path(__file__).parent.parent

RUN = ["--gin_file=gin/quickstart.gin", "--gin.MODEL_DIR=runs/x"]


@pytest.fixture
def called(monkeypatch):
    """Stands in for the modules that the commands call; collects `(function, arguments)`."""
    calls = []

    def stand_in(module, *functions):
        fake = types.ModuleType(module)
        for name in functions:
            setattr(fake, name, lambda *arguments, name=name, **named: calls.append((name, *arguments, *named.items())))
        monkeypatch.setitem(sys.modules, module, fake)

    stand_in("t5x_mini.train.loop", "train")
    stand_in("t5x_mini.train.describe", "dry_run")
    stand_in("t5x_mini.evaluate.eval_command", "evaluate")
    stand_in("t5x_mini.evaluate.infer", "infer")
    stand_in("t5x_mini.model.mask_figure", "draw_masks")
    stand_in("t5x_mini.inspect.commands", "inspect_task", "inspect_run")
    stand_in("t5x_mini.inspect.task_list", "list_tasks")
    stand_in("t5x_mini.tokens.tokenize", "tokenize")
    stand_in("t5x_mini.tasks.vocab_command", "vocab_command", "compare_command")
    stand_in("t5x_mini.evaluate.generate", "generate")
    stand_in("t5x_mini.checkpoint.import_checkpoint", "import_checkpoint")
    stand_in("t5x_mini.checkpoint.huggingface.export", "export_checkpoint")
    stand_in("seqio", "set_tfds_data_dir_override", "add_global_cache_dirs")
    monkeypatch.setenv("TFDS_DATA_DIR", "/nowhere")  # put back after the commands that set it
    return calls


@pytest.mark.parametrize(
    "arguments, function",
    [(["train"], "train"), (["train", "--dry_run"], "dry_run"), (["eval"], "evaluate"), (["infer"], "infer")],
)
def test_a_command_calls_its_function_with_the_config(called, arguments, function):
    assert cli.main([*arguments, *RUN, "--gin.BATCH_SIZE=4", "--gin.TransformerConfig.emb_dim=8"]) == 0
    ((name, run, *_),) = called
    assert name == function
    assert (run.train.model_dir, run.feed.batch_size, run.model.emb_dim) == ("runs/x", 4, 8)


def test_what_may_change_on_a_resume_is_handed_on(called):
    began = time.time()
    assert cli.main(["train", *RUN, "--allow_changes=BATCH_SIZE,Z_LOSS"]) == 0
    ((_, _, *named),) = called
    chosen = dict(named)
    assert began <= chosen.pop("began") <= time.time()
    assert chosen == {"allow_changes": ("BATCH_SIZE", "Z_LOSS"), "profile_steps": None}


def test_the_steps_to_trace_are_handed_on(called):
    assert cli.main(["train", *RUN, "--profile_steps=10,13"]) == 0
    assert ("profile_steps", (10, 13)) in called[0]


@pytest.mark.parametrize("other", ["--dry_run", "--overfit_one_batch"])
def test_what_goes_on_with_no_run_takes_no_changes(called, capsys, other):
    assert cli.main(["train", *RUN, other, "--allow_changes=BATCH_SIZE"]) == 1
    assert "--allow_changes is for going on with a run: leave out --allow_changes." in capsys.readouterr().err
    assert cli.main(["train", *RUN, other, "--profile_steps=1,2"]) == 1
    assert "--profile_steps is for a run that trains: leave out --profile_steps." in capsys.readouterr().err
    assert not called


@pytest.mark.parametrize("command", ["train", "eval", "infer"])
def test_processes_find_one_another_before_anything_is_read(called, monkeypatch, command):
    from t5x_mini.parallel import start_up

    joined = []
    monkeypatch.setattr(start_up, "join", lambda *given, **named: joined.append((given, named, list(called))))
    arguments = ["--coordinator=localhost:1234", "--num_processes=4", "--process_id=3"]
    assert cli.main([command, *RUN, *arguments]) == 0
    assert joined == [(("localhost:1234", 4, 3), {}, [])]
    assert len(called) == 1


def test_a_run_that_sigterm_ended_says_so(monkeypatch, capsys):
    def run(options):
        raise Terminated("SIGTERM: stopped after step 7 of 9.", signal.SIGTERM)

    monkeypatch.setattr(cli, "_run", run)
    assert cli.main(["train", *RUN]) == 143
    assert capsys.readouterr().err == (
        "t5x-mini: SIGTERM: stopped after step 7 of 9. Go on with the same command:\n"
        f"    t5x-mini train {' '.join(RUN)}\n"
    )


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
    assert called[0] == ("set_tfds_data_dir_override", "/data")
    assert called[-1][0] == "train"
    assert os.environ["TFDS_DATA_DIR"] == "/data"


@pytest.mark.parametrize("command", [["tokenize", "--task=a"], ["tasks"]])
def test_the_tfds_folder_reaches_other_processes_without_seqio(called, command):
    assert cli.main([*command, "--tfds_data_dir=/data"]) == 0
    assert os.environ["TFDS_DATA_DIR"] == "/data"
    assert [call[0] for call in called] == [{"tokenize": "tokenize", "tasks": "list_tasks"}[command[0]]]


@pytest.mark.parametrize("command", ["train", "eval", "infer"])
def test_folders_of_cached_tasks_are_added(called, command):
    assert cli.main([command, *RUN, "--seqio_additional_cache_dirs=/a,gs://b"]) == 0
    assert called[0] == ("add_global_cache_dirs", ("/a", "gs://b"))


def test_only_training_needs_a_number_of_steps(called, capsys):
    steps = "--gin.TRAIN_STEPS=None"
    assert cli.main(["eval", *RUN, steps]) == 0
    assert cli.main(["train", *RUN, steps]) == 1
    assert "Nothing says when to stop training" in capsys.readouterr().err


def test_show_masks_draws(called, capsys):
    assert cli.main(["show", "masks", "--inputs", "3", "--targets=2", "--style=lines", "--output", "a.png"]) == 0
    assert called == [("draw_masks", 3, 2, "lines", "a.png")]
    assert capsys.readouterr().out == "a.png\n"


def test_tasks_lists_what_the_gin_files_define(called):
    assert cli.main(["tasks", "--gin.my_text/PretrainingTask.files={'train': 'a.txt'}"]) == 0
    ((name, feed),) = called
    assert (name, [task.name for task in feed.tasks]) == ("list_tasks", ["my_text"])


def test_inspect_looks_at_a_task(called):
    assert cli.main(["inspect", "--task=mine", "--gin.VOCABULARY=bytes"]) == 0
    chosen = ["--split=dev", "--architecture=causal_lm", "--examples=1", "--output=a.png"]
    assert cli.main(["inspect", "--task=mine", "--gin_file=gin/quickstart.gin", *chosen]) == 0
    (name, feed, *shown), (_, other, *chosen) = called
    assert (name, feed.mixture_or_task_name, feed.vocabulary) == ("inspect_task", "mine", "bytes")
    assert shown == [None, "train", 3, "lengths.png"]
    assert (other.task_feature_lengths, chosen) == ({"inputs": 128, "targets": 29}, ["causal_lm", "dev", 1, "a.png"])


def test_inspect_looks_at_a_step_of_a_run(called):
    assert cli.main(["inspect", "--run=runs/x", "--step=0"]) == 0
    assert cli.main(["inspect", "--run=runs/x", "--step=3", "--rows=20"]) == 0
    assert called == [("inspect_run", "runs/x", 0, 8), ("inspect_run", "runs/x", 3, 20)]


def test_vocab_trains_on_a_task_or_on_files(called):
    assert cli.main(["vocab", "--output=v.model", "--text", "a.txt", "b.txt", "--text=c.txt", "--size=300"]) == 0
    kind = [("size", 300), ("model_type", "unigram"), ("byte_fallback", False)]
    text = [("feed", None), ("task", None), ("text", ("a.txt", "b.txt", "c.txt"))]
    assert called.pop() == ("vocab_command", "v.model", *text, *kind)
    bpe = ["--model_type=bpe", "--byte_fallback"]
    assert cli.main(["vocab", "--output=v.model", "--task=mine", "--gin_file=gin/quickstart.gin", *bpe]) == 0
    ((_, _, (_, feed), *rest),) = called
    kind = [("size", 32000), ("model_type", "bpe"), ("byte_fallback", True)]
    assert (feed.mixture_or_task_name, rest) == ("mine", [("task", "mine"), ("text", ()), *kind])


def test_vocab_compares_two(called):
    assert cli.main(["vocab", "--compare", "docs_8k", "b.model", "--sentence=A house."]) == 0
    assert cli.main(["vocab", "--compare", "docs_8k", "b.model", "--text", "a.txt"]) == 0
    assert called == [
        ("compare_command", "docs_8k", "b.model", ("text", ()), ("sentence", "A house.")),
        ("compare_command", "docs_8k", "b.model", ("text", ("a.txt",)), ("sentence", None)),
    ]


def test_tokenize_takes_splits_workers_and_a_part_of_the_work(called):
    assert cli.main(["tokenize", "--task=mine"]) == 0
    chosen = ["--split=train,dev", "--workers=3", "--shard=1/4", "--output=out"]
    assert cli.main(["tokenize", "--task=mine", *chosen]) == 0
    (name, feed, task, *default), (_, _, _, *chosen) = called
    assert (name, feed.mixture_or_task_name, task) == ("tokenize", "mine", "mine")
    assert default == [("splits", None), ("workers", None), ("shard", None), ("output", None)]
    assert chosen == [("splits", ("train", "dev")), ("workers", 3), ("shard", (1, 4)), ("output", "out")]


def test_generate_answers_texts(called):
    assert cli.main(["generate", "--checkpoint=runs/x", "A text.", "Another.", "--top_p=0.5", "--raw"]) == 0
    assert cli.main(["generate", "--checkpoint", "runs/x", "--method=beam", "--num_decodes=3", "--dtype=bfloat16"]) == 0
    nothing = dict.fromkeys(
        "method num_decodes max_length min_length temperature top_k top_p length_penalty seed dtype vocabulary "
        "extra_ids".split()
    )
    (name, checkpoint, texts, *one), (_, _, no_texts, *other) = called
    assert (name, checkpoint, texts, no_texts) == ("generate", "runs/x", ["A text.", "Another."], [])
    assert dict(one) == nothing | {"raw": True, "top_p": 0.5}
    assert dict(other) == nothing | {"raw": False, "method": "beam", "num_decodes": 3, "dtype": "bfloat16"}


def test_import_takes_what_a_checkpoint_does_not_say(called):
    assert cli.main(["import", "--from=hf", "google/t5"]) == 0
    chosen = ["--output=out", "--step=5", "--vocabulary=a.model", "--extra_ids=3", "--architecture=causal_lm"]
    assert cli.main(["import", "--from", "t5x", "gs://a/b", *chosen, "--overwrite"]) == 0
    (name, path, *one), (_, other_path, *other) = called
    assert (name, path, other_path) == ("import_checkpoint", "google/t5", "gs://a/b")
    nothing = dict.fromkeys(("output", "step", "vocabulary", "extra_ids", "architecture"))
    assert dict(one) == nothing | {"kind": "hf", "overwrite": False}
    sizes = {"step": 5, "extra_ids": 3, "vocabulary": "a.model", "architecture": "causal_lm"}
    assert dict(other) == {"kind": "t5x", "output": "out", "overwrite": True, **sizes}


def test_export_says_where(called, capsys):
    assert cli.main(["export", "--to=hf", "runs/x", "out"]) == 0
    assert cli.main(["export", "runs/x", "out", "--to=hf", "--push_to=me/t5", "--dtype=bfloat16", "--overwrite"]) == 0
    assert called == [
        ("export_checkpoint", "runs/x", "out", ("push_to", None), ("dtype", "float32"), ("overwrite", False)),
        ("export_checkpoint", "runs/x", "out", ("push_to", "me/t5"), ("dtype", "bfloat16"), ("overwrite", True)),
    ]
    assert "written to" in capsys.readouterr().out


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
        (["train", *RUN, "--profile_steps=13,10"], "the first and the last of some steps, counted from 1, like 10,13"),
        (["train", *RUN, "--profile_steps=0,3"], "counted from 1, like 10,13 or 10,10, not 0,3"),
        (["train", *RUN, "--profile_steps=10"], "like 10,13 or 10,10, not 10"),
        (["show", "masks", "--inputs=0"], "must be a whole number above 0, not 0"),
        (["show", "masks", "--style=line"], "'matrix'"),
        (["show", "masks", "--gin.BATCH_SIZE=4"], "`t5x-mini show` reads no configuration"),
        (["inspect"], "Nothing to inspect. Write --task=NAME, or --run=FOLDER --step=K."),
        (["inspect", "--task=a", "--step=3"], "--step=K is a step of a run: write --run=FOLDER too."),
        (["inspect", "--task=a", "--rows=3"], "Rows are of a run's batch (--run=FOLDER --step=K): leave out --rows."),
        (["inspect", "--run=runs/x"], "Which batch of runs/x? Write --step=K."),
        (["inspect", "--run=runs/x", "--step=3", "--split=dev"], "rebuilt as the run made it: leave out --split."),
        (["inspect", "--run=x", "--step=3", "--gin.BATCH_SIZE=4"], "leave out --gin.NAME=VALUE."),
        (["inspect", "--run=x", "--step=-1"], "must be a whole number, 0 or more, not -1"),
        (["inspect", "--task=a", "--architecture=decoder"], "'causal_lm'"),
        (["vocab", "--output=v.model"], "trained on one of --task=NAME and --text FILE."),
        (["vocab", "--output=v.model", "--task=a", "--text=b"], "trained on one of --task=NAME and --text FILE."),
        (["vocab", "--text=b"], "Write --output=my_vocabulary.model."),
        (["vocab", "--output=v", "--text=b", "--sentence=c"], "to compare two vocabularies on: leave out --sentence."),
        (["vocab", "--output=v", "--text=b", "--gin.BATCH_SIZE=4"], "read as they are: leave out --gin.NAME=VALUE."),
        (["vocab", "--compare", "a", "b", "--size=8"], "--compare trains nothing: leave out --size."),
        (["vocab", "--compare", "a", "b", "--text=c", "--sentence=d"], "takes one of --text FILE and --sentence TEXT."),
        (["vocab", "--compare", "a"], "expected 2 arguments"),
        (["tokenize"], "--task"),
        (["tokenize", "--task=a", "--shard=4/4"], "must be two whole numbers like 0/4, 1/4 up to 3/4, not 4/4"),
        (["tokenize", "--task=a", "--workers=0"], "must be a whole number above 0, not 0"),
        (["tokenize", "--task=a", "--gin.BATCH_SIZ=4"], "did you mean BATCH_SIZE?"),
        (["generate", "A text."], "Which model is to answer? Write --checkpoint=runs/quickstart."),
        (["generate", "--checkpont=a", "A text."], "doesn't know --checkpont=a; did you mean --checkpoint?"),
        (["generate", "--checkpoint=a", "--num_decodes=0"], "must be a whole number above 0, not 0"),
        (["generate", "--checkpoint=a", "--top_p=half"], "must be a number, not half"),
        (["generate", "--checkpoint=a", "--gin.BATCH_SIZE=4"], "`t5x-mini generate` reads no configuration"),
        (["import", "google/t5"], "Who wrote the checkpoint? Write --from=hf or --from=t5x."),
        (["import", "google/t5", "--form=hf"], "doesn't know --form=hf; did you mean --from?"),
        (["import", "--from=hg", "google/t5"], "'t5x'"),
        (["import", "--from=hf"], "PATH"),
        (["export", "--to=hf", "runs/x"], "PATH"),
        (["export", "--to=hf", "a", "b", "--dtype=int8"], "'bfloat16'"),
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


def test_a_password_in_a_path_is_not_printed(called, monkeypatch, capsys):
    def fail(run, **_):
        raise UserError("'https://me:hunter2@host/x.txt' cannot be reached")

    monkeypatch.setattr(sys.modules["t5x_mini.train.loop"], "train", fail)
    assert cli.main(["train", *RUN]) == 1
    assert capsys.readouterr().err == "t5x-mini: error: 'https://[redacted]@host/x.txt' cannot be reached\n"


def test_an_interrupt_is_not_a_traceback(called, monkeypatch, capsys):
    def interrupt(run, **_):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["t5x_mini.train.loop"], "train", interrupt)
    assert cli.main(["train", *RUN]) == 130
    assert capsys.readouterr().err == "t5x-mini: interrupted.\n"


def test_a_bug_keeps_its_traceback(called, monkeypatch):
    def fail(run, **_):
        raise ValueError("a bug")

    monkeypatch.setattr(sys.modules["t5x_mini.train.loop"], "train", fail)
    with pytest.raises(ValueError, match="a bug"):
        cli.main(["train", *RUN])


@pytest.mark.parametrize("command", list(COMMANDS))
def test_help_has_an_example(capsys, command):
    with pytest.raises(SystemExit) as left:
        cli.main([command, "--help"])
    assert left.value.code == 0
    assert f"examples:\n  t5x-mini {command}" in capsys.readouterr().out


def test_the_examples_of_help_are_commands():
    examples = [
        shlex.split(line)[1:]
        for command in COMMANDS.values()
        for line in command.examples.splitlines()
        if line.startswith("  t5x-mini")
    ]
    assert len(examples) > 15
    for arguments in examples:
        assert cli._parse(arguments).command == arguments[0]


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["generate", "--help"], ["train", "--help"], ["tokenize", "--help"], ["trian"], ["--version"]],
)
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


def test_output_that_is_not_read_to_its_end_is_no_mistake(tmp_path):
    """`t5x-mini compare A B | head -1`: the reader goes before all is written."""
    for name in ("a", "b"):
        made_up_runs.write_run(tmp_path / name)
    command = [sys.executable, "-m", "t5x_mini", "compare", str(tmp_path / "a"), str(tmp_path / "b")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == (b"", 1)


def test_the_compiler_for_tpus_says_nothing_where_there_is_no_tpu(tmp_path):
    command = [sys.executable, "-m", "t5x_mini", "show", "masks", f"--output={tmp_path / 'masks.png'}"]
    named = {"JAX_PLATFORMS", "TPU_WORKER_HOSTNAMES", "TPU_ACCELERATOR_TYPE"}
    environment = {name: value for name, value in os.environ.items() if name not in named}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
