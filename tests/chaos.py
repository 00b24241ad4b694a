"""Kills training runs at random moments, and holds what they end with against runs that nobody touched.

    python tests/chaos.py --kills=200 --seed=1

SIGKILL hits the real command line in a process of its own: at its start, while it restores or compiles, in a step, in a
save, in an evaluation, in the closing report. Started again and again, each run ends sometime. Then its arrays
(parameters, optimiser state, random key) and all rows of its metrics, but for times, are compared bit for bit with an
undisturbed run's. Each restart has to go on from the newest complete checkpoint.

The configurations are both feeds with each architecture, with microbatches and dropout. Two run at a time. What is
random is drawn from the seed, which is printed; where a kill hits is looked up afterwards, in what the process left.

With --damage, the tests that do other damage follow, those with the marker of that name, and a table of what held. The
exit status says whether all did.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import contextlib
import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import tiny_runs  # noqa: E402

from t5x_mini.checkpoint.steps import FOLDER, numbered, steps_of  # noqa: E402
from t5x_mini.model.config import ARCHITECTURES  # noqa: E402

FEEDS = ("seqio", "tokens")
STAGES = ("start", "restore", "compile", "step", "save", "evaluation", "closing")
# How often each is aimed at. Starts are many in what a machine's trouble hits, and cost little here.
_WEIGHTS = {"start": 2, "restore": 1, "compile": 2, "step": 5, "save": 5, "evaluation": 3, "closing": 1}
STEPS, SAVE_PERIOD, EVAL_PERIOD = 40, 4, 6
_MACROS = {
    "TRAIN_STEPS": STEPS,
    "CHECKPOINT_PERIOD": SAVE_PERIOD,
    "EVAL_PERIOD": EVAL_PERIOD,
    "NUM_MICROBATCHES": 2,
    "DROPOUT_RATE": 0.1,
    "CLOSING_REPORT": True,
}
_FROM_TOKENS = """
MIXTURE_OR_TASK_MODULE = None
MIXTURE_OR_TASK_NAME = 'sentences'
sentences/PretrainingTask.files = {{
    'train': '{folder}/tiny_sentences_train.txt', 'validation': '{folder}/tiny_sentences_validation.txt'
}}
VOCABULARY = '{folder}/tiny.model'
DATA_FEED = 'tokens'
TOKENS_DIR = '{folder}/tokens'
"""
_LIMIT_S = 600  # of one process
_TORN = ".orbax-checkpoint-tmp"
_ROWS_END = 1 << 15  # bytes; more than two rows


@dataclasses.dataclass(frozen=True)
class Kill:
    """One of them: how far the process was."""

    configuration: str
    stage: str
    step: int


class Broken(Exception):
    """A promise was not kept; the text says which."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A configuration, and the folder where its runs are.

    Attributes:
        name: `tokens/causal_lm`.
        arguments: of `t5x-mini`, but for the folder of the run.
        environment: of its processes.
        folder: for its runs.
        programs: where what it compiled is kept.
    """

    name: str
    arguments: list[str]
    environment: dict[str, str]
    folder: Path
    programs: Path

    def start(self, run: Path) -> Process:
        return Process([*self.arguments, f"--gin.MODEL_DIR={str(run)!r}"], self.environment, run)


class Process:
    """A training process, and what can be seen of it from outside."""

    def __init__(self, arguments: Sequence[str], environment: dict[str, str], run: Path):
        self.run = run
        self._output = run.with_name(f"{run.name}.out")
        with self._output.open("w") as output:
            command = [sys.executable, "-m", "t5x_mini", *arguments]
            self._process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        self._limit = time.monotonic() + _LIMIT_S

    def output(self) -> str:
        return self._output.read_text(errors="replace")

    def is_running(self) -> bool:
        if time.monotonic() > self._limit:
            self.kill()
            raise Broken(f"a process did not end in {_LIMIT_S} s:\n{self.output()}")
        return self._process.poll() is None

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Returns once it is so, or the process has ended."""
        while not ready() and self.is_running():
            time.sleep(0.005)

    def kill(self) -> bool:
        """Whether it was still running."""
        self._process.send_signal(signal.SIGKILL)
        return self._process.wait() == -signal.SIGKILL

    def finish(self) -> int:
        self.wait_until(lambda: False)
        return self._process.wait()


