#!/usr/bin/env python
"""How long a training step takes: the step that `t5x-mini train` runs, on random tokens.

    python benchmarks/train_step.py --size small --batch 4
    python benchmarks/train_step.py --size base --batch 64 --device gpu --dtype bfloat16 --remat minimal

Prints one JSON line: seconds a step (median), tokens a second (encoder and decoder positions), MFU where the device's
peak is known (else null), seconds to compile, and peak memory in GiB. The sizes are T5 1.1's, with a vocabulary of
32,128; the default shapes are T5's pretraining batch: 512 input tokens, 114 target tokens. Needs no TensorFlow.
"""

import argparse
import json
import os
import resource
import statistics
import time


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="small", choices=["tiny", "mini", "small", "base", "large", "xl", "xxl"])
    parser.add_argument("--batch", type=int, default=4, help="rows a step")
    parser.add_argument("--inputs", type=int, default=512, help="input tokens a row")
    parser.add_argument("--targets", type=int, default=114, help="target tokens a row")
    architectures = ["encoder_decoder", "prefix_lm", "causal_lm"]
    parser.add_argument("--architecture", default="encoder_decoder", choices=architectures)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"], help="of activations")
    parser.add_argument("--device", choices=["cpu", "gpu", "tpu"], help="default: the best that JAX finds")
    parser.add_argument("--optimizer", default="adafactor", choices=["adafactor", "adamw", "adamw_rms", "muon"])
    parser.add_argument("--remat", default="none", choices=["none", "minimal", "full", "offload"])
    parser.add_argument("--microbatches", type=int, default=1)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--unroll", action="store_true", help="write the layers out instead of looping over them")
    parser.add_argument("--steps", type=int, default=6, help="steps to take the median of, after two that don't count")
    return parser.parse_args()


def load_config(arguments: argparse.Namespace):
    from t5x_mini import config

    files = [f"gin/models/t5_1_1/{arguments.size}.gin", f"gin/optimizers/{arguments.optimizer}.gin"]
    bindings = [
        "MODEL_DIR=unused",
        "MIXTURE_OR_TASK_NAME=random_tokens",
        f"TASK_FEATURE_LENGTHS={{'inputs': {arguments.inputs}, 'targets': {arguments.targets}}}",
        "TransformerConfig.vocab_size=32128",
        f"BATCH_SIZE={arguments.batch}",
        "TRAIN_STEPS=1000000",
        f"ARCHITECTURE={arguments.architecture}",
        f"DTYPE={arguments.dtype}",
        f"REMAT={arguments.remat}",
        f"DROPOUT_RATE={arguments.dropout}",
        f"NUM_MICROBATCHES={arguments.microbatches}",
        f"SCAN_LAYERS={not arguments.unroll}",
    ]
    return config.load(files, bindings)


def random_batch(shapes, vocab_size: int):
    import numpy as np

    generator = np.random.default_rng(0)
    ones = ("decoder_loss_weights", "decoder_causal_attention")
    return {
        name: np.ones(shape.shape, np.int32)
        if name in ones
        else generator.integers(2, vocab_size, shape.shape, dtype=np.int32)
        for name, shape in shapes.items()
    }


def peak_gib(device) -> float:
    statistics_of_device = device.memory_stats() or {}
    if "peak_bytes_in_use" in statistics_of_device:
        return statistics_of_device["peak_bytes_in_use"] / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # kilobytes on Linux


def main() -> None:
    arguments = parse_arguments()
    if arguments.device:
        os.environ["JAX_PLATFORMS"] = {"gpu": "cuda"}.get(arguments.device, arguments.device)
    import jax

    from t5x_mini.train import flops
    from t5x_mini.train.run import assemble
    from t5x_mini.train.step import make_train_step

    run = assemble(load_config(arguments))
    config, partitioner = run.config, run.partitioner
    shapes = run.batch_shapes(arguments.batch)
    train_step = make_train_step(
        config.model, config.loss, config.optimizer, config.schedule, config.train, partitioner.axis_name
    )
    start = time.perf_counter()
    step = partitioner.compile_train_step(train_step, run.shapes, run.shardings, shapes)
    compile_s = time.perf_counter() - start

    state, batch = run.create_state(), partitioner.put(random_batch(shapes, config.model.vocab_size))
    seconds = []
    for _ in range(arguments.steps + 2):
        start = time.perf_counter()
        state, sums = step(state, batch)
        loss = float(sums["loss"])  # waits for the device
        seconds.append(time.perf_counter() - start)
    if not loss < float("inf"):
        raise SystemExit(f"the loss is {loss}: these times mean nothing")

    step_s = statistics.median(seconds[2:])
    devices = jax.devices()
    model_flops = flops.train_flops(config.model, arguments.batch, arguments.inputs, arguments.targets)
    peak = flops.peak_flops(devices[0].device_kind, devices[0].platform)
    row = {
        "who": "t5x_mini",
        **{name: value for name, value in vars(arguments).items() if name not in ("device", "steps")},
        "device": f"{len(devices)} x {devices[0].device_kind}",
        "parameters": sum(shape.size for shape in run.shapes.params.values()),
        "step_s": round(step_s, 4),
        "tokens_per_s": round(arguments.batch * (arguments.inputs + arguments.targets) / step_s, 1),
        "model_tflops_per_s": round(model_flops / step_s / 1e12, 4),
        "mfu": None if peak is None else round(model_flops / step_s / peak / len(devices), 4),
        "compile_s": round(compile_s, 2),
        "peak_gib": round(peak_gib(devices[0]), 2),
    }
    print(json.dumps(row))


if __name__ == "__main__":
    from t5x_mini.kept_memory import restart_keeping_memory

    restart_keeping_memory()  # as t5x-mini does
    main()
