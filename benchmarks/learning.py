#!/usr/bin/env python
"""Does a model learn as well here as elsewhere? nanoT5's recipe (Nawrot 2023), beside transformers' T5 in PyTorch.

    python benchmarks/learning.py --text train.txt.gz --valid valid.txt.gz --peer same own
    python benchmarks/learning.py --text train.txt.gz --valid valid.txt.gz --peer same own --size base --batch 128 \
        --inputs 512 --targets 114 --steps 10000 --dtype bfloat16 --compile

Span corruption of a text file, a document a line. Both sides see the same batches of tokens in the same order: T5 1.1,
no dropout, AdamW scaled by parameters' RMS (peak 0.02, betas 0.9 and 0.999, eps 1e-6, no weight decay), a cosine to
1e-5 after a warm-up, gradients clipped at 1, the mean over target tokens without z-loss. The warm-up is nanoT5's share
of the steps, and starts from 0, not from half the peak. The peer starts from our parameters (`same`), from those that
transformers draws (`own`), or both, as two models.

Prints one JSON line: for each, the loss on held-out text after the last step, by seed, in nats a token; seconds a step
and in all. The peer has `ratio`, how many times as long as ours its steps take, the median over turns of ten steps,
which they take one after the other; and `apart`, how far its training losses are from ours, relative, at most, over
the first ten steps and over all. Needs no TensorFlow; the peer needs `.[dev]`.
"""

import argparse
import contextlib
import dataclasses
import functools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from t5x_mini.config import RunConfig
    from t5x_mini.train.run import Run

HostBatch = Mapping[str, np.ndarray]
TASK = "text"
TURN = 10  # steps that one side makes before the other's turn
SMALLEST = "quickstart"


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", required=True, help="to train on: .txt or .txt.gz, a document a line")
    parser.add_argument("--valid", required=True, help="held-out text")
    sizes = [SMALLEST, "tiny", "mini", "small", "base", "large"]
    parser.add_argument("--size", default=SMALLEST, choices=sizes, help="gin/quickstart.gin's, or one of T5 1.1's")
    parser.add_argument("--vocabulary", default="docs_8k", help="as VOCABULARY in gin")
    parser.add_argument("--inputs", type=int, default=128, help="input tokens a row")
    parser.add_argument("--targets", type=int, default=29, help="target tokens a row")
    parser.add_argument("--batch", type=int, default=16, help="rows a step")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--warmup", type=int, help="steps; default: 10000 of 65536")
    parser.add_argument("--peak", type=float, default=0.02, help="learning rate")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="of activations")
    parser.add_argument("--device", choices=["cpu", "gpu", "tpu"], help="default: the best that JAX finds")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of parameters, order and masks")
    parser.add_argument("--held_out", type=int, default=20, help="batches of held-out text")
    parser.add_argument("--peer", nargs="*", default=[], choices=["same", "own"], help="transformers too")
    parser.add_argument("--compile", action="store_true", help="torch.compile the peer")
    arguments = parser.parse_args(words)
    if arguments.warmup is None:
        arguments.warmup = round(arguments.steps * 10_000 / 65_536)
    return arguments


def load_config(arguments: argparse.Namespace, tokens_dir: str, seed: int) -> "RunConfig":
    from t5x_mini import config

    size = "gin/quickstart.gin" if arguments.size == SMALLEST else f"gin/models/t5_1_1/{arguments.size}.gin"
    bindings = [
        "MODEL_DIR=unused",
        f"MIXTURE_OR_TASK_NAME={TASK}",
        f"{TASK}/PretrainingTask.files={ {'train': arguments.text, 'validation': arguments.valid} }",
        f"VOCABULARY={arguments.vocabulary}",
        f"TASK_FEATURE_LENGTHS={ {'inputs': arguments.inputs, 'targets': arguments.targets} }",
        f"BATCH_SIZE={arguments.batch}",
        f"TRAIN_STEPS={arguments.steps}",
        f"RANDOM_SEED={seed}",
        f"DTYPE={arguments.dtype}",
        "DROPOUT_RATE=0.0",
        "Z_LOSS=0.0",
        "DATA_FEED=tokens",
        f"TOKENS_DIR={tokens_dir}",
        f"Cosine.peak={arguments.peak}",
        f"Cosine.warmup_steps={arguments.warmup}",
        "AdamW.eps=1e-6",
    ]
    return config.load([size, "gin/optimizers/adamw_rms.gin"], bindings)


class Learner(Protocol):
    """A model on its way through the batches."""

    compile_s: float

    def train(self, batches: Iterable[HostBatch]) -> list[float]: ...

    def cross_entropy(self, batches: Iterable[HostBatch]) -> float: ...


class Ours:
    """The step that `t5x-mini train` runs.

    Attributes:
        state: parameters, optimiser state and step.
        compile_s: seconds to compile the step.
    """

    def __init__(self, run: "Run") -> None:
        from t5x_mini.train.step import make_train_step

        config = run.config
        start = time.perf_counter()
        step = make_train_step(
            config.model, config.loss, config.optimizer, config.schedule, config.train, run.partitioner.axis_name
        )
        shapes = run.batch_shapes(config.feed.batch_size)
        self._step = run.partitioner.compile_train_step(step, run.shapes, run.shardings, shapes)
        self.compile_s = time.perf_counter() - start
        self._run = run
        self.state = run.create_state()

    def train(self, batches: Iterable[HostBatch]) -> list[float]:
        """An update a batch; nats a target token before each."""
        import jax

        losses = []
        for batch in batches:
            self.state, sums = self._step(self.state, self._run.partitioner.put(batch))
            losses.append((sums["loss"], sums["weights"]))
        jax.block_until_ready(self.state.params)
        return [float(loss) / float(weights) for loss, weights in losses]

    def cross_entropy(self, batches: Iterable[HostBatch]) -> float:
        """Nats a target token."""
        sums = [self._measure(self.state.params, self._run.partitioner.put(batch)) for batch in batches]
        return sum(float(each["loss"]) for each in sums) / sum(float(each["weights"]) for each in sums)

    @functools.cached_property
    def _measure(self) -> Callable:
        from t5x_mini.train.step import make_eval_step

        run, config = self._run, self._run.config
        step = make_eval_step(config.model, config.loss, run.partitioner.axis_name)
        shapes = run.batch_shapes(config.feed.batch_size)
        return run.partitioner.compile_eval_step(step, run.shapes.params, run.shardings.params, shapes)


