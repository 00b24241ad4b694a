"""`t5x-mini train --profile_steps=10,13`: what the machine does in these steps, traced by JAX's profiler.

The first process alone traces, as all run the same program; what it waits for in a collective is in its trace.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from t5x_mini.errors import UserError
from t5x_mini.parallel.hosts import on_first, say

FOLDER = "profile"


class Profiler:
    """Traces some steps of a run into `MODEL_DIR/profile`; `with profiler:` ends what a step that failed left open.

    Nothing that is computed changes. The device is waited for before the first and after the last traced step, so that
    these steps are in the trace as a whole and no others are.

    Args:
        steps: the first and the last one, as they are counted in `metrics.jsonl`; None: none is traced.
        model_dir: of the run.
        total_steps: of the run.

    Raises:
        UserError: the run ends before these steps.
    """

    def __init__(self, steps: tuple[int, int] | None, model_dir: Path, total_steps: int):
        self._first, self._last = steps or (0, 0)  # steps count from 1
        self._option = f"--profile_steps={self._first},{self._last}"
        self._folder = model_dir / FOLDER / f"steps_{self._first}_to_{self._last}"
        self._total = total_steps
        self._open = contextlib.ExitStack()
        self._annotation = contextlib.ExitStack()
        self._is_tracing = False
        if self._last > total_steps:
            raise UserError(f"{self._option}: the run ends with step {total_steps:,}. Write steps up to that one.")

    def __enter__(self) -> Profiler:
        return self

    def __exit__(self, *_) -> None:
        self._annotation.close()
        self._open.close()

    def go_on_from(self, step: int) -> None:
        """To be called, by all processes, before the step after this one.

        Raises:
            UserError: the steps to trace are done and were not traced. (Where they were, a run that was killed goes on
                with the same command.)
        """
        if 0 < self._last <= step and not on_first(self._folder.exists):
            raise UserError(
                f"{self._option}: the run goes on from step {step:,}, and these are done. Write steps from "
                f"{step + 1:,} to {self._total:,}, or train in another MODEL_DIR."
            )

    def before(self, step: int, state: Any) -> None:
        """To be called before the step, with the state that it starts from."""
        if jax.process_index() or not self._first <= step <= self._last:
            return
        if not self._is_tracing:
            jax.block_until_ready(state)
            self._open.enter_context(self._trace())
        self._annotation.enter_context(jax.profiler.StepTraceAnnotation("train", step_num=step))

    def after(self, step: int, state: Any) -> None:
        """To be called after the step, with the state that it gave."""
        self._annotation.close()
        if self._is_tracing and step == self._last:
            jax.block_until_ready(state)
            self._open.close()

    @contextlib.contextmanager
    def _trace(self) -> Iterator[None]:
        # JAX writes to no bucket, and half a trace is not to be taken for one.
        with tempfile.TemporaryDirectory() as here:
            with jax.profiler.trace(here, create_perfetto_trace=True, profiler_options=_options()):
                self._is_tracing = True
                try:
                    yield
                finally:
                    self._is_tracing = False
            self._keep(Path(here))

    def _keep(self, made: Path) -> None:
        try:
            for file in sorted(path for path in made.rglob("*") if path.is_file()):
                kept = self._folder / file.relative_to(made)
                kept.parent.mkdir(parents=True, exist_ok=True)
                kept.write_bytes(file.read_bytes())
        except (OSError, UserError) as error:  # a run is worth more than its trace
            say(f"warning: the trace can't be written to {self._folder}: {error}")
            return
        say(
            f"traced steps: {self._folder}. Look at them with TensorBoard and its plugin (pip install xprof; "
            f"tensorboard --logdir={self._folder.parent}), or open perfetto_trace.json.gz at ui.perfetto.dev."
        )


def _options() -> jax.profiler.ProfileOptions:
    options = jax.profiler.ProfileOptions()
    # Python's own calls are nearly all events of a trace by default, and recording them slows what is to be seen.
    options.python_tracer_level = 0
    return options
