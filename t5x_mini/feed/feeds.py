"""Which feed a run reads, and what is asked of a task before it is read: the one place that knows there are two.

With `DATA_FEED = 'tokens'` TensorFlow is imported for tasks that are registered in Python with SeqIO, for no others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from t5x_mini.errors import UserError
from t5x_mini.evaluate import postprocessors
from t5x_mini.feed import missing_files, token_tasks
from t5x_mini.feed.config import FeedConfig
from t5x_mini.feed.token_feed import TokenFeed
from t5x_mini.tasks import registry, vocabularies
from t5x_mini.tasks.definitions import PretrainingTask, TextToTextTask

if TYPE_CHECKING:
    import seqio

    from t5x_mini.feed.seqio_feed import SeqioFeed


def make_feed(
    config: FeedConfig,
    architecture: str,
    *,
    split: str = "train",
    repeat: bool = True,
    host_index: int = 0,
    host_count: int = 1,
    snapshot_every: int | None = None,
) -> SeqioFeed | TokenFeed:
    """The feed that `config.data_feed` names; its class explains the arguments.

    Raises:
        UserError: for a configuration the task cannot serve; for a metric or postprocessor that does not exist; for
            tokens that are missing or damaged, or that were made with another vocabulary or from another definition of
            the task.
    """
    if repeat:  # a run that trains: before it, rather than when it is over and about to be scored
        _check_tasks(config)
    share = dict(split=split, repeat=repeat, host_index=host_index, host_count=host_count)
    if config.data_feed == "tokens":
        return TokenFeed(config, architecture, token_tasks.open_tasks(config, split, training=repeat), **share)
    missing_files.check(config, split, training=repeat)
    from t5x_mini.feed.seqio_feed import SeqioFeed  # TensorFlow: only where a task is read through it

    return SeqioFeed(config, architecture, snapshot_every=snapshot_every, **share)


def _check_tasks(config: FeedConfig) -> None:
    if not registry.is_defined(config.mixture_or_task_name, config):
        return
    for name in registry.components(config.mixture_or_task_name, config, count=lambda task: 1):
        task = registry.find(name, config)
        if isinstance(task, TextToTextTask):
            postprocessors.check_scoring(task)
        elif not config.pack:
            _refuse_unpacked_groups(task, config)


def _refuse_unpacked_groups(task: PretrainingTask, config: FeedConfig) -> None:
    """Raises UserError where rows that are long enough for several examples would hold one each."""
    objective = task.objective
    if objective and objective.examples_per_row > 1:
        raise UserError(
            f"{type(objective).__name__}.examples_per_row is {objective.examples_per_row}, so that rows of "
            f"{dict(config.task_feature_lengths)} have room for as many examples of {task.name!r}, but PACK is False, "
            "and each would hold one. Write --gin.PACK=True, or leave examples_per_row at 1."
        )


def tasks_with_split(config: FeedConfig, split: str) -> list[str]:
    """The task, or the tasks of the mixture, which have the split. Raises UserError for an unknown name."""
    if config.data_feed == "tokens":
        return token_tasks.tasks_with_split(config, split)
    missing_files.check(config, split, training=False)
    from t5x_mini.feed import seqio_lookup

    return seqio_lookup.tasks_with_split(config, split)


def rates(config: FeedConfig) -> dict[str, float]:
    """The tasks that are trained on, with their share of the examples, which sum to 1: of a task, itself with 1.

    Raises:
        UserError: for an unknown name; for proportional rates of tokens that are not there.
    """
    if not registry.is_defined(config.mixture_or_task_name, config):
        from t5x_mini.feed import seqio_lookup

        found = seqio_lookup.rates(config)
    elif config.data_feed == "tokens":
        found = token_tasks.rates(config)
    else:
        found = registry.components(config.mixture_or_task_name, config)
    total = sum(found.values())
    return {name: rate / total for name, rate in found.items() if rate > 0}


def vocabulary(config: FeedConfig) -> vocabularies.Vocabulary | seqio.Vocabulary:
    """What the task's targets are written in: has `vocab_size`, `extra_ids`, `encode` and `decode`.

    Raises UserError for an unknown name, or a vocabulary that cannot be read.
    """
    if _has_ours(config):
        return vocabularies.load(config.vocabulary, config.extra_ids)
    from t5x_mini.feed import seqio_lookup

    return seqio_lookup.task_vocabulary(config)


def vocabulary_id(config: FeedConfig) -> str | None:
    """What tells the task's vocabulary from others of its size, for people too; None where that isn't known.

    Raises what `vocabulary` raises.
    """
    found = vocabulary(config)
    if not hasattr(found, "fingerprint"):  # SeqIO's
        path = getattr(found, "sentencepiece_model_file", None)
        if path is None:
            return None
        try:
            found = vocabularies.load(path, found.extra_ids)
        except UserError:  # not in T5's layout, which a task of one's own need not have
            return None
    return vocabularies.identity(found)


def vocabulary_source(config: FeedConfig) -> tuple[str, int] | None:
    """What `vocabularies.load` reads the task's vocabulary from: its name or path, and the number of extra ids.

    None for a vocabulary of SeqIO's that is not of T5's kinds. Raises what `vocabulary` raises.
    """
    if _has_ours(config):
        return config.vocabulary, config.extra_ids
    found = vocabulary(config)
    if vocabulary_id(config) is None:
        return None
    return found.sentencepiece_model_file, found.extra_ids


def model_vocab_size(config: FeedConfig) -> int:
    """Rows of the embedding: the vocabulary's size, sentinels included, rounded up to a multiple of 128.

    The matrix product with the vocabulary then splits evenly over devices: 32,100 becomes T5's 32,128. Raises what
    `vocabulary` raises.
    """
    found = vocabulary(config)
    if not _has_ours(config):
        from t5x_mini.feed import seqio_lookup  # explains what SeqIO raises where the file cannot be read

        return seqio_lookup.model_vocab_size(found)
    return -(-found.vocab_size // 128) * 128


def _has_ours(config: FeedConfig) -> bool:
    """Whether VOCABULARY is what counts: for tasks that are defined, and where there is no task."""
    return not config.mixture_or_task_name or registry.is_defined(config.mixture_or_task_name, config)
