"""Whole runs in seconds: a corpus from a small grammar, a model of a few thousand parameters, the real command line."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import orbax.checkpoint as ocp
import pytest
import seqio
from jax.experimental.compilation_cache import compilation_cache

from t5x_mini import cli
from t5x_mini.tasks import vocabularies
from t5x_mini.train.metrics import read_metrics

MODULE = "tiny_sentences"
TASKS = ("tiny_sentences", "tiny_numbers")
MIXTURE = "tiny_mixture"
# Compiling is most of a short run's time: it may make slow programs, and the same few come again and again.
QUICK = {"jax_disable_most_optimizations": True, "jax_persistent_cache_min_compile_time_secs": 0.1}
JAX_DEFAULTS = {"jax_disable_most_optimizations": False, "jax_persistent_cache_min_compile_time_secs": 1.0}

_REGISTER = f"""
import pathlib
import seqio
from t5x_mini.tasks import vocabularies
from t5x_mini.tasks.objectives import SpanCorruption
from t5x_mini.tasks.seqio_tasks import apply_objective, tokenize

folder = pathlib.Path(__file__).parent
feature = seqio.Feature(vocabularies.load(folder / "tiny.model").seqio())
for name in {TASKS}:
    files = {{split: str(folder / f"{{name}}_{{split}}.txt") for split in ("train", "validation")}}
    seqio.TaskRegistry.add(
        name,
        source=seqio.TextLineDataSource(files),
        preprocessors=[tokenize(), apply_objective(SpanCorruption())],
        output_features={{"inputs": feature, "targets": feature}},
    )
seqio.MixtureRegistry.add({MIXTURE!r}, [(name, 1.0) for name in {TASKS}])
"""

_GIN = f"""
include 'gin/models/t5_1_1/tiny.gin'
include 'gin/hardware/cpu.gin'

TransformerConfig.emb_dim = 32
TransformerConfig.head_dim = 8
TransformerConfig.mlp_dim = 64
MIXTURE_OR_TASK_NAME = {TASKS[0]!r}
MIXTURE_OR_TASK_MODULE = {MODULE!r}
TASK_FEATURE_LENGTHS = {{'inputs': 64, 'targets': 14}}
BATCH_SIZE = 16
TRAIN_STEPS = 30
CHECKPOINT_PERIOD = 10
EVAL_PERIOD = 0
EVAL_STEPS = 2
"""


@dataclasses.dataclass(frozen=True)
class Finished:
    """What a command left on the terminal."""

    code: int
    out: str
    err: str


@dataclasses.dataclass(frozen=True)
class Tiny:
    """A folder with a corpus, the module that registers its tasks, and `tiny.gin`."""

    folder: Path

    def arguments(self, command: str, *arguments: str, **macros: object) -> list[str]:
        """The words of a command line that begins with `tiny.gin`; `macros` come last."""
        bindings = [f"--gin.{name}={value!r}" for name, value in macros.items()]
        return [command, f"--gin_file={self.folder / 'tiny.gin'}", *arguments, *bindings]

    def run(self, command: str, *arguments: str, **macros: object) -> Finished:
        """`t5x-mini <command>` in this process."""
        return run(self.arguments(command, *arguments, **macros))

    def environment(self) -> dict[str, str]:
        """For the same command in a process of its own."""
        repository = Path(__file__).parent.parent
        settings = {**QUICK, "jax_compilation_cache_dir": _cache(self.folder)}
        variables = {name.upper(): str(value) for name, value in settings.items()}
        return {**os.environ, **variables, "PYTHONPATH": os.pathsep.join([str(repository), str(self.folder)])}


def run(arguments: list[str]) -> Finished:
    """`t5x-mini` with these arguments, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(arguments)
    return Finished(code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def tiny(folder: Path) -> Iterator[Tiny]:
    """Makes the corpus and lets the command line find it; takes both back at the end."""
    _write_corpus(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        try:
            with quick_compilation(folder):
                yield Tiny(folder)
        finally:
            sys.modules.pop(MODULE, None)
            for registry, names in ((seqio.MixtureRegistry, (MIXTURE,)), (seqio.TaskRegistry, TASKS)):
                for name in set(names) & set(registry.names()):
                    registry.remove(name)


@contextlib.contextmanager
def quick_compilation(folder: Path) -> Iterator[None]:
    """Slow programs, soon compiled, and kept in `folder` for the next run."""
    before = jax.config.jax_compilation_cache_dir
    _set_compilation(QUICK, _cache(folder))
    try:
        yield
    finally:
        _set_compilation(JAX_DEFAULTS, before)


def arrays(run_dir: Path, step: int) -> dict:
    """Everything a checkpoint holds of the state, on the host: a nested dict."""
    with ocp.PyTreeCheckpointer() as checkpointer:
        return checkpointer.restore((run_dir / "checkpoints" / str(step) / "state").absolute())


def steps_on_disk(run_dir: Path) -> list[int]:
    """Steps of the complete checkpoints, oldest first."""
    return sorted(int(path.name) for path in (run_dir / "checkpoints").glob("*") if path.name.isdigit())


def training_rows(run_dir: Path) -> list[dict]:
    """Rows of `metrics.jsonl` about training, without those about evaluation."""
    return [row for row in read_metrics(run_dir / "metrics.jsonl") if "loss" in row]


def evaluation_rows(run_dir: Path) -> list[dict]:
    """Rows of `metrics.jsonl` about evaluation."""
    return [row for row in read_metrics(run_dir / "metrics.jsonl") if "loss" not in row]


def without_times(rows: list[dict]) -> list[dict]:
    """The rows without what depends on the clock."""
    timed = ("timing/", "time_lost/", "model_tflops")
    return [{name: value for name, value in row.items() if not name.startswith(timed)} for row in rows]


def _cache(folder: Path) -> str:
    return str(folder / "compiled")


def _set_compilation(settings: dict[str, object], cache: str | None) -> None:
    for name, value in {**settings, "jax_compilation_cache_dir": cache}.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # JAX looks at the folder's name once


def _write_corpus(folder: Path) -> None:
    rng = random.Random(0)
    for name, sentence in zip(TASKS, (_sentence, _sum), strict=True):
        for split, documents in (("train", 500), ("validation", 60)):
            lines = (" ".join(sentence(rng) for _ in range(6)) for _ in range(documents))
            (folder / f"{name}_{split}.txt").write_text("\n".join(lines))
    texts = [line for name in TASKS for line in (folder / f"{name}_train.txt").read_text().splitlines()]
    vocabularies.train(texts, folder / "tiny", size=150)
    (folder / f"{MODULE}.py").write_text(_REGISTER)
    (folder / "tiny.gin").write_text(_GIN)


def _sentence(rng: random.Random) -> str:
    who = ("the old captain", "a small child", "my good friend", "the red bird", "every farmer", "the young doctor")
    does = ("watches", "follows", "remembers", "paints", "describes", "avoids")
    what = ("the green house", "a long river", "his new boat", "the quiet town", "a heavy storm", "the empty road")
    where = (
        "in the morning",
        "near the lake",
        "after the rain",
        "with great care",
        "behind the hill",
        "without a word",
    )
    return f"{rng.choice(who)} {rng.choice(does)} {rng.choice(what)} {rng.choice(where)} and then goes home again."


def _sum(rng: random.Random) -> str:
    a, b = rng.randrange(100), rng.randrange(100)
    return f"{a} and {b} make {a + b}."
