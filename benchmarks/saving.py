#!/usr/bin/env python
"""What saving behind the steps costs the training loop: T5 1.1, a save every so many steps against none.

    python benchmarks/saving.py --size small --batch 4 --inputs 128 --targets 32

Stretches of `--period` steps alternate: one begins with a save, of all that a run saves and in the way that it does
(arrays, position, manifest with checksums, removal of old ones), the next has none. Prints one JSON line: seconds of a
stretch without and with (medians), and the cost, the difference as a share of the first; `blocked_s`, how long the call
of `save` took; `late_s`, how long the save still took when the stretch was over; the checkpoint's size in MB. The
shorter the steps, the larger the share, so the default has rows far shorter than T5's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import jax
import train_step


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="small", choices=["tiny", "mini", "small", "base"])
    parser.add_argument("--batch", type=int, default=4, help="rows a step")
    parser.add_argument("--inputs", type=int, default=128, help="input tokens a row")
    parser.add_argument("--targets", type=int, default=32, help="target tokens a row")
    parser.add_argument("--dtype", default="float32", choices=["bfloat16", "float32"], help="of activations")
    parser.add_argument("--period", type=int, default=50, help="steps of a stretch")
    parser.add_argument("--pairs", type=int, default=3, help="stretches of each kind")
    parser.add_argument("--folder", type=Path, help="where to save; default: a temporary folder")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    from t5x_mini.checkpoint.config import CheckpointConfig
    from t5x_mini.checkpoint.manager import Checkpoints
    from t5x_mini.train.run import assemble
    from t5x_mini.train.start import compile_step

    sizes = {name: getattr(arguments, name) for name in ("size", "batch", "inputs", "targets", "dtype")}
    run = assemble(train_step.load_config(**sizes, scan=True))
    config, partitioner = run.config, run.partitioner
    step = compile_step(run)
    state = run.create_state()
    batch = partitioner.put(train_step.random_batch(run.batch_shapes(arguments.batch), config.model.vocab_size))

    def stretch(state):
        for _ in range(arguments.period):
            state, sums = step(state, batch)
            float(sums["loss"])  # as the loop does, which reads each step's numbers
        return state

    seconds: dict[bool, list[float]] = {False: [], True: []}
    blocked, late = [], []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        checkpoints = Checkpoints(folder, CheckpointConfig(keep=1))
        checkpoints.save(state, b"", config.model, partitioner)  # compiles what takes the state apart
        checkpoints.wait()
        state, sums = step(state, batch)
        float(sums["loss"])
        for number in range(2 * arguments.pairs):
            saves = number % 2 == 1
            start = time.perf_counter()
            if saves:
                checkpoints.save(state, b"", config.model, partitioner)
                blocked.append(time.perf_counter() - start)
            state = stretch(state)
            seconds[saves].append(time.perf_counter() - start)
            if saves:
                end = time.perf_counter()
                checkpoints.wait()
                late.append(time.perf_counter() - end)
        newest = Path(folder) / "checkpoints" / str(checkpoints.latest_step())
        size = sum(path.stat().st_size for path in newest.rglob("*") if path.is_file())
        checkpoints.close()
    without, with_saves = (statistics.median(seconds[saves]) for saves in (False, True))
    row = {
        "who": "t5x_mini",
        **{name: value for name, value in vars(arguments).items() if name != "folder"},
        "device": f"{len(jax.devices())} x {jax.devices()[0].device_kind}",
        "without_s": [round(value, 2) for value in seconds[False]],
        "with_s": [round(value, 2) for value in seconds[True]],
        "cost": round(with_saves / without - 1, 4),
        "blocked_s": round(statistics.median(blocked), 3),
        "late_s": round(statistics.median(late), 3),
        "checkpoint_mb": round(size / 1e6, 1),
    }
    print(json.dumps(row))


if __name__ == "__main__":
    from t5x_mini.kept_memory import restart_keeping_memory

    restart_keeping_memory()  # as t5x-mini does
    main()
