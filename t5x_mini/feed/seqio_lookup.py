"""Which SeqIO task or mixture a run reads, and its vocabulary: from definitions, or registered by the user's module."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import traceback

from t5x_mini import strangers
from t5x_mini.errors import UserError
from t5x_mini.feed.config import FeedConfig
from t5x_mini.quiet_tensorflow import hold_back_stderr
from t5x_mini.tasks import registry, vocabularies
from t5x_mini.tasks.definitions import Mixture

with hold_back_stderr():
    import seqio
    import tensorflow as tf

    from t5x_mini.tasks import seqio_tasks

    # TensorFlow would otherwise take the GPU memory that JAX needs.
    tf.config.set_visible_devices([], "GPU")

# SeqIO warns of every task of a mixture that lacks a split; GLUE's proportions have three on purpose.
logging.getLogger("absl").setLevel(logging.CRITICAL)

Provider = seqio.Task | seqio.Mixture


def load_task(config: FeedConfig) -> Provider:
    """The SeqIO task or mixture that the configuration names.

    Tasks defined in gin and the pretraining tasks of this project are registered first, so that the user's module can
    mix them; then the module is imported; then the name is looked up, among the definitions and in SeqIO's registry.

    Raises UserError if the module cannot be imported, nothing has that name, or a mixture's tasks do not fit together.
    """
    name = config.mixture_or_task_name
    import_module(config)
    if not seqio_tasks.is_foreign(name) and registry.is_defined(name, config):
        return seqio_tasks.register(registry.find(name, config), config)
    registered = {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}
    if name not in registered:
        known = {*registered, *registry.definitions(config), *registry.aliases()}
        raise UserError(
            f"There is no task or mixture named {name!r}. {registry.closest_names(name, known)} Set "
            "MIXTURE_OR_TASK_NAME to one of these or to a task that a gin file defines, and MIXTURE_OR_TASK_MODULE to "
            "the Python module that registers it with SeqIO if it is one of your own."
        )
    provider = seqio.get_mixture_or_task(name)
    _check_vocabularies(provider)
    return provider


def import_module(config: FeedConfig) -> None:
    """Imports the user's module, if there is one, which registers tasks with SeqIO.

    It may mix tasks of gin files and of this project. They need the run's vocabulary, which is fetched for a module
    that does mix them, and not for one whose tasks have their own.

    Raises UserError if the module cannot be imported or fails, or the vocabulary is needed and cannot be read.
    """
    if config.mixture_or_task_module is None:
        return
    if os.environ.get(strangers.NO_GIN_IMPORTS):
        raise UserError(
            f"MIXTURE_OR_TASK_MODULE = {config.mixture_or_task_module!r} would run that module's code, and "
            "--no_gin_imports forbids it. Leave that option out if you trust the module and who wrote the "
            "configuration; or set MIXTURE_OR_TASK_MODULE=None."
        )
    try:
        _import_with_tasks(config)
    except UserError:
        raise
    except Exception as error:  # whatever a module of the user's does
        *_, last = traceback.extract_tb(error.__traceback__)
        file, line = getattr(error, "filename", None) or last.filename, getattr(error, "lineno", None) or last.lineno
        raise UserError(
            f"MIXTURE_OR_TASK_MODULE = {config.mixture_or_task_module!r} fails when it is imported, in {file}, line "
            f"{line}: {type(error).__name__}: {error}. Mend the module, or leave it out."
        ) from error


def _import_with_tasks(config: FeedConfig) -> None:
    """Imports the module; what it may mix is made known before."""
    is_here = vocabularies.is_here(config.vocabulary)
    if is_here:
        _register_for_module(config)
    before = _registered_names()
    try:
        _import_task_module(config.mixture_or_task_module)
    except ValueError:  # SeqIO's, for a name that it doesn't know
        if is_here:
            raise
        for registry_, names in _registered_names().items():
            for name in names - before[registry_]:
                registry_.remove(name)
        _register_for_module(config)
        _import_task_module(config.mixture_or_task_module)


def _registered_names() -> dict[type, set[str]]:
    return {registry_: set(registry_.names()) for registry_ in (seqio.TaskRegistry, seqio.MixtureRegistry)}


def _register_for_module(config: FeedConfig) -> None:
    """Makes tasks known that a module's mixtures may name. Mixtures are left out: their rates may take a long count."""
    for definition in (*registry.PRETRAINING, *config.tasks):
        if not isinstance(definition, Mixture) and not seqio_tasks.is_foreign(definition.name):
            seqio_tasks.register(registry.find(definition.name, config), config)


def _check_vocabularies(provider: Provider) -> None:
    first, *others = seqio.get_subtasks(provider)
    for task in others:
        for name, feature in task.output_features.items():
            expected = first.output_features.get(name, feature)
            if feature.vocabulary != expected.vocabulary:
                raise UserError(
                    f"The tasks of the mixture {provider.name!r} have different vocabularies for {name!r}: "
                    f"{expected.vocabulary} in {first.name!r}, {feature.vocabulary} in {task.name!r}. Register them "
                    "with one vocabulary; that of tasks from gin is VOCABULARY with EXTRA_IDS."
                )


def _import_task_module(module: str) -> None:
    # A console script, unlike `python -m`, does not find modules in the directory it is started from.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"MIXTURE_OR_TASK_MODULE = {module!r} cannot be imported: {error}. Write the module as in an import "
            f"statement (my_tasks, not my_tasks.py); it must be installed, on PYTHONPATH, or in {os.getcwd()}."
        ) from error


def tasks_with_split(config: FeedConfig, split: str) -> list[str]:
    """The task of that name, or the tasks of that mixture, which have the split. Raises what `load_task` raises."""
    return [task.name for task in tasks_with(load_task(config), split)]


def rates(config: FeedConfig) -> dict[str, float]:
    """The tasks of the mixture with their rates; of a task, itself with 1. Raises what `load_task` raises."""
    provider = load_task(config)
    if not isinstance(provider, seqio.Mixture):
        return {provider.name: 1.0}
    return {task.name: float(provider.get_rate(task)) for task in seqio.get_subtasks(provider)}


def task_vocabulary(config: FeedConfig) -> seqio.Vocabulary:
    """The vocabulary of the task's targets. Raises what `load_task` raises."""
    return load_task(config).output_features["targets"].vocabulary


def model_vocab_size(vocabulary: seqio.Vocabulary) -> int:
    """Rows of the embedding: the vocabulary's size, sentinels included, rounded up to a multiple of 128.

    The matrix product with the vocabulary then splits evenly over devices: 32,100 becomes T5's 32,128.
    Raises UserError if the vocabulary's file cannot be read.
    """
    try:
        size = vocabulary.vocab_size
    except (tf.errors.OpError, OSError) as error:
        raise UserError(
            f"The task's vocabulary cannot be read: {' '.join(str(error).split())}. A gs:// path needs the network; "
            "without it, choose a task whose vocabulary is a local file. (To look at a configuration alone, with "
            "--dry_run, say the model's size: --gin.TransformerConfig.vocab_size=32128 for T5's.)"
        ) from error
    return -(-size // 128) * 128


def tasks_with(provider: Provider, split: str) -> list[seqio.Task]:
    """The task, or the tasks of a mixture, which have the split."""
    return [task for task in seqio.get_subtasks(provider) if split in task.splits]
