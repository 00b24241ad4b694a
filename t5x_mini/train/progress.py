"""A line that tells the person at the terminal how far the run is."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

import tqdm

_SECONDS_BETWEEN_LINES = 10.0
_SHARE_BETWEEN_LINES = 0.05


class Progress:
    """Step, loss, tokens per second and remaining time: a bar on a terminal, plain lines anywhere else.

    In a log file or CI, where a bar's carriage returns are unreadable, there is a line for the first step, for the
    last, and in between every 5 % of the run or every 10 seconds, whichever comes first.

    Args:
        total_steps: the step that the run ends at.
        first_step: steps that were done before this process (0, or the checkpoint's).
        stream: where to write; standard error if None.
        now: the clock, in seconds.
    """

    def __init__(
        self,
        total_steps: int,
        first_step: int = 0,
        *,
        stream: TextIO | None = None,
        now: Callable[[], float] = time.monotonic,
    ):
        self._total, self._first = total_steps, first_step
        self._stream = sys.stderr if stream is None else stream
        self._now = now
        self._first_update: tuple[int, float] | None = None
        self._last_line = (first_step, -float("inf"))
        self._bar = self._make_bar() if self._stream.isatty() else None

    def update(self, step: int, loss: float, tokens_per_second: float) -> None:
        """Shows the state after `step` updates; `loss` in nats per token."""
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {loss:.3f}, {_short(tokens_per_second)} tokens/s", refresh=False)
            self._bar.update(step - self._bar.n)
            return
        now = self._now()
        if self._first_update is None:
            self._first_update = (step, now)
        if self._line_is_due(step, now):
            self._last_line = (step, now)
            self._print(
                f"step {step}/{self._total} ({step / self._total:.0%}), loss {loss:.3f}, "
                f"{_short(tokens_per_second)} tokens/s, {self._remaining(step, now)} left"
            )

    def note(self, text: str) -> None:
        """Prints a line of its own (an evaluation's result, say) without breaking the bar."""
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        else:
            self._print(text)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _make_bar(self) -> tqdm.tqdm:
        return tqdm.tqdm(
            total=self._total,
            initial=self._first,
            file=self._stream,
            desc="training",
            bar_format="{desc} {percentage:3.0f}% |{bar}| step {n_fmt}/{total_fmt}{postfix}, {remaining} left",
            dynamic_ncols=True,
        )

    def _print(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()

    def _line_is_due(self, step: int, now: float) -> bool:
        last_step, last_time = self._last_line
        enough_steps = step - last_step >= _SHARE_BETWEEN_LINES * (self._total - self._first)
        return enough_steps or now - last_time >= _SECONDS_BETWEEN_LINES or step >= self._total

    def _remaining(self, step: int, now: float) -> str:
        # Timed from the first update on, because compilation comes before it and will not come again.
        first_step, first_time = self._first_update
        if step == first_step:
            return "?"
        return tqdm.tqdm.format_interval((now - first_time) / (step - first_step) * (self._total - step))


def _short(number: float) -> str:
    return tqdm.tqdm.format_sizeof(number)
