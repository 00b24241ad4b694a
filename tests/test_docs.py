"""Every command of the pages for people is run, in order, at tiny settings; then what is there for a notebook."""

import contextlib
import gzip
import hashlib
import json
import os
import pathlib
import pydoc_data.topics
import re
import shlex
import shutil
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest
import tiny_runs

from t5x_mini import cli
from t5x_mini.commands.parser import make_parser
from t5x_mini.tasks import installed_docs, objective_mixtures

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

TINY = (
    "TransformerConfig.emb_dim=16 TransformerConfig.num_heads=2 TransformerConfig.head_dim=8 "
    "TransformerConfig.mlp_dim=16 TransformerConfig.num_encoder_layers=1 TransformerConfig.num_decoder_layers=1 "
    "TRAIN_STEPS=2 BATCH_SIZE=8 EVAL_PERIOD=2 EVAL_STEPS=1 EVAL_LIMIT=8 INFER_LIMIT=8 CHECKPOINT_PERIOD=2 "
    "Cosine.warmup_steps=1 CLOSING_REPORT=False"
).split()

# Sizes are the checkpoint's.
GLUE = "TRAIN_STEPS_RELATIVE=1 Cosine.warmup_steps=0 BATCH_SIZE=8 EVAL_PERIOD=1 EVAL_STEPS=1 EVAL_LIMIT=8".split()

# What is on the network, which isn't here.
ELSEWHERE = ("google/", "gs://", "--push_to=", "me/")
# A model of the hub, and a folder in its place: the quickstart's, exported.
FLAN, STAND_IN = "google/flan-t5-small", "flan-t5-small"


def blocks(page: pathlib.Path, *languages: str) -> list[str]:
    """The texts of the page's fenced blocks in any of the languages."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [text for language, text in fenced if language in languages]


def commands(page: pathlib.Path) -> list[str]:
    """The lines of all shell blocks, with continued lines joined."""
    text = "\n".join(blocks(page, "bash", "")).replace("\\\n", " ")
    return [
        line for line in text.splitlines() if "t5x-mini " in line or line.startswith(("make ", "printf ", "python "))
    ]


def file_name(source: str) -> str:
    """The name in an example's first line: `# my_tasks.py`."""
    return source.splitlines()[0].removeprefix("# ")


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    with tiny_runs.quick_compilation(tmp_path_factory.mktemp("compiled")):
        yield


@pytest.fixture(scope="module")
def once(tmp_path_factory, quick):
    """A folder for what all pages share: a little text, some pairs, a cache that already holds a small corpus of
    documentation, the quickstart's run, and its model as a Hugging Face folder."""
    folder = tmp_path_factory.mktemp("once")
    text = "\n".join(" ".join(topic.split()) for topic in pydoc_data.topics.topics.values())[:200_000]
    pairs = [f"The house has {i} rooms.\tDas Haus hat {i} Zimmer." for i in range(40)]
    for name in ("pairs", "squad", "text", "c4/en"):
        (folder / name).mkdir(parents=True)
    for name in ("train", "dev"):
        (folder / "pairs" / f"{name}.tsv").write_text("\n".join(["en\tde", *pairs]) + "\n")
    (rome,) = blocks(ROOT / "docs" / "new_task.md", "json")
    for name in ("train", "dev"):
        (folder / "squad" / f"{name}.json").write_text(rome)
    cache = folder / "cache" / "t5x_mini" / "installed_docs" / installed_docs.fingerprint()
    cache.mkdir(parents=True)
    for where, names in ((cache, ("train", "validation")), (folder / "text", ("train_1", "held_out"))):
        for name in names:
            (where / f"{name}.txt").write_text(text)
    lines = "".join(json.dumps({"text": line}) + "\n" for line in text.splitlines())
    for name in ("train.00000-of-01024", "validation.00000-of-00008"):
        (folder / "c4" / "en" / f"c4-{name}.json.gz").write_bytes(gzip.compress(lines.encode()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.chdir(folder)
        run("t5x-mini train --gin_file=gin/quickstart.gin", folder)
        run(f"t5x-mini export --to=hf runs/quickstart {STAND_IN}", folder)
    return folder


@pytest.fixture
def workplace(tmp_path, monkeypatch, once):
    """A folder of its own for each page, with copies of what is made once."""
    for name in ("pairs", "squad", "text", "c4", "runs/quickstart", STAND_IN):
        shutil.copytree(once / name, tmp_path / name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(once / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command: str, once: pathlib.Path) -> None:
    """Runs a command of t5x-mini in this process; what is set in front of it, the test session has set already.

    A run that another page has made with the same words is copied from there.
    """
    words = shlex.split(command)
    words, files = redirected(words[words.index("t5x-mini") + 1 :])
    if words[0] != "glue":
        words = [word.replace(FLAN, STAND_IN) for word in words]
    of_t5 = words[0] == "tokenize" and "--gin_file=gin/tasks/c4.gin" in words  # whose vocabulary is in a bucket
    elsewhere = any(word.removeprefix("--checkpoint=").startswith(ELSEWHERE) for word in words)
    if words[0] != "train" and (of_t5 or elsewhere):
        make_parser()[0].parse_args(words)  # at least it is spelt right
        return
    made, kept = model_dir(words), kept_run(words, once)
    if kept and kept.exists():
        shutil.copytree(kept, made, dirs_exist_ok=True)
        return
    with contextlib.ExitStack() as stack:
        if "<" in files:
            stack.enter_context(mock.patch("sys.stdin", stack.enter_context(open(files["<"]))))
        if ">" in files:
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(files[">"], "w"))))
        # Two steps teach no batch by heart, and it says so.
        expected = 1 if "--overfit_one_batch" in words else 0
        assert cli.main(at_tiny_settings(words)) == expected, command
    if kept and made.exists():  # not after a dry run
        shutil.copytree(made, kept)


