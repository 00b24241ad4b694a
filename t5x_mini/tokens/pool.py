"""Processes that tokenise: started when there is work, kept from one split to the next, and ended with words."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pickle
import queue
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

from t5x_mini.errors import UserError
from t5x_mini.tokens.progress import TokenProgress
from t5x_mini.tokens.worker import Done, Failed, Job, Part, Progress


class WorkerPool:
    """Up to `workers` processes, of which each takes the next part when it has finished one."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._processes: list[subprocess.Popen] = []

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *error: object) -> None:
        self._end()

    def run(
        self, job: Job, parts: Sequence[Part], is_finished: Callable[[Part], bool], progress: TokenProgress
    ) -> list[Done]:
        """Has the parts written.

        Args:
          job: of which they are parts.
          parts: to write.
          is_finished: asked right before a part is handed out: another job may have written it meanwhile.
          progress: is told.

        Returns:
          What the processes reported, a message for each part written.

        Raises:
          UserError: from a process, or because one died.
        """
        if not parts:
            return []
        count = min(self._workers, len(parts))
        self._processes += [_start() for _ in range(count - len(self._processes))]
        # Two threads a core: while a process reads, or has nothing left to do, its core serves the others.
        job = dataclasses.replace(job, threads=min(self._workers, 2 * self._workers // count))
        waiting: queue.SimpleQueue[Part] = queue.SimpleQueue()
        for part in parts:
            waiting.put(part)
        with ThreadPoolExecutor(count) as threads:
            serving = [
                threads.submit(_serve, process, job, waiting, is_finished, progress)
                for process in self._processes[:count]
            ]
            try:
                finished, _ = wait(serving, return_when=FIRST_EXCEPTION)
                return [done for future in finished for done in future.result()]
            except BaseException:
                self._end()  # or the other threads would be waited for
                raise

    def _end(self) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()


def _start() -> subprocess.Popen:
    # What the parent can import, a worker can: a `write` function of the user's own, say.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    command = [sys.executable, "-m", "t5x_mini.tokens.worker"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)


def _serve(
    process: subprocess.Popen,
    job: Job,
    waiting: queue.SimpleQueue[Part],
    is_finished: Callable[[Part], bool],
    progress: TokenProgress,
) -> list[Done]:
    done = []
    with contextlib.suppress(queue.Empty):
        while True:
            part = waiting.get_nowait()
            if not is_finished(part):
                done.append(_write(process, job, part, progress))
            progress.finish(part)
    return done


def _write(process: subprocess.Popen, job: Job, part: Part, progress: TokenProgress) -> Done:
    """Has one part written. Raises UserError if that fails."""
    with contextlib.suppress(BrokenPipeError):  # why, is said below
        process.stdin.write(pickle.dumps((job, part)))
        process.stdin.flush()
    while True:
        try:
            message = pickle.load(process.stdout)
        except (EOFError, pickle.UnpicklingError):  # nothing, or a half message
            raise UserError(_how_it_ended(process.wait(), job, part)) from None
        match message:
            case Progress():
                progress.update(part, message)
            case Failed(text=text):
                raise UserError(text)
            case Done():
                return message


def _how_it_ended(code: int, job: Job, part: Part) -> str:
    where = f"A worker process, at part {part.index} of {part.count} of {job.folder}"
    if part.shards:
        where += f" ({part.shards[0].name}{' and following' if len(part.shards) > 1 else ''})"
    if code < 0:
        return (
            f"{where}, was ended by signal {-code}. Signal 9 is mostly the system's, when memory runs out: write fewer "
            "--workers. The same command goes on from there: what is finished is kept."
        )
    return f"{where}, failed; its own message is above. The same command goes on from there: what is finished is kept."
