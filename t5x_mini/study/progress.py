"""How far a study is, and how long it will yet take: in FLOPs, of which each run's are known beforehand."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from t5x_mini.errors import UserError
from t5x_mini.report.status import duration, read_status
from t5x_mini.study.cells import Planned
from t5x_mini.train import completion

_EVERY_S = 20.0


class Progress:
    """A line every few seconds about runs that other processes make."""

    def __init__(self, runs: Sequence[Planned], say: Callable[[str], None]):
        self._runs, self._say = runs, say
        self._total = sum(run.flops for run in runs)
        self._began, self._before = time.monotonic(), self._done()
        self._said = self._began

    def tell(self, going_on: Sequence[str]) -> None:
        """Says how far all runs are, if it was not said just now.

        Args:
            going_on: names of the runs that are being made.
        """
        now = time.monotonic()
        if now - self._said < _EVERY_S:
            return
        self._said = now
        done = self._done()
        made, share = done - self._before, done / self._total
        left = f", about {duration((now - self._began) * (self._total - done) / made)} left" if made > 0 else ""
        self._say(f"{share:.1%}{left}: {'; '.join(going_on)}")

    def _done(self) -> float:
        return sum(run.flops * share_done(run) for run in self._runs)


def share_done(run: Planned) -> float:
    """How much of a run's steps is made, from 0 to 1."""
    if completion.is_marked(run.folder):
        return 1.0
    if not run.folder.is_dir():
        return 0.0
    try:
        status = read_status(str(run.folder))
    except UserError:  # it has only begun to be one
        return 0.0
    if status.step is None or status.total_steps is None:
        return 0.0
    return min(max(1 - (status.total_steps - status.step) / run.steps, 0.0), 1.0)