def model_dir(words: list[str]) -> pathlib.Path:
    given = [word.removeprefix("--gin.MODEL_DIR=") for word in words if word.startswith("--gin.MODEL_DIR=")]
    return pathlib.Path((given or ["runs/quickstart"])[-1])


def kept_run(words: list[str], once: pathlib.Path) -> pathlib.Path | None:
    """Where a run is kept for other pages, if it follows from its words alone: from the project's own gin files, from
    no checkpoint, in a folder of its own."""
    files = [word for word in words if word.startswith("--gin_file=")]
    foreign = not all(word.startswith("--gin_file=gin/") for word in files) or starts_from_a_checkpoint(words)
    if words[0] != "train" or foreign or any(word.startswith(("--dry_run", "--overfit")) for word in words):
        return None
    return once / "kept" / hashlib.sha256(" ".join(words).encode()).hexdigest()


def run_python(words: list[str]) -> None:
    """Runs a Python program; of the repository's tests and benchmarks, only asks whether there are such ones."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    if words[:2] == ["-m", "pytest"]:  # which would import all that they test, for minutes on a busy machine
        (file,) = (word for word in words if word.startswith("tests/"))
        chosen = {"-k": str, "-m": "mark.{}".format}
        for option, word in zip(words[2:], words[3:], strict=False):
            if option in chosen:
                assert chosen[option](word) in (ROOT / file).read_text(), words
    elif words[0].startswith("benchmarks/"):
        subprocess.run([sys.executable, *words, "--help"], check=True, cwd=ROOT, env=environment)
    else:
        subprocess.run([sys.executable, *words], check=True, env=environment)


def redirected(words: list[str]) -> tuple[list[str], dict[str, str]]:
    """The words in front of `< questions.txt > answers.txt`, and the files by these marks."""
    ends = [place for place, word in enumerate(words) if word in "<>"]
    return words[: min(ends, default=None)], {words[place]: words[place + 1] for place in ends}


def at_tiny_settings(arguments: list[str]) -> list[str]:
    if arguments[0] == "glue":
        words = [re.sub(r"--seeds=\d+", "--seeds=1", word) for word in arguments if word != "--from_scratch"]
        return [*words, "--tasks=cola,rte", *(f"--gin.{binding}" for binding in GLUE)]
    if arguments[0] == "train":
        goes_on = starts_from_a_checkpoint(arguments)
        sizes = "TransformerConfig" if goes_on else ()
        arguments += [f"--gin.{binding}" for binding in TINY if not binding.startswith(sizes)]
        if goes_on:  # its sizes are the checkpoint's
            arguments += ["--gin.TRAIN_STEPS=None", "--gin.TRAIN_STEPS_RELATIVE=2"]
        if any("runs/pretrain.gin" in argument for argument in arguments):  # C4 is not here
            arguments += ["--dry_run", "--gin.TransformerConfig.vocab_size=32128"]
        if any(argument.startswith("--gin.MODEL_DIR=gs://") for argument in arguments):  # nor is the bucket
            arguments += ["--dry_run"]
        arguments = [argument.replace("--overfit_one_batch", "--overfit_one_batch=2") for argument in arguments]
        arguments = [re.sub(r"--profile_steps=\S+", "--profile_steps=2,2", argument) for argument in arguments]
    if arguments[0] == "inspect":  # a run's last batch
        arguments = [re.sub(r"--step=\d+", "--step=2", argument) for argument in arguments]
    if arguments[0] == "plan":  # without the TPU's compiler, which takes minutes
        of_slice = ("--slices", "--gin_file=gin/hardware/")
        arguments = [re.sub(r"--topology=\S+", "--topology=cpu", argument) for argument in arguments]
        arguments = [argument for argument in arguments if not argument.startswith(of_slice)]
        arguments += [f"--gin.{binding}" for binding in TINY if binding.startswith(("TransformerConfig", "BATCH_SIZE"))]
    if arguments[0] == "study":  # tests/study makes one
        arguments = [*arguments, "--dry_run"]
    if arguments[0] == "tokenize":
        arguments = [*arguments, "--workers=1"]
    if arguments[0] == "vocab":  # there is little text here
        arguments = [re.sub(r"--size=\d{4,}", "--size=500", argument) for argument in arguments]
    return arguments


def starts_from_a_checkpoint(arguments: list[str]) -> bool:
    """Whether a run's words, or the page's own gin files among them, name one."""
    files = [pathlib.Path(word.removeprefix("--gin_file=")) for word in arguments if word.startswith("--gin_file=")]
    texts = [path.read_text() for path in files if path.parent == pathlib.Path() and path.is_file()]
    included = "INITIAL_CHECKPOINT_PATH", "finetune", "flan_"
    return any(word in text for text in [*arguments, *texts] for word in included)


# These train what no other page does (ten seconds of CPU, to compile the step), or load transformers.
SLOW = (
    "CONTRIBUTING.md",
    "checkpoints.md",
    "continue_from_flan_t5.md",
    "data.md",
    "debugging.md",
    "decoding.md",
    "glue.md",
    "install.md",
    "looking.md",
    "masks.md",
    "new_task.md",
    "pretrain_c4.md",
    "sharing.md",
    "translation.md",
)


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.slow] if page.name in SLOW else []) for page in PAGES],
    ids=lambda page: page.name,
)
def test_every_command_of_the_page_runs(page, workplace, once):
    for language in ("python", "gin"):
        for source in blocks(page, language):
            (workplace / file_name(source)).write_text(source.replace(FLAN, STAND_IN))
    for command in commands(page):
        subprocess.run(["bash", "-n", "-c", command], check=True)  # shlex reads what a shell would refuse
        if command.startswith("make "):
            subprocess.run([*shlex.split(command), "--dry-run"], cwd=ROOT, check=True, capture_output=True)
        elif command.startswith("printf "):
            subprocess.run(["bash", "-c", command], check=True)
        elif command.startswith("python "):
            run_python(shlex.split(command)[1:])
        else:
            run(command, once)
    if notebook := "\n".join(blocks(page, "py")):  # in a process of its own: transformers keeps what it has loaded
        subprocess.run([sys.executable, "-c", notebook], check=True, env=os.environ | {"PYTHONPATH": ROOT})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_page_has_commands_to_run(page):
    # Blocks of `sh` take another machine, or several.
    text = re.sub(r"^```(?:sh|text)\n.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    lines = re.findall(r"^(?:\w+=\S+ )?(?:t5x-mini|make|printf|python) ", text, re.MULTILINE)
    assert len(commands(page)) == len(lines) > 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


WORDS = "Thank you for inviting me to your party last week .".split()


class WordVocabulary:
    """The words of the worked examples from id 3 on, and twenty sentinels."""

    extra_ids = 20
    vocab_size = 3 + len(WORDS) + extra_ids

    def text(self, ids):
        names = ["", "</s>", "<unk>", *WORDS, *(f"<{number}>" for number in reversed(range(self.extra_ids)))]
        return " ".join(names[token] for token in ids if token)


def worked_examples():
    (block,) = blocks(ROOT / "docs" / "data.md", "examples")
    return re.findall(r"^(\w+\(.*\))\n((?:  .+\n)+)", block, flags=re.MULTILINE)


@pytest.mark.parametrize(("constructor", "features"), worked_examples(), ids=lambda text: text.split("\n")[0])
def test_the_worked_examples_are_what_the_objectives_make(constructor, features):
    vocabulary = WordVocabulary()
    objective = eval(constructor, {cls.__name__: cls for cls in objective_mixtures.OBJECTIVES})
    window = np.arange(3, 3 + len(WORDS))[None]
    made = objective(window, np.random.default_rng(4), vocabulary)
    shown = dict(line.split(maxsplit=1) for line in features.splitlines())
    assert {name: vocabulary.text(rows[0]) for name, rows in made.items()} == shown


def test_there_are_worked_examples():
    assert len(worked_examples()) == 10