def make_case(tiny: tiny_runs.Tiny, feed: str, architecture: str) -> Case:
    """The case of this name; its text and its tokens are there already."""
    folder = tiny.folder / "chaos" / feed / architecture
    folder.mkdir(parents=True)
    files = [f"--gin_file=gin/architectures/{architecture}.gin"]
    if feed == "tokens":
        files.append(f"--gin_file={_token_gin(tiny.folder)}")
    programs = folder / "compiled"
    environment = tiny.environment() | {"JAX_COMPILATION_CACHE_DIR": str(programs), "JAX_PLATFORMS": "cpu"}
    environment["XLA_FLAGS"] = "--xla_force_host_platform_device_count=1"
    return Case(f"{feed}/{architecture}", tiny.arguments("train", *files, **_MACROS), environment, folder, programs)


def tokenize(tiny: tiny_runs.Tiny) -> None:
    """Makes the tokens that the cases of the token feed read."""
    words = ["tokenize", f"--gin_file={_token_gin(tiny.folder)}", "--task=sentences", "--workers=1"]
    done = tiny_runs.run([*words, f"--output={tiny.folder / 'tokens'}"])
    if done.code:
        raise RuntimeError(done.err)


def _token_gin(folder: Path) -> Path:
    path = folder / "chaos_tokens.gin"
    path.write_text(_FROM_TOKENS.format(folder=folder))
    return path


def torment(case: Case, kills: int, rng: random.Random, tell: Callable[[Kill], None]) -> int:
    """Kills processes of this case so many times, lets the last run end, and compares each that ended.

    Args:
        tell: is called with each kill.

    Returns:
        Runs that were compared with the undisturbed one.

    Raises:
        Broken: something was lost, was there twice, or is another number.
    """
    expected = case.folder / "undisturbed"
    process = case.start(expected)
    if process.finish():
        raise Broken(f"{case.name}: the undisturbed run failed:\n{process.output()}")
    done = compared = 0
    while not compared or done < kills:
        run = case.folder / f"run-{compared}"
        for _ in range(done, kills):
            kill = _kill_one(case, run, rng)
            if kill is None:  # it has ended
                break
            done += 1
            tell(kill)
        _let_it_end(case, run)
        compare(run, expected)
        compared += 1
        shutil.rmtree(run)
    return compared


def _kill_one(case: Case, run: Path, rng: random.Random) -> Kill | None:
    """Starts a process and kills it; None, where it was done before."""
    aim, delay = rng.choices(STAGES, [_WEIGHTS[stage] for stage in STAGES])[0], rng.random()
    if aim == "compile" and rng.random() < 0.3:
        shutil.rmtree(case.programs, ignore_errors=True)
    newest = max(steps_of(run), default=0) if run.exists() else 0
    step = newest + rng.randint(1, 2 * SAVE_PERIOD)
    process = case.start(run)
    _aim(process, aim, step, delay)
    if not process.kill():
        if process.finish():
            raise Broken(f"{case.name}: a run could not go on:\n{process.output()}")
        return None
    _check_restart(case, process, newest)
    return Kill(case.name, *_where(process))


def _aim(process: Process, aim: str, step: int, delay: float) -> None:
    """Waits for the moment, with a share of randomness (0 to 1)."""
    run = process.run
    if aim == "start":
        time.sleep(6 * delay)
        return
    if aim in ("restore", "compile"):
        words = "mesh over" if aim == "restore" else "compiling the step"
        process.wait_until(lambda: words in process.output())
        time.sleep((0.5 if aim == "restore" else 2) * delay)
        return
    if aim == "closing":  # from close to it, where a run is not far yet
        step = STEPS if step + 4 * SAVE_PERIOD > STEPS else step
    process.wait_until(lambda: _last_step(run) >= min(step, STEPS))
    if aim == "step":
        time.sleep(0.05 * delay)
    elif aim == "save":
        process.wait_until(lambda: _is_saving(run))
        time.sleep(0.1 * delay)
    elif aim == "evaluation":
        process.wait_until(lambda: _is_evaluating(run))
        time.sleep(0.02 * delay)
    else:
        time.sleep(0.5 * delay)


def _check_restart(case: Case, process: Process, newest: int) -> None:
    """That what was saved counts: a process that came to its state took it from the newest complete checkpoint."""
    output = process.output()
    if "compiling the step" in output and newest and f"resuming from step {newest} in" not in output:
        raise Broken(f"{case.name}: step {newest} was saved, and not gone on from:\n{output}")


def _let_it_end(case: Case, run: Path) -> None:
    newest = max(steps_of(run), default=0) if run.exists() else 0
    process = case.start(run)
    if process.finish():
        raise Broken(f"{case.name}: a run could not go on:\n{process.output()}")
    _check_restart(case, process, newest)


