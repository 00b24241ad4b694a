"""Which finetunings the benchmark takes, in which order, and how long they will yet take."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

from t5x_mini.glue.benchmark import Part

Strategy = Literal["multi_task", "per_task"]
Start = Literal["pretrained", "scratch"]
MULTI_TASK = "multi_task"


@dataclasses.dataclass(frozen=True)
class Finetuning:
    """One run of `train`.

    Attributes:
        group: `multi_task`, or the name of its one part.
        parts: that it is trained on and scored by.
        start: from the checkpoint, or from scratch.
        seed: RANDOM_SEED.
    """

    group: str
    parts: tuple[Part, ...]
    start: Start
    seed: int

    @property
    def name(self) -> str:
        """Of its folder, under the benchmark's."""
        return f"{self.group}/{self.start}-seed{self.seed}"


def plan(parts: Sequence[Part], strategy: Strategy, seeds: int, from_scratch: bool) -> list[Finetuning]:
    """All finetunings, seed by seed: whoever interrupts them has whole rounds to compare."""
    groups = {MULTI_TASK: tuple(parts)} if strategy == MULTI_TASK else {part.name: (part,) for part in parts}
    starts: tuple[Start, ...] = ("pretrained", "scratch") if from_scratch else ("pretrained",)
    return [
        Finetuning(group, chosen, start, seed)
        for seed in range(seeds)
        for start in starts
        for group, chosen in groups.items()
    ]


def remaining(seconds: Sequence[float], left: int) -> str:
    """`'about 4 min left'`: `left` runs, each as long as those that are done took on average. '' where none is."""
    if not seconds:
        return ""
    total = left * sum(seconds) / len(seconds)
    if total < 90:
        return f"about {max(round(total), 1)} s left"
    return f"about {round(total / 60)} min left" if total < 5400 else f"about {total / 3600:.1f} h left"
