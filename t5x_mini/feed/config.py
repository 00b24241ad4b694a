"""What is fed to the model: which task, cut to which lengths, in which batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeedConfig:
    """One stream of batches from a SeqIO task or mixture.

    Attributes:
        mixture_or_task_name: a name in SeqIO's registry.
        mixture_or_task_module: a Python module to import first, because it registers that name.
        task_feature_lengths: tokens a row, by feature; `{'inputs': 512, 'targets': 114}`. Longer examples are cut.
            The decoder-only architectures see rows of their sum; `{'targets': 512}` for a task without inputs.
        batch_size: rows a step, over all hosts and microbatches.
        pack: put several short examples in one row, kept apart by segment ids.
        shuffle: shuffle the training examples (SeqIO's buffer, seeded).
        use_cached_tasks: read the copy that SeqIO's cache tool made. T5X's default is True, and trips everyone who
            has not made one; here it is False.
        loss_on_targets_only: for the decoder-only architectures: no loss on the inputs. Under `prefix_lm` the inputs
            see one another, so a loss on them teaches copying.
        prefetch: batches kept ready on the device; 0 makes each batch when it is asked for.
        seed: of the shuffle and of the objective's random numbers.
    """

    mixture_or_task_name: str
    mixture_or_task_module: str | None = None
    task_feature_lengths: Mapping[str, int]
    batch_size: int
    pack: bool = False
    shuffle: bool = True
    use_cached_tasks: bool = False
    loss_on_targets_only: bool = True
    prefetch: int = 2
    seed: int = 0
