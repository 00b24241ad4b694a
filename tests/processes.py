"""The real command line in several processes of one machine, each with CPU devices of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

TESTS = Path(__file__).parent
TIMEOUT_S = 240


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as server:
        server.bind(("localhost", 0))
        return server.getsockname()[1]


class Processes:
    """Processes that were started together, and what they print."""

    def __init__(self, commands: Sequence[Sequence[str]], folder: Path, name: str, devices: int):
        """Starts `python <command>` for each, with `devices` CPU devices; output goes to `<folder>/<name>-<k>.out`."""
        settings = {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
            "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS), str(folder)]),
        }
        self._outputs = [folder / f"{name}-{number}.out" for number in range(len(commands))]
        self.processes = []
        for command, output in zip(commands, self._outputs, strict=True):
            with output.open("w") as file:
                self.processes.append(
                    subprocess.Popen(
                        [sys.executable, *map(str, command)],
                        env={**os.environ, **settings},
                        cwd=folder,
                        stdout=file,
                        stderr=subprocess.STDOUT,
                    )
                )

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def wait(self, timeout_s: float = TIMEOUT_S) -> list[int]:
        """Their exit statuses, once all have ended."""
        deadline = time.monotonic() + timeout_s
        return [process.wait(timeout=max(deadline - time.monotonic(), 0.1)) for process in self.processes]

    def printed(self) -> list[str]:
        """What each has printed so far."""
        return [output.read_text() for output in self._outputs]

    def wait_to_print(self, number: int, text: str) -> None:
        """Returns once one has printed the text; what it leaves behind may do so after its end."""
        deadline = time.monotonic() + TIMEOUT_S
        while text not in self.printed()[number]:
            assert time.monotonic() < deadline, self.printed()[number]
            time.sleep(0.05)

    def succeed(self) -> list[str]:
        """What they printed, once all have ended well."""
        codes = self.wait()
        assert codes == [0] * len(codes), "\n".join(self.printed())
        return self.printed()

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Returns once it is so, while all of them still run."""
        deadline = time.monotonic() + TIMEOUT_S
        while not ready():
            assert all(process.poll() is None for process in self.processes), "\n".join(self.printed())
            assert time.monotonic() < deadline, "\n".join(self.printed())
            time.sleep(0.05)


def command_line(folder: Path, name: str, arguments: Sequence[str], count: int, devices: int) -> Processes:
    """`t5x-mini <arguments>` in `count` processes that make one run; in a single one, without a word about it."""
    commands = [["-m", "t5x_mini", *arguments] for _ in range(count)]
    if count > 1:
        port = free_port()
        for number, command in enumerate(commands):
            command += [f"--coordinator=localhost:{port}", f"--num_processes={count}", f"--process_id={number}"]
    return Processes(commands, folder, name, devices)