def compare(run: Path, expected: Path) -> None:
    """Raises Broken unless both runs ended with the same, bit for bit, and the first of them left nothing torn."""
    for rows in (tiny_runs.training_rows, tiny_runs.evaluation_rows):
        there, wanted = tiny_runs.without_times(rows(run)), tiny_runs.without_times(rows(expected))
        if there != wanted:
            raise Broken(f"{run}: {_first_difference(there, wanted)}")
    if [row["step"] for row in tiny_runs.training_rows(run)] != list(range(1, STEPS + 1)):
        raise Broken(f"{run}: not one row a step")
    _compare_arrays(run, expected)
    torn = [path.name for path in (run / FOLDER).iterdir() if _TORN in path.name]
    torn += [str(step) for step in set(numbered(run)) - set(steps_of(run))]
    if torn:
        raise Broken(f"{run}: interrupted saves were left behind: {torn}")


def _compare_arrays(run: Path, expected: Path) -> None:
    there, wanted = (jax.tree_util.tree_leaves_with_path(tiny_runs.arrays(one, STEPS)) for one in (run, expected))
    if [path for path, _ in there] != [path for path, _ in wanted]:
        raise Broken(f"{run}: other arrays")
    for (path, array), (_, other) in zip(there, wanted, strict=True):
        if np.asarray(array).tobytes() != np.asarray(other).tobytes():
            raise Broken(f"{run}: {jax.tree_util.keystr(path)} is another one")


def _first_difference(there: list[dict], wanted: list[dict]) -> str:
    for row, other in zip(there, wanted, strict=False):
        if row != other:
            names = [name for name in row.keys() | other.keys() if row.get(name) != other.get(name)]
            return f"step {other['step']}: {', '.join(f'{n}: {row.get(n)}, not {other.get(n)}' for n in sorted(names))}"
    return f"{len(there)} rows, not {len(wanted)}"


# Where a process is, by what it has left


def _where(process: Process) -> tuple[str, int]:
    """The stage that it was killed in, and its last step."""
    run, output = process.run, process.output()
    step = _last_step(run)
    if "compiling the step" not in output:
        return "restore" if "mesh over" in output else "start", step
    if step == STEPS and not _is_evaluating(run) and not _is_saving(run):
        return "closing", step
    if _is_saving(run):
        return "save", step
    if _is_evaluating(run):
        return "evaluation", step
    return "step" if "\nstep " in output else "compile", step


def _last_step(run: Path) -> int:
    return (_last_row(run) or {"step": 0})["step"]


def _last_row(run: Path) -> dict | None:
    """The last whole one; of the file's end alone, since it is looked at often."""
    try:
        with (run / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _ROWS_END))
            lines = file.read().splitlines(keepends=True)
    except FileNotFoundError:
        return None
    return next((json.loads(line) for line in reversed(lines[-2:]) if line.endswith(b"\n") and line[:1] == b"{"), None)


def _is_saving(run: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):  # it changes while it is looked at
        return any(_TORN in path.name for path in (run / FOLDER).iterdir()) or set(numbered(run)) != set(steps_of(run))
    return False


def _is_evaluating(run: Path) -> bool:
    row = _last_row(run)
    return row is not None and "loss" in row and (row["step"] % EVAL_PERIOD == 0 or row["step"] == STEPS)


# The command


class Progress:
    """Says what was hit, and how long it will take."""

    def __init__(self, total: int):
        self.kills: list[Kill] = []
        self._total, self._start, self._lock = total, time.monotonic(), threading.Lock()

    def __call__(self, kill: Kill) -> None:
        with self._lock:
            self.kills.append(kill)
            done = len(self.kills)
            left = (time.monotonic() - self._start) / done * (self._total - done)
            print(
                f"kill {done}/{self._total}: {kill.configuration}, after step {kill.step}, in {kill.stage}; "
                f"{left // 60:.0f}:{left % 60:02.0f} left",
                flush=True,
            )

    def table(self) -> str:
        """Kills by configuration and stage."""
        count = collections.Counter((kill.configuration, kill.stage) for kill in self.kills)
        names = sorted({kill.configuration for kill in self.kills})
        lines = [f"{'kills':26}" + "".join(f"{stage:>12}" for stage in (*STAGES, "all"))]
        for name in (*names, "all"):
            numbers = [sum(count[one, stage] for one in (names if name == "all" else [name])) for stage in STAGES]
            lines.append(f"{name:26}" + "".join(f"{number:>12}" for number in (*numbers, sum(numbers))))
        return "\n".join(lines)


