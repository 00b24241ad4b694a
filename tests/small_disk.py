"""Trains on a disk of a few MiB and does to it what a scenario says; a script for a mount namespace of its own.

    unshare --map-root-user --mount python small_disk.py SCENARIO FOLDER ARGUMENTS...

The disk is mounted at FOLDER/disk, and the run is in FOLDER/disk/run. What is left of it is copied to FOLDER/run, what
the command printed is in FOLDER/printed, and the exit status is the command's.
"""

import shutil
import subprocess
import sys
import time
from pathlib import Path

LIMIT_S = 200


class Disk:
    """The disk, and the process that trains on it."""

    def __init__(self, folder: Path, arguments: list[str]):
        self.folder, self.disk, self.run = folder, folder / "disk", folder / "disk" / "run"
        self._arguments, self._process = arguments, None
        self._limit = time.monotonic() + LIMIT_S
        self.disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", self.disk], check=True)

    def start(self) -> None:
        command = [sys.executable, "-m", "t5x_mini", *self._arguments]
        with (self.folder / "printed").open("w") as printed:
            self._process = subprocess.Popen(command, stdout=printed, stderr=subprocess.STDOUT)

    def wait_for_a_checkpoint(self) -> None:
        self._wait(lambda: any((self.run / "checkpoints").glob("*/manifest.json")))

    def wait_for_failed_saves(self, count: int) -> None:
        self._wait(lambda: (self.folder / "printed").read_text().count(": the save failed, ") >= count)

    def finish(self) -> int:
        return self._process.wait(timeout=self._limit - time.monotonic())

    def kill(self) -> None:
        self._process.kill()

    def fill(self) -> None:
        with (self.disk / "filling").open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1 << 12))
            except OSError:
                pass

    def free(self) -> None:
        (self.disk / "filling").unlink()

    def set_read_only(self) -> None:
        subprocess.run(["mount", "-o", "remount,ro", self.disk], check=True)

    def _wait(self, ready) -> None:
        while not ready():
            if self._process.poll() is not None or time.monotonic() > self._limit:
                raise SystemExit(f"it came to nothing:\n{(self.folder / 'printed').read_text()}")
            time.sleep(0.01)


def fills_up_for_a_while(disk: Disk) -> int:
    disk.start()
    disk.wait_for_a_checkpoint()
    disk.fill()
    disk.wait_for_failed_saves(2)
    disk.free()
    return disk.finish()


def stays_full(disk: Disk) -> int:
    disk.start()
    disk.wait_for_a_checkpoint()
    disk.fill()
    return disk.finish()


def is_full_from_the_start(disk: Disk) -> int:
    disk.fill()
    disk.start()
    return disk.finish()


def is_read_only(disk: Disk) -> int:
    disk.run.mkdir()
    disk.set_read_only()
    disk.start()
    return disk.finish()


def run_vanishes_for_a_while(disk: Disk) -> int:
    disk.start()
    disk.wait_for_a_checkpoint()
    disk.run.rename(disk.disk / "away")
    disk.wait_for_failed_saves(1)
    (disk.disk / "away").rename(disk.run)
    return disk.finish()


def run_is_removed(disk: Disk) -> int:
    disk.start()
    disk.wait_for_a_checkpoint()
    disk.run.rename(disk.disk / "removed")
    shutil.rmtree(disk.disk / "removed")
    return disk.finish()


def main() -> None:
    scenario, folder, *arguments = sys.argv[1:]
    disk = Disk(Path(folder), arguments)
    try:
        status = globals()[scenario](disk)
    finally:
        disk.kill()
    if disk.run.exists():
        shutil.copytree(disk.run, disk.folder / "run")
    sys.exit(status)


if __name__ == "__main__":
    main()
