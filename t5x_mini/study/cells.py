"""From a study to its cells: which runs each is, how many parameters and FLOPs, and how many steps."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from t5x_mini import config as config_module
from t5x_mini.checkpoint.run_item import identity
from t5x_mini.config import RunConfig
from t5x_mini.errors import UserError
from t5x_mini.feed import feeds
from t5x_mini.model import transformer
from t5x_mini.study.config import Study
from t5x_mini.train import flops

# What the command sets itself, and what decides it.
_OWN = {
    "MODEL_DIR": "--output",
    "RANDOM_SEED": "Study.seeds",
    "INITIAL_CHECKPOINT_PATH": "starting each finetuning from its pretraining",
}


@dataclasses.dataclass(frozen=True)
class Cell:
    """One combination of choices.

    Attributes:
        choices: by axis, `{'objective': 'denoising', 'architecture': 'causal LM'}`.
        settings: gin files and bindings of its pretraining.
        parameters: of its model.
        step_flops: counted FLOPs of a pretraining step.
        steps: of its pretraining.
    """

    choices: Mapping[str, str]
    settings: tuple[str, ...]
    parameters: int
    step_flops: float
    steps: int

    @property
    def name(self) -> str:
        return ", ".join(self.choices.values())

    @property
    def folder(self) -> str:
        """Its folder's name, under the study's."""
        return "-".join(re.sub(r"[^a-z0-9]+", "_", choice.lower()).strip("_") for choice in self.choices.values())

    @property
    def flops(self) -> float:
        """Of its pretraining."""
        return self.step_flops * self.steps


@dataclasses.dataclass(frozen=True)
class Planned:
    """One run of `train`.

    Attributes:
        folder: its MODEL_DIR.
        config: what it trains.
        text: the configuration as a gin file.
        steps: that it makes.
        flops: that they cost.
    """

    folder: Path
    config: RunConfig
    text: str
    steps: int
    flops: float


@dataclasses.dataclass(frozen=True)
class Trial:
    """A cell with one seed: its pretraining, and the finetuning that goes on from it."""

    cell: Cell
    seed: int
    pretraining: Planned
    finetuning: Planned | None

    @property
    def name(self) -> str:
        return f"{self.cell.name}, seed {self.seed}"

    @property
    def runs(self) -> list[Planned]:
        return [run for run in (self.pretraining, self.finetuning) if run]


def make_cells(study: Study, further: Sequence[str] = (), search_paths: Sequence[str] = ()) -> list[Cell]:
    """All cells of the grid, in the order of its axes.

    Args:
        further: settings of every pretraining over the study's.
        search_paths: more folders to find gin files in.

    Raises:
        UserError: for a setting that the command makes itself, and whatever a configuration is refused for.
    """
    _check_settings([*study.pretraining, *further])
    found, budget = [], None
    for picked in itertools.product(*(choices.items() for choices in study.axes.values())):
        choices = dict(zip(study.axes, (name for name, _ in picked), strict=True))
        own = [setting for _, settings in picked for setting in settings]
        own += study.exceptions.get(", ".join(choices.values()), ())
        _check_settings(own)
        settings = (*study.pretraining, *own, *further)
        config = _load(settings, ("MODEL_DIR=runs/study",), search_paths)
        step_flops = _step_flops(config)
        steps = _steps_of_pretraining(config)
        budget = budget or step_flops * steps
        if study.match == "flops":
            steps = max(round(budget / step_flops), 1)
        found.append(Cell(choices, settings, transformer.param_count(_sized(config).model), step_flops, steps))
    folders = [cell.folder for cell in found]
    if twice := sorted({folder for folder in folders if folders.count(folder) > 1}):
        raise UserError(f"Study.axes: several cells would share the folder {twice[0]}: give their choices other names.")
    return found


def make_trials(
    study: Study, cells: Sequence[Cell], output: Path, further: Sequence[str] = (), search_paths: Sequence[str] = ()
) -> list[Trial]:
    """All runs, seed by seed: whoever interrupts them has whole rounds to compare.

    Args:
        output: the study's folder.
        further: settings of every finetuning over the study's.
        search_paths: more folders to find gin files in.

    Raises:
        UserError: whatever a configuration is refused for.
    """
    _check_settings([*study.finetuning, *further])
    planned = functools.partial(_plan, search_paths=search_paths)
    trials = []
    for seed in range(study.seeds):
        for cell in cells:
            folder = output / cell.folder / f"seed{seed}"
            steps = "TRAIN_STEPS_RELATIVE=None", f"TRAIN_STEPS={cell.steps}"
            pretraining = planned(folder / "pretraining", cell.settings, (*steps, f"RANDOM_SEED={seed}"))
            finetuning = None
            if study.finetuning:
                settings = (*study.finetuning, *further, *_model_of(pretraining.config))
                start = f"INITIAL_CHECKPOINT_PATH={str(pretraining.folder)!r}", f"RANDOM_SEED={seed}"
                finetuning = planned(folder / "finetuning", settings, start)
            trials.append(Trial(cell, seed, pretraining, finetuning))
    return trials


def _plan(folder: Path, settings: Sequence[str], own: Sequence[str], search_paths: Sequence[str]) -> Planned:
    config = _load(settings, (*own, f"MODEL_DIR={str(folder)!r}"), search_paths)
    steps = config.train.train_steps or config.train.train_steps_relative
    return Planned(folder, config, config_module.operative_config(), steps, _step_flops(config) * steps)


def _load(settings: Sequence[str], own: Sequence[str], search_paths: Sequence[str]) -> RunConfig:
    files = [setting for setting in settings if setting.endswith(".gin")]
    return config_module.load(files, [*(other for other in settings if other not in files), *own], search_paths)


def _model_of(config: RunConfig) -> list[str]:
    """Bindings for the same model: a finetuning is planned before its checkpoint is there to say what it is."""
    fields = identity(config.model)
    bindings = [f"TransformerConfig.{name}={value!r}" for name, value in fields.items() if name != "architecture"]
    return [
        f"ARCHITECTURE={config.model.architecture}",
        *bindings,
        f"VOCABULARY={config.feed.vocabulary!r}",
        f"EXTRA_IDS={config.feed.extra_ids}",
    ]


def _sized(config: RunConfig) -> RunConfig:
    if config.model.vocab_size is not None:
        return config
    model = dataclasses.replace(config.model, vocab_size=feeds.model_vocab_size(config.feed))
    return dataclasses.replace(config, model=model)


def _step_flops(config: RunConfig) -> float:
    lengths = config.feed.task_feature_lengths
    sizes = config.feed.batch_size, lengths.get("inputs", 0), lengths["targets"]
    return flops.train_flops(_sized(config).model, *sizes)


def _steps_of_pretraining(config: RunConfig) -> int:
    if config.train.train_steps is None:
        raise UserError("A study's pretrainings begin afresh: write TRAIN_STEPS, not TRAIN_STEPS_RELATIVE.")
    return config.train.train_steps


def _check_settings(settings: Sequence[str]) -> None:
    for setting in settings:
        name = setting.partition("=")[0].strip()
        if not setting.endswith(".gin") and "=" not in setting:
            raise UserError(f"A study's settings are gin files and bindings: {setting!r} is neither. Write NAME=VALUE.")
        if name in _OWN:
            raise UserError(f"`t5x-mini study` sets {name} itself, by {_OWN[name]}: leave out {setting!r}.")