@contextlib.contextmanager
def cases(configurations: Sequence[str], folder: Path) -> Iterator[list[Case]]:
    """The corpus, and a case for each configuration."""
    with tiny_runs.tiny(folder) as tiny:
        if any(name.startswith("tokens/") for name in configurations):
            tokenize(tiny)
        yield [make_case(tiny, *name.split("/")) for name in configurations]


def kill_runs(configurations: Sequence[str], kills: int, seed: int, folder: Path, jobs: int = 2) -> dict:
    """`torment` for all configurations, `jobs` at a time; what came of it, for a line of JSON."""
    progress, start = Progress(kills), time.monotonic()
    shares = [kills // len(configurations) + (k < kills % len(configurations)) for k in range(len(configurations))]
    compared, broken = 0, []
    with cases(configurations, folder) as made, concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        futures = [
            pool.submit(torment, case, share, random.Random(f"{seed} {case.name}"), progress)
            for case, share in zip(made, shares, strict=True)
        ]
        for future in futures:
            try:
                compared += future.result()
            except Broken as error:
                broken.append(str(error))
                print(f"BROKEN: {error}", file=sys.stderr)
    print(progress.table())
    stages = collections.Counter(kill.stage for kill in progress.kills)
    return {
        "seed": seed,
        "configurations": len(configurations),
        "kills": len(progress.kills),
        "stages": {stage: stages[stage] for stage in STAGES},
        "runs_compared": compared,
        "broken": broken,
        "seconds": round(time.monotonic() - start),
    }


class DamageTests:
    """A pytest plugin that gathers what the tests with the marker `damage` say, by their promise."""

    def __init__(self) -> None:
        self._promises: dict[str, str] = {}
        self.trials: dict[str, int] = collections.Counter()
        self.failed: dict[str, list[str]] = collections.defaultdict(list)
        self.skipped: dict[str, int] = collections.Counter()

    def pytest_collection_modifyitems(self, items) -> None:
        marked = [item for item in items if item.get_closest_marker("damage")]
        self._promises = {item.nodeid: item.get_closest_marker("damage").args[0] for item in marked}

    def pytest_runtest_logreport(self, report) -> None:
        promise = self._promises.get(report.nodeid)
        if promise is None:
            return
        if report.failed:
            self.failed[promise].append(report.nodeid)
        elif report.skipped:
            self.skipped[promise] += 1
        elif report.when == "call":
            self.trials[promise] += dict(report.user_properties).get("trials", 1)

    def rows(self) -> list[dict]:
        """A promise each: its trials, and what came of them."""
        promises = dict.fromkeys(self._promises.values())
        return [
            {
                "promise": promise,
                "trials": self.trials[promise],
                "skipped": self.skipped[promise],
                "failed": self.failed[promise],
            }
            for promise in promises
        ]


def damage_tests() -> list[dict]:
    """Runs them, slow ones too."""
    import pytest

    plugin = DamageTests()
    with contextlib.chdir(Path(__file__).parent.parent):
        pytest.main(["-q", "-m", "damage", "-p", "no:cacheprovider"], plugins=[plugin])
    return plugin.rows()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = [f"{feed}/{architecture}" for architecture in ARCHITECTURES for feed in FEEDS]
    parser.add_argument("--kills", type=int, default=200, help="of all configurations together")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31), help="default: a new one")
    parser.add_argument("--configurations", nargs="+", choices=every, default=every, metavar="FEED/ARCHITECTURE")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--damage", action="store_true", help="run the tests that do other damage too")
    parser.add_argument("--output", type=Path, help="a file for the line of JSON that is printed at the end")
    options = parser.parse_args(arguments)
    print(f"seed {options.seed}, {options.kills} kills, {len(options.configurations)} configurations", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        result = kill_runs(options.configurations, options.kills, options.seed, Path(folder), options.jobs)
    held = not result["broken"]
    if options.damage:
        result["damage"] = damage_tests()
        held = held and not any(row["failed"] for row in result["damage"])
        for row in result["damage"]:
            outcome = f"BROKEN by {len(row['failed'])}" if row["failed"] else "held"
            skipped = f", {row['skipped']} skipped" if row["skipped"] else ""
            print(f"{row['promise']:100} {row['trials']:5} trials{skipped}: {outcome}")
    print(json.dumps(result))
    if options.output:
        options.output.write_text(json.dumps(result) + "\n")
    return 0 if held else 1


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    sys.exit(main())
