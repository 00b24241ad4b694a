"""How often to save, and how much to keep."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Checkpoints of a run.

    Attributes:
        period: steps between saves; the last step is always saved.
        keep: newest checkpoints to keep; None keeps all.
    """

    period: int = 1000
    keep: int | None = 3
