"""What is fed to the model: which task, cut to which lengths, in which batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

from t5x_mini.tasks.definitions import Definition
from t5x_mini.tasks.objectives import Objective, SpanCorruption

T5_LENGTHS = {"inputs": 512, "targets": 114}
"""What span corruption of 568 tokens at 15 % and spans of 3 comes to, T5's pretraining."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeedConfig:
    """One stream of batches from a SeqIO task or mixture.

    Attributes:
        mixture_or_task_name: one of `tasks`, one that comes with the project, or a name in SeqIO's registry.
        mixture_or_task_module: a Python module to import first, because it registers that name with SeqIO.
        tasks: tasks and mixtures defined in gin, under scopes that name them.
        vocabulary: of every task that isn't registered in Python with a vocabulary of its own: the path of a
            SentencePiece model (`gs://` works), `'bytes'`, or the name of one in `data/vocabularies`.
        extra_ids: ids on top of it, for masked spans.
        objective: of `installed_docs` and `c4`, and of tasks defined in gin that name none.
        glue_dir: where the GLUE tasks are read from: a folder in the GLUE site's format, or `'tiny'` for the tables in
            `data/tiny_glue`. None: the environment's GLUE_DIR, or else TensorFlow Datasets.
        task_feature_lengths: tokens a row, by feature; `{'inputs': 512, 'targets': 114}`. Longer examples are cut.
            The decoder-only architectures see rows of their sum; `{'targets': 512}` for a task without inputs.
        batch_size: rows a step, over all hosts and microbatches.
        pack: put several short examples in one row, kept apart by segment ids.
        shuffle: shuffle the training examples (SeqIO's buffer, seeded).
        use_cached_tasks: read the copy that SeqIO's cache tool made. T5X's default is True, and trips everyone who
            has not made one; here it is False.
        loss_on_targets_only: for the decoder-only architectures: no loss on the inputs. Under `prefix_lm` the inputs
            see one another, so a loss on them teaches copying.
        data_feed: `'seqio'` prepares text while training, from any SeqIO task. `'tokens'` reads what `tokenize`
            wrote: every batch is a function of seed and step alone, for any number of hosts and restarts.
        tokens_dir: the folder that `t5x-mini tokenize` wrote to.
        prefetch: batches kept ready on the device; 0 makes each batch when it is asked for.
        seed: of the shuffle and of the objective's random numbers.
    """

    mixture_or_task_name: str
    mixture_or_task_module: str | None = None
    tasks: tuple[Definition, ...] = ()
    vocabulary: str = "docs_8k"
    extra_ids: int = 100
    objective: Objective = SpanCorruption()
    glue_dir: str | None = None
    task_feature_lengths: Mapping[str, int]
    batch_size: int
    pack: bool = False
    shuffle: bool = True
    use_cached_tasks: bool = False
    loss_on_targets_only: bool = True
    data_feed: Literal["seqio", "tokens"] = "seqio"
    tokens_dir: str = "tokens"
    prefetch: int = 2
    seed: int = 0


def ends_inputs(architecture: str, feature_lengths: Mapping[str, int] | None) -> bool:
    """Whether a model's inputs end with EOS: where training had inputs, they did.

    Args:
        architecture: counts where nothing is known of the training: a causal LM is then taken for one of targets alone.
        feature_lengths: TASK_FEATURE_LENGTHS of training; None: not known.
    """
    return "inputs" in feature_lengths if feature_lengths else architecture != "causal_lm"
