"""`t5x-mini glue`: finetunes a checkpoint on GLUE, and writes the table and the files of a submission.

Every finetuning is a run of `train` in a folder of its own. What is finished isn't done again, what was interrupted
goes on, and what was begun with other settings is refused.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax

from t5x_mini import compilation_cache, storage
from t5x_mini import config as config_module
from t5x_mini.begun import begun_with, refuse_changes
from t5x_mini.config import RunConfig
from t5x_mini.errors import UserError
from t5x_mini.feed.config import FeedConfig
from t5x_mini.glue import benchmark, chance, predict, results, table
from t5x_mini.glue.benchmark import Part
from t5x_mini.glue.plan import Finetuning, Strategy, plan, remaining
from t5x_mini.glue.table import Outcome
from t5x_mini.parallel.hosts import say
from t5x_mini.tasks import registry, sources
from t5x_mini.tasks.definitions import Mixture
from t5x_mini.whole_file import write_whole

RECIPE = "gin/runs/finetune.gin"
# What the command sets itself, and the option to say it with.
_OWN = {
    "MIXTURE_OR_TASK_NAME": "--tasks=cola,rte",
    "MODEL_DIR": "--output=runs/glue",
    "INITIAL_CHECKPOINT_PATH": "--checkpoint=runs/quickstart",
    "RANDOM_SEED": "--seeds=3",
}

# Nothing of a checkpoint, nor of how to start from one.
_FROM_SCRATCH = (
    "INITIAL_CHECKPOINT_PATH=None",
    "RESET_OPTIMIZER=False",
    "RESET_STEP=None",
    "ASSIGNMENT_MAP=()",
)


def glue(
    checkpoint: str,
    *,
    output: str = "runs/glue",
    tasks: Sequence[str] = benchmark.DEFAULT,
    strategy: Strategy = "multi_task",
    seeds: int = 1,
    from_scratch: bool = False,
    files: Sequence[str] = (),
    bindings: Sequence[str] = (),
    search_paths: Sequence[str] = (),
) -> None:
    """Finetunes, evaluates, prints the table; writes `table.md`, `results.json` and `submission/` in `output`.

    Args:
        checkpoint: to finetune: what INITIAL_CHECKPOINT_PATH takes.
        output: the folder of all runs: `<multi_task or task>/<pretrained or scratch>-seed<k>`.
        tasks: names of parts of the benchmark.
        strategy: one run for all tasks, mixed by their numbers of examples, or a run for each.
        seeds: runs with RANDOM_SEED 0 to `seeds - 1`.
        from_scratch: also train the same model from random initialisation.
        files: gin files over `RECIPE`.
        bindings: as after `--gin.`.
        search_paths: further folders to find gin files in.

    Raises:
        UserError: for a task that GLUE hasn't got, or data that is not here; for a setting that the command makes
            itself; for a run that was begun with other settings.
    """
    storage.check_writable(output, "--output")
    parts, folder = benchmark.choose(tasks), storage.to_path(output)
    _check_bindings(bindings)
    shared = _Shared(checkpoint, folder, [RECIPE, *files], bindings, search_paths)
    _check_data(parts, shared.feed)
    shared.write()
    runs = plan(parts, strategy, seeds, from_scratch)
    configs = {run: shared.config(run) for run in runs}  # all of them, before what takes long
    # All finetunings are the same program, which is compiled for the first.
    compilation_cache.enable(configs[runs[0]].train.compilation_cache, output)
    outcomes = _finetune(runs, shared)
    _report(outcomes, configs[runs[0]], parts, {"checkpoint": checkpoint, "strategy": strategy}, folder)
    predict.submit(outcomes, shared.config, folder)


class _Shared:
    """What all finetunings have in common: the recipe and the model, written out in OUTPUT/config.gin.

    From scratch, a run gets its model from there and nothing from the checkpoint.
    """

    def __init__(self, checkpoint: str, folder: Path, files: Sequence[str], bindings: Sequence[str], search_paths):
        self._checkpoint, self._folder = _this_checkpoint(checkpoint), folder
        glue_dir = os.environ.get("GLUE_DIR")  # written down: the run is repeated with the data that it had
        first = [f"GLUE_DIR={glue_dir!r}"] if glue_dir else []
        fixed = [f"MODEL_DIR={str(folder)!r}", "MIXTURE_OR_TASK_NAME=glue", f"INITIAL_CHECKPOINT_PATH={checkpoint!r}"]
        loaded = config_module.load(files, [*first, *bindings, *fixed], search_paths)
        if not loaded.train.eval_period:
            raise UserError("EVAL_PERIOD is 0, but the table is made of evaluations. Write --gin.EVAL_PERIOD=5000.")
        self.feed = loaded.feed
        self._mixtures: dict[str, list[str]] = {}
        self._file, self._text = folder / "config.gin", config_module.operative_config()

    def write(self) -> None:
        """Writes OUTPUT/config.gin, from which `config` reads."""
        if jax.process_index() == 0:
            write_whole(self._file, self._text)

    def config(self, run: Finetuning) -> RunConfig:
        """The run's, ready for `train`: the last one asked for is also what `config.operative_config` tells.

        Raises:
            UserError: the run was begun with other settings.
        """
        folder = self._folder / run.name
        before = begun_with(folder)
        start = [f"INITIAL_CHECKPOINT_PATH={self._checkpoint!r}"] if run.start == "pretrained" else _FROM_SCRATCH
        bindings = [f"MODEL_DIR={str(folder)!r}", f"RANDOM_SEED={run.seed}", *start, *self._mixture(run)]
        config = config_module.load([str(self._file)], bindings)
        refuse_changes(folder, before, config)
        return config

    def _mixture(self, run: Finetuning) -> list[str]:
        if run.group not in self._mixtures:  # files are read through for their numbers of rows
            self._mixtures[run.group] = _mixture(run, self.feed)
        return self._mixtures[run.group]


def _finetune(runs: Sequence[Finetuning], shared: _Shared) -> list[Outcome]:
    from t5x_mini.train.loop import train

    outcomes = []
    for number, run in enumerate(runs, start=1):
        config = shared.config(run)
        folder = storage.to_path(config.train.model_dir)
        outcome = results.read_outcome(run, folder)
        if outcome is None:
            left = remaining([outcome.seconds for outcome in outcomes], len(runs) - number + 1)
            say(f"\nrun {number} of {len(runs)}{', ' * bool(left)}{left}: {run.name}")
            began = time.monotonic()
            train(config)
            outcome = results.measured(run, folder, time.monotonic() - began)
            if jax.process_index() == 0:
                results.write_outcome(outcome, folder)
        else:
            say(f"\nrun {number} of {len(runs)}: {run.name} is finished already")
        outcomes.append(outcome)
    return outcomes


def _report(outcomes: Sequence[Outcome], config: RunConfig, parts: Sequence[Part], about: dict, folder: Path) -> None:
    if jax.process_index() > 0:
        return
    split, limit = config.evaluate.split, config.evaluate.eval_limit
    definitions = [registry.find(task, config.feed) for part in parts for task in part.scored]
    constant = {
        task.name: chance.best_constant(task.metrics, chance.targets(task, split, limit)) for task in definitions
    }
    rows = table.rows(outcomes, constant)
    results.write_table(rows, outcomes, constant, about, folder)
    rest = "" if limit is None else f", the first {limit} rows of each task (EVAL_LIMIT)"
    seeds = len({outcome.run.seed for outcome in outcomes})
    spread = "" if seeds == 1 else f": mean ± standard deviation over {seeds} seeds"
    print(f"\n{split} split{rest}, per cent{spread}; chance is the best constant answer\n")
    print(
        f"{table.as_text(rows)}\n\n{table.comparison(rows)}\n\nwritten to {folder}/table.md and results.json",
        flush=True,
    )


def _mixture(run: Finetuning, feed: FeedConfig) -> list[str]:
    """Bindings for what a run is trained on: a task, a mixture that is known, or one that is made here.

    A mixture of a gin file that is called `glue_multi_task` goes first, whatever its rates.
    """
    rates = benchmark.rates(run.parts, lambda task: sources.count(registry.find(task, feed), "train"))
    if len(rates) == 1:
        return [f"MIXTURE_OR_TASK_NAME={next(iter(rates))}"]
    mixtures = [made for made in registry.definitions(feed).values() if isinstance(made, Mixture)]
    name = f"glue_{run.group}"
    if any(mixture.name == name for mixture in mixtures):
        _check_given(name, rates, feed)
        return [f"MIXTURE_OR_TASK_NAME={name}"]
    known = [mixture.name for mixture in mixtures if _is(mixture, rates)]
    name = known[0] if known else name
    return [f"MIXTURE_OR_TASK_NAME={name}", *([] if known else [f"{name}/Mixture.tasks={rates!r}"])]


def _check_given(name: str, rates: Mapping[str, float], feed: FeedConfig) -> None:
    given = registry.components(name, feed)
    if missing := sorted(rates.keys() - given.keys()):
        raise UserError(
            f"The mixture {name} lacks {', '.join(missing)}, which the benchmark scores: add them to "
            f"{name}/Mixture.tasks, those that are only scored with rate 0, or leave them out with --tasks."
        )


def _is(mixture: Mixture, rates: Mapping[str, float]) -> bool:
    """Whether it has the same rates; tasks of rate 0 are not mixed, but they have to be there to be scored."""
    if not isinstance(mixture.tasks, Mapping) or mixture.without:
        return False
    trained_on = {task: rate for task, rate in mixture.tasks.items() if rate}
    return trained_on == {task: rate for task, rate in rates.items() if rate} and rates.keys() <= mixture.tasks.keys()


def _this_checkpoint(path: str) -> str:
    """A run's newest checkpoint by its step, so that a run that goes on meanwhile isn't mistaken for the same model."""
    from t5x_mini.checkpoint.source import open_source

    origin = open_source(path).origin
    return origin.path if origin.kind == "t5x_mini" else path


def _check_bindings(bindings: Sequence[str]) -> None:
    for binding in bindings:
        name = binding.partition("=")[0].strip()
        if name in _OWN:
            raise UserError(f"`t5x-mini glue` sets {name} itself: leave out --gin.{name}, and write {_OWN[name]}")


def _check_data(parts: Sequence[Part], feed: FeedConfig) -> None:
    """Before hours of training, whether there is something to train on and to score by."""
    missing = {part.name: error for part in parts if (error := _unreadable(part, feed))}
    if not missing:
        return
    there = [part.name for part in parts if part.name not in missing]
    hint = f"\nWrite --tasks={','.join(there)} for those that are here." if there else ""
    raise UserError(f"The data of {', '.join(missing)} can't be read: {next(iter(missing.values()))}{hint}")


def _unreadable(part: Part, feed: FeedConfig) -> UserError | None:
    try:
        sources.shards(registry.find(part.trained_on, feed), "train")
        for task in part.scored:
            sources.shards(registry.find(task, feed), "validation")
    except UserError as error:
        return error
    return None
