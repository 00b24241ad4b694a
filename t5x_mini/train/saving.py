"""When to save, and what to do where a save fails: a full disk must not end a run that could go on."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax

from t5x_mini.checkpoint.steps import steps_of
from t5x_mini.errors import SaveError, UserError
from t5x_mini.parallel.hosts import gather

if TYPE_CHECKING:
    from t5x_mini.checkpoint.manager import Checkpoints

# Seconds between a failed save and the next attempt: the first pause, and the longest.
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 600.0
_LOOK = 0.5  # seconds between two looks at whether there is still time


class Saver:
    """Saves a run's state, and again where that fails: after a second, and each time after twice as long.

    Before a checkpoint come the rows of metrics up to it: a restart goes on from the one and keeps the others.
    Hosts decide alike, which they can at the steps where all of them save: several of them try again at the next of
    those, and end where a save fails that some have begun.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        sync: Callable[[], None],
        retries: int,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ):
        """
        Args:
            checkpoints: of the run.
            sync: returns once the rows that were reported are where they belong, or raises UserError.
            retries: failed saves in a row that the run survives.
            now: seconds, from any start.
            sleep: waits so many of them.
        """
        self._checkpoints, self._sync, self._retries = checkpoints, sync, retries
        self._now, self._sleep = now, sleep
        self._failures, self._try_at = 0, 0.0
        self._begun: int | None = None  # the step of a save that is on its way
        self._complete: int | None = None

    @property
    def newest(self) -> int | None:
        """The step of the newest save that did not fail; None before the first one."""
        return self._complete if self._begun is None else self._begun

    def wants(self, step: int) -> bool:
        """Whether a save that failed is to be made up for, at this step; to be asked after every step.

        Raises:
            UserError: there have been too many.
        """
        if jax.process_count() > 1:
            return False
        if self._begun is not None and not self._checkpoints.is_saving():
            self._note(step, self._settle())
        return bool(self._failures) and self._now() >= self._try_at

    def save(self, step: int, begin: Callable[[], None]) -> None:
        """Calls `begin`, which starts to save the state of this step, unless the disk needs a rest.

        Raises:
            UserError: there have been too many failures.
        """
        if self._failures and self._now() < self._try_at and jax.process_count() == 1:
            return
        self._note(step, self._attempt(step, begin))

    def finish(self, step: int, begin: Callable[[], None], hurries: Callable[[], bool] = lambda: False) -> None:
        """The same for the last step of the process: returns when it is complete, however long that takes.

        Args:
            hurries: whether there is no time for more than one attempt from now on.

        Raises:
            UserError: it can't be saved.
        """
        while problem := self._attempt(step, begin) or _of_any(self._settle()):
            self._note(step, problem, waits=True, last=hurries())
            while (left := self._try_at - self._now()) > 0 and not hurries():
                self._sleep(min(left, _LOOK))

    def _attempt(self, step: int, begin: Callable[[], None]) -> str | None:
        """Why the save could not begin; None: it has."""
        problem = self._settle()
        if problem is None:
            try:
                self._sync()
            except UserError as error:
                problem = str(error)
        problem = _of_any(problem)
        if problem is None:
            try:
                begin()
                self._begun = step
            except SaveError as error:
                if jax.process_count() > 1:
                    raise
                problem = str(error)
        return problem

    def _settle(self) -> str | None:
        """Waits for the save that is on its way, and says why it failed; None: it hasn't."""
        begun, self._begun = self._begun, None
        if begun is None:
            return None
        try:
            self._checkpoints.wait()
        except SaveError as error:
            return str(error)
        self._failures, self._complete = 0, begun
        return None

    def _note(self, step: int, problem: str | None, *, waits: bool = False, last: bool = False) -> None:
        if problem is None:
            return
        self._failures += 1
        pause = min(_FIRST_PAUSE * 2 ** (self._failures - 1), _LONGEST_PAUSE)
        self._try_at = self._now() + pause
        newest = self._newest_on_disk()
        safe = (
            f"Safe is the checkpoint of step {newest:,}" if newest is not None else "There is no checkpoint there now"
        )
        if last or self._failures > self._retries:
            count = "" if last else f", {self._failures} times in a row (SAVE_RETRIES = {self._retries})"
            raise UserError(
                f"The state of step {step:,} could not be saved{count}, and the run stops: {problem} {safe}, and "
                f"{'what came after it' if newest is not None else 'what was trained'} is lost. When that is mended, "
                f"the same command goes on{' from there' if newest is not None else ''}."
            )
        logging.getLogger(__name__).warning(
            "Step %s: the save failed, %d of at most %d times in a row: %s %s. %s; the next attempt is in %.0f s.",
            f"{step:,}",
            self._failures,
            self._retries,
            problem,
            safe,
            "The run waits" if waits else "Training goes on",
            pause,
        )

    def _newest_on_disk(self) -> int | None:
        try:
            return max(steps_of(self._checkpoints.directory.parent), default=None)
        except (OSError, UserError):
            return None


def _of_any(problem: str | None) -> str | None:
    """The first host's that has one, on all of them; all call it together."""
    return next((found for found in gather(problem) if found), None)
