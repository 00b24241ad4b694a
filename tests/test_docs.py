"""Every command in the README and in docs/ is run, in order, at tiny settings."""

import pathlib
import re
import shlex
import subprocess

import pytest

from t5x_mini import cli
from t5x_mini.tasks import installed_docs

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

TINY = (
    "TransformerConfig.emb_dim=16 TransformerConfig.num_heads=2 TransformerConfig.head_dim=8 "
    "TransformerConfig.mlp_dim=16 TransformerConfig.num_encoder_layers=1 TransformerConfig.num_decoder_layers=1 "
    "TRAIN_STEPS=2 BATCH_SIZE=8 EVAL_PERIOD=2 EVAL_STEPS=1 CHECKPOINT_PERIOD=2 Cosine.warmup_steps=1"
).split()


def blocks(page: pathlib.Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def commands(page: pathlib.Path) -> list[str]:
    """The lines of all shell blocks, with continued lines joined."""
    text = "\n".join(blocks(page, "(?:bash)?")).replace("\\\n", " ")
    return [line for line in text.splitlines() if "t5x-mini " in line or line.startswith("make ")]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An empty folder with a little text, and a cache that already holds a small corpus of documentation."""
    sentences = [f"The function number {i} returns the value of {i % 7} and the name of it." for i in range(600)]
    text = "\n".join(sentences)
    cache = tmp_path / "cache" / "t5x_mini" / "installed_docs" / installed_docs.fingerprint()
    for folder, names in ((cache, ("train", "validation")), (tmp_path / "text", ("train_1", "held_out"))):
        folder.mkdir(parents=True)
        for name in names:
            (folder / f"{name}.txt").write_text(text)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command: str) -> None:
    """Runs a command of t5x-mini in this process; what is set in front of it, the test session has set already."""
    words = shlex.split(command)
    arguments = words[words.index("t5x-mini") + 1 :]
    if arguments[0] == "train":
        arguments += [f"--gin.{binding}" for binding in TINY]
        if any("pretrain.gin" in argument for argument in arguments):  # C4 is not here
            arguments += ["--dry_run", "--gin.TransformerConfig.vocab_size=32128"]
    assert cli.main(arguments) == 0, command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_the_page_runs(page, workplace):
    for number, source in enumerate(blocks(page, "python")):
        (workplace / ("my_tasks.py" if number == 0 else f"example_{number}.py")).write_text(source)
    for command in commands(page):
        if command.startswith("make "):
            subprocess.run([*shlex.split(command), "--dry-run"], cwd=ROOT, check=True, capture_output=True)
        else:
            run(command)


def test_the_readme_has_commands_to_run():
    assert len(commands(ROOT / "README.md")) > 10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target
