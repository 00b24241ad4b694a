"""How often to save, and how much to keep."""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Checkpoints of a run.

    Attributes:
        period: steps between saves; the last step is always saved.
        keep: newest checkpoints to keep; None keeps all.
        keep_best: best ones to keep beside them, by `TrainConfig.best_metric`.
        keep_period: besides, the checkpoints of the multiples of so many steps are kept for ever; None: none are.
        on_damage: what a run does that finds its newest checkpoint damaged: `fall_back` to the newest good one, and set
            aside what is newer, or `stop`.
        retries: saves that may fail in a row, because the disk is full, say, before the run stops (`train/saving.py`).
    """

    period: int = 1000
    keep: int | None = 3
    keep_best: int = 1
    keep_period: int | None = None
    on_damage: Literal["fall_back", "stop"] = "fall_back"
    retries: int = 12