@dataclasses.dataclass
class Course:
    """How a learner fared: the loss of each step, the seconds of each turn, the held-out loss at the end."""

    losses: list[float] = dataclasses.field(default_factory=list)
    turns_s: list[float] = dataclasses.field(default_factory=list)
    held_out: float = float("nan")


def take_turns(learners: Mapping[str, Learner], batch: Callable[[int], HostBatch], steps: int) -> dict[str, Course]:
    """Trains all of them, `TURN` batches each in turn; the time of making batches doesn't count."""
    courses = {who: Course() for who in learners}
    for first in range(0, steps, TURN):
        batches = [batch(k) for k in range(first, min(first + TURN, steps))]
        for who, learner in learners.items():
            start = time.perf_counter()
            courses[who].losses += learner.train(batches)
            courses[who].turns_s.append(time.perf_counter() - start)
        now = ", ".join(f"{who} {course.losses[-1]:.3f}" for who, course in courses.items())
        print(f"step {first + len(batches)}: {now}", file=sys.stderr, flush=True)
    return courses


def learn(arguments: argparse.Namespace, tokens_dir: str, seed: int) -> tuple[dict[str, Course], dict[str, Learner]]:
    """Trains each side from one seed: how they fared, and the learners."""
    import jax

    from t5x_mini.evaluate.held_out import read_held_out
    from t5x_mini.feed import feeds
    from t5x_mini.train.run import assemble

    run = assemble(load_config(arguments, tokens_dir, seed))
    feed = feeds.make_feed(run.config.feed, run.config.model.architecture)
    held_out = read_held_out(run, "validation", arguments.held_out)[TASK]
    learners: dict[str, Learner] = {"t5x_mini": Ours(run)}
    for start in arguments.peer:
        from hf_learning import Peer

        params = jax.device_get(learners["t5x_mini"].state.params) if start == "same" else None
        learners[f"transformers_{start}_start"] = Peer(run.config, feed.batch(0), params, compiled=arguments.compile)
    courses = take_turns(learners, feed.batch, arguments.steps)
    for who, learner in learners.items():
        courses[who].held_out = learner.cross_entropy(held_out)
    return courses, learners


def figures(courses: list[dict[str, Course]], compile_s: Mapping[str, float], steps: int) -> dict[str, dict]:
    """What is told of each learner, over the seeds' courses."""
    told = {}
    for who in compile_s:
        mine = [of_seed[who] for of_seed in courses]
        held_out = [course.held_out for course in mine]
        told[who] = {
            "held_out": [round(loss, 4) for loss in held_out],
            "mean": round(statistics.mean(held_out), 4),
            "spread": round(statistics.stdev(held_out), 4) if len(held_out) > 1 else None,
            "step_s": round(statistics.median(sum(course.turns_s) for course in mine) / steps, 4),
            "train_s": [round(sum(course.turns_s), 1) for course in mine],
            "compile_s": round(compile_s[who], 1),
        }
        if who != "t5x_mini":
            pairs = [(of_seed["t5x_mini"], of_seed[who]) for of_seed in courses]
            told[who] |= {"ratio": _ratio(pairs), "apart": {"first_10": _apart(pairs, 10), "all": _apart(pairs, steps)}}
    return told


def _ratio(pairs: list[tuple[Course, Course]]) -> float:
    turns = [zip(ours.turns_s, theirs.turns_s, strict=True) for ours, theirs in pairs]
    return round(statistics.median(theirs / ours for seed in turns for ours, theirs in seed), 2)


def _apart(pairs: list[tuple[Course, Course]], steps: int) -> float:
    losses = [zip(ours.losses[:steps], theirs.losses[:steps], strict=True) for ours, theirs in pairs]
    return float(f"{max(abs(theirs / ours - 1) for seed in losses for ours, theirs in seed):.1e}")


def main(words: list[str] | None = None) -> None:
    arguments = parse_arguments(words)
    if arguments.device:
        os.environ["JAX_PLATFORMS"] = {"gpu": "cuda"}.get(arguments.device, arguments.device)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # on a GPU, the peer wants some of its memory
    import jax

    from t5x_mini.tokens.tokenize import tokenize

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        tokenize(load_config(arguments, folder, 0).feed, TASK)
        outcomes = [learn(arguments, folder, seed) for seed in arguments.seeds]
    compile_s = {who: learner.compile_s for who, learner in outcomes[0][1].items()}
    told = figures([courses for courses, _ in outcomes], compile_s, arguments.steps)
    asked = {name: value for name, value in vars(arguments).items() if name not in ("text", "valid", "device", "peer")}
    tokens = arguments.steps * arguments.batch * (arguments.inputs + arguments.targets)
    print(json.dumps({**asked, "device": jax.devices()[0].device_kind, "tokens": tokens, **told}))


if __name__ == "__main__":
    main()
