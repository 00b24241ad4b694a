"""What follows the arrays of a save, in a thread behind the steps: the manifest, and then what isn't kept any more.

The order is the promise. A checkpoint without its manifest doesn't count, so the ones before it stay until it has it.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import pathlib
import threading
import time
from collections.abc import Callable, Mapping

import jax

from t5x_mini import storage_errors
from t5x_mini.checkpoint import manifest, manifest_of_hosts, retention, steps
from t5x_mini.checkpoint.config import CheckpointConfig
from t5x_mini.checkpoint.manifest import Manifest
from t5x_mini.errors import UserError

Metrics = Mapping[str, float]
_numbers = itertools.count()  # of the saves of this process, which are those of all hosts


class Finishing:
    """Finishes one save after another."""

    def __init__(self, run_dir: pathlib.Path, config: CheckpointConfig, best_metric: str | None):
        """
        Args:
            run_dir: the folder of the run.
            config: how many checkpoints stay.
            best_metric: what the best are chosen by; None: by nothing.
        """
        self._run_dir, self._config, self._metric = run_dir, config, best_metric
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def is_running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def start(self, step: int, metrics: Metrics, arrays_are_written: Callable[[], object]) -> None:
        """Begins to wait for the arrays, and then to do the rest. All hosts call it, for the same step.

        Args:
            step: that is being saved.
            metrics: what was logged of it.
            arrays_are_written: returns then, or raises what went wrong.
        """
        arguments = next(_numbers), step, metrics, arrays_are_written
        self._thread = threading.Thread(target=self._run, args=arguments, name="finish_save")
        self._thread.start()

    def wait(self) -> None:
        """Returns once the last save is complete; raises, once, what went wrong in it (OSError, UserError, ...)."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _run(self, number: int, step: int, metrics: Metrics, arrays_are_written: Callable[[], object]) -> None:
        try:
            arrays_are_written()
            self._write_manifest(number, step, metrics)
            if jax.process_index() == 0:
                self._remove_old()
        except BaseException as error:  # it is raised where it is waited for
            self._error = error

    def _write_manifest(self, number: int, step: int, metrics: Metrics) -> None:
        folder = self._run_dir / steps.FOLDER / str(step)
        problem: OSError | UserError | None = None
        try:
            files = manifest_of_hosts.entries(folder, number)
            if jax.process_index() == 0:
                if steps.METADATA not in files:  # it would be a complete checkpoint of nothing
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder / steps.METADATA))
                manifest.write(folder, Manifest(files, metrics, self._metric, time.time()))
        except (OSError, UserError) as raised:
            problem = raised
        told = manifest_of_hosts.outcome(number, "" if problem is None else str(problem))
        if problem is not None:
            raise problem
        if told:
            raise UserError(told)

    def _remove_old(self) -> None:
        try:
            known = steps.manifests(self._run_dir)
            for step in retention.doomed(known, self._config, self._metric):
                steps.remove(self._run_dir, step)
        except (OSError, UserError) as error:  # nothing is lost by it but space
            logging.getLogger(__name__).warning(
                "Old checkpoints in %s could not be removed: %s. It is tried again after the next save.",
                self._run_dir / steps.FOLDER,
                storage_errors.in_words(error),
            )
