#!/usr/bin/env python
"""What the token feed and the training loop cost a step: T5 1.1, three kinds of steps that take turns in one process.

    python benchmarks/input_cost.py --size small --batch 4

`constant` steps have one batch, which lies on the device, and wait for the numbers of the step before, as all kinds
do. `feed` steps have the token feed's batches, through the prefetcher. `loop` steps are those of `t5x-mini train`: the
feed, the clock, the heartbeat, and the reporter, which writes a row of metrics for each. Stretches of `--stretch`
steps alternate. Prints one JSON line: milliseconds a step of each kind, medians of the stretches, and the ratios of
`feed` and `loop` to `constant`, medians of those of neighbouring stretches; the same in seconds of all cores
(`cpu_...`), which bear a busy machine better, and are the only ones that tell where the device is not the CPU;
`feed_rows_per_s`, how many rows a second the feed makes by itself, and `needed_rows_per_s`, how many these steps take.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import train_step

KINDS = ("constant", "feed", "loop")
TOKENS = 2_000_000


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="small", choices=["tiny", "mini", "small", "base", "large", "xl"])
    parser.add_argument("--batch", type=int, default=4, help="rows a step")
    parser.add_argument("--inputs", type=int, default=512, help="input tokens a row")
    parser.add_argument("--targets", type=int, default=114, help="target tokens a row")
    parser.add_argument("--dtype", default="float32", choices=["bfloat16", "float32"], help="of activations")
    parser.add_argument("--remat", default="none", choices=["none", "minimal", "full"])
    parser.add_argument("--stretch", type=int, default=5, help="steps of a stretch")
    parser.add_argument("--rounds", type=int, default=5, help="stretches of each kind")
    return parser.parse_args()


def random_tokens(vocabulary_size: int, folder: Path):
    """A task of random tokens on disk, in T5's objective."""
    from t5x_mini.feed.token_sources import TokenTask
    from t5x_mini.tasks import vocabularies
    from t5x_mini.tasks.objectives import SpanCorruption
    from t5x_mini.tokens.manifest import Contents
    from t5x_mini.tokens.store import TokenStore
    from t5x_mini.tokens.writer import write_store

    fields = dict(task="random", split="train", kind="stream", features=("targets",), eos=(), dtype="uint16")
    contents = Contents(**fields, definition={}, vocabulary={}, source="")
    tokens = np.random.default_rng(0).integers(3, vocabulary_size, (TOKENS // 1000, 1000)).tolist()
    write_store(folder / "random", contents, [[[document] for document in tokens]])
    vocabulary = vocabularies.load("docs_8k", 100)
    store = TokenStore(folder / "random")
    return TokenTask(name="random", store=store, vocabulary=vocabulary, objective=SpanCorruption(), rate=1.0)


class Steps:
    """The three kinds of steps; each call is one. They share a state, which goes on from one to the next."""

    def __init__(self, run, step: Callable, batches: Iterator, constant, folder: Path):
        from t5x_mini.train.divergence import Divergence
        from t5x_mini.train.metrics import Clock
        from t5x_mini.train.presence import Presence
        from t5x_mini.train.reporter import Reporter

        self.run, self.step, self.batches, self.constant_batch = run, step, batches, constant
        self.state, self.done, self.before = run.create_state(), 0, None
        self.clock = Clock()
        self.presence = Presence(folder, run.total_steps)
        self.divergence = Divergence(run.config.train)
        self.reporter = Reporter(
            run, self.clock, folder, 0, None, resumed=False, enabled=True, divergence=self.divergence
        )

    def constant(self) -> None:
        self._read_late(self.constant_batch)

    def feed(self) -> None:
        self._read_late(next(self.batches)[0])

    def loop(self) -> None:
        """The body of `train/loop.py::_Training._steps`, where no evaluation and no checkpoint is due."""
        self.done += 1
        with self.clock.lost("data"):
            batch, _ = next(self.batches)
        self.state, sums = self.step(self.state, batch, *self.divergence.limits(self.done))
        self.reporter.add(self.done, sums)
        self.presence.note(self.done - 1)

    def wait(self) -> None:
        """Until all steps are done and reported."""
        self.reporter.flush()
        jax.block_until_ready(self.state)

    def _read_late(self, batch) -> None:
        self.state, sums = self.step(self.state, batch)
        if self.before is not None:
            jax.device_get(self.before)
        self.before = sums


def main() -> None:
    arguments = parse_arguments()
    from t5x_mini.feed.batch import prefetch
    from t5x_mini.feed.token_feed import TokenFeed
    from t5x_mini.train.run import assemble
    from t5x_mini.train.start import compile_step

    asked = {name: value for name, value in vars(arguments).items() if name not in ("stretch", "rounds")}
    run = assemble(train_step.load_config(**asked))
    with tempfile.TemporaryDirectory() as name:
        task = random_tokens(8000, Path(name))
        alone = TokenFeed(run.config.feed, run.config.model.architecture, [task])
        constant = run.partitioner.put(next(alone))
        feed = TokenFeed(run.config.feed, run.config.model.architecture, [task])
        with prefetch(feed, run.partitioner.put, run.config.feed.prefetch) as batches:
            steps = Steps(run, compile_step(run), batches, constant, Path(name))
            with steps.presence, steps.reporter:
                steps.presence.begin(0, steps.clock)
                times = take_turns(steps, arguments.stretch, arguments.rounds)
        rows_per_s = rows_alone(alone, arguments.batch)
    row = {"who": "t5x_mini", **vars(arguments), "device": f"{len(jax.devices())} x {jax.devices()[0].device_kind}"}
    row |= summary(times, arguments.stretch)
    row |= {"feed_rows_per_s": rows_per_s, "needed_rows_per_s": round(1000 * arguments.batch / row["constant_ms"], 1)}
    print(json.dumps(row))


def take_turns(steps: Steps, stretch: int, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds, and seconds of all cores, of each stretch of each kind; those of the first round don't count."""
    times: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    for number in range(rounds + 1):
        for kind in KINDS if number % 2 else reversed(KINDS):
            steps.wait()
            start = time.perf_counter(), time.process_time()
            for _ in range(stretch):
                getattr(steps, kind)()
            steps.wait()
            times[kind].append((time.perf_counter() - start[0], time.process_time() - start[1]))
    return {kind: seconds[1:] for kind, seconds in times.items()}


def summary(times: dict[str, list[tuple[float, float]]], stretch: int) -> dict[str, float | list[float]]:
    """Medians over the stretches."""
    found: dict[str, float | list[float]] = {}
    for clock, prefix in enumerate(("", "cpu_")):
        for kind in KINDS:
            found[f"{prefix}{kind}_ms"] = round(1000 * statistics.median(t[clock] for t in times[kind]) / stretch, 3)
        for kind in KINDS[1:]:
            ratios = [other[clock] / one[clock] for one, other in zip(times["constant"], times[kind], strict=True)]
            found[f"{prefix}{kind}_ratio"] = round(statistics.median(ratios), 4)
            found[f"{prefix}{kind}_ratios"] = [round(ratio, 3) for ratio in ratios]
    return found


def rows_alone(feed: Iterator, batch: int, seconds: float = 2.0) -> int:
    """Rows a second that the feed makes while nothing else is done."""
    start, batches = time.perf_counter(), 0
    while (passed := time.perf_counter() - start) < seconds:
        next(feed)
        batches += 1
    return round(batches * batch / passed)


if __name__ == "__main__":
    from t5x_mini.kept_memory import restart_keeping_memory

    restart_keeping_memory()  # as t5x-mini does
    main()
