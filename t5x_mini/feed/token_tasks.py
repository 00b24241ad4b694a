"""From the name of a task or a mixture to its tokens on disk, checked against what the run needs."""

from __future__ import annotations

import os

from t5x_mini.errors import UserError
from t5x_mini.feed.config import FeedConfig
from t5x_mini.feed.token_sources import TokenTask
from t5x_mini.quiet_tensorflow import hold_back_stderr
from t5x_mini.tasks import files, registry, vocabularies
from t5x_mini.tasks.definitions import PretrainingTask
from t5x_mini.tokens.manifest import MANIFEST, join
from t5x_mini.tokens.store import TokenStore


def open_tasks(config: FeedConfig, split: str, *, training: bool) -> list[TokenTask]:
    """The tasks behind `mixture_or_task_name`; for training those with a rate above 0.

    Proportional rates go by the numbers of documents in the stores.

    Raises:
        UserError: for an unknown name; where a store is missing, not finished, or does not fit the run.
    """
    if not registry.is_defined(config.mixture_or_task_name, config):
        return _open_registered(config, split, training=training)
    vocabulary = vocabularies.load(config.vocabulary, config.extra_ids)
    tasks = []
    for name, rate in rates(config).items() if training else dict.fromkeys(_names(config), 1.0).items():
        if rate > 0:
            definition = registry.find(name, config)
            store = open_store(config, name, split)
            store.check(vocabulary=vocabulary.fingerprint(), definition=definition)
            objective = definition.objective if isinstance(definition, PretrainingTask) else None
            tasks.append(TokenTask(name=name, store=store, vocabulary=vocabulary, objective=objective, rate=rate))
    return tasks


def tasks_with_split(config: FeedConfig, split: str) -> list[str]:
    """The task, or those of the mixture, whose tokens have the split, or of which is known that they should.

    Raises UserError for an unknown name.
    """
    if not registry.is_defined(config.mixture_or_task_name, config):
        from t5x_mini.feed import seqio_lookup  # TensorFlow: only for tasks that need it

        return seqio_lookup.tasks_with_split(config, split)
    return [name for name in _names(config) if _is_tokenized(config, name, split) or _is_declared(config, name, split)]


def rates(config: FeedConfig) -> dict[str, float]:
    """`registry.components` of the run's task or mixture, where proportional rates go by the documents in the stores.

    Raises UserError for an unknown name, or tokens that are missing and would have to be counted.
    """

    def documents(task: str) -> int:
        return open_store(config, task, "train").num_documents

    return registry.components(config.mixture_or_task_name, config, count=documents)


def open_store(config: FeedConfig, task: str, split: str) -> TokenStore:
    """The task's tokens. Raises UserError, with the command that makes them, where there are none."""
    folder = store_folder(config, task, split)
    if not _is_tokenized(config, task, split) and not os.path.isdir(folder):
        has = [other for other in ("train", "validation", "test") if _is_tokenized(config, task, other)]
        raise UserError(
            f"DATA_FEED is 'tokens', but there are no tokens of {task!r}, split {split!r}, in {folder}"
            f"{' (there are of ' + ', '.join(has) + ')' if has else ''}. Make them with `t5x-mini tokenize "
            f"--task={task}` and the run's gin files and settings, set TOKENS_DIR to where they are, or write "
            "--gin.DATA_FEED=seqio to prepare the text while training."
        )
    return TokenStore(folder)


def store_folder(config: FeedConfig, task: str, split: str) -> str:
    return join(join(config.tokens_dir, task), split)


def _names(config: FeedConfig) -> list[str]:
    return list(registry.components(config.mixture_or_task_name, config, count=lambda task: 1))


def _is_tokenized(config: FeedConfig, task: str, split: str) -> bool:
    return files.exists(join(store_folder(config, task, split), MANIFEST))


def _is_declared(config: FeedConfig, task: str, split: str) -> bool:
    definition = registry.find(task, config)
    return split in (definition.files or definition.splits or {})


def _open_registered(config: FeedConfig, split: str, *, training: bool) -> list[TokenTask]:
    """`open_tasks` for what is registered in Python with SeqIO, which says what the objective and vocabulary are."""
    with hold_back_stderr():
        import seqio

    from t5x_mini.feed import seqio_lookup
    from t5x_mini.tasks import seqio_tasks
    from t5x_mini.tokens import seqio_reader

    provider = seqio_lookup.load_task(config)
    tasks = []
    for task in seqio.get_subtasks(provider):
        rate = float(provider.get_rate(task)) if training and isinstance(provider, seqio.Mixture) else 1.0
        if rate > 0:
            store = open_store(config, task.name, split)
            vocabulary = task.output_features["targets"].vocabulary
            store.check(vocabulary=seqio_reader.vocabulary_fingerprint(vocabulary))
            objective = seqio_tasks.objective_of(task)
            if (objective is None) != (store.manifest.contents.kind == "examples"):
                raise UserError(
                    f"The preprocessors of {task.name!r} have changed since its tokens in {store.folder} were made: "
                    f"it {'has no objective now' if objective is None else 'applies an objective now'}. Delete the "
                    f"folder and run `t5x-mini tokenize --task={task.name}` again."
                )
            tasks.append(TokenTask(name=task.name, store=store, vocabulary=vocabulary, objective=objective, rate=rate))
    return tasks
