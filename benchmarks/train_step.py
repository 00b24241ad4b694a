#!/usr/bin/env python
"""How long a training step takes: the step that `t5x-mini train` runs, on random tokens, beside PyTorch's.

    python benchmarks/train_step.py --size small --batch 4
    python benchmarks/train_step.py --size small --batch 4 --peer bfloat16 bfloat16+compile
    python benchmarks/train_step.py --size base --batch 32 64 128 --device gpu --scan --peer bfloat16+compile

Prints one JSON line for each batch and who: seconds a step (the median), tokens a second (encoder and decoder
positions), MFU where the device's peak is known (else null), seconds until the first step is done (compilation, above
all), and a device's peak memory in GiB. Ours has `ratio`, how many times as fast as the fastest peer it is. All
take turns, step by step. The peer is transformers' T5 with its own Adafactor or PyTorch's fused AdamW. The sizes are
T5 1.1's, with a vocabulary of 32,128; the default shapes are T5's pretraining batch: 512 input tokens, 114 target
tokens. Needs no TensorFlow; the peers need `.[dev]`.
"""

import argparse
import functools
import json
import os
import statistics
import time
from collections.abc import Callable

import numpy as np

PEERS = ("float32", "bfloat16", "bfloat16+compile")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="small", choices=["tiny", "mini", "small", "base", "large", "xl", "xxl"])
    parser.add_argument("--batch", type=int, nargs="+", default=[4], help="rows a step")
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
    parser.add_argument("--scan", action="store_true", help="loop over the layers instead of writing them out")
    parser.add_argument("--steps", type=int, default=6, help="steps to take the median of, after two that don't count")
    parser.add_argument("--peer", nargs="*", default=[], choices=PEERS, help="transformers in PyTorch too, so computed")
    arguments = parser.parse_args()
    if arguments.peer and (arguments.architecture != "encoder_decoder" or arguments.dropout):
        parser.error(
            "the peer is an encoder-decoder without dropout: leave out --architecture and --dropout, or --peer"
        )
    if arguments.peer and arguments.optimizer not in ("adafactor", "adamw"):
        parser.error(f"the peer has no {arguments.optimizer}: write --optimizer adafactor or adamw")
    return arguments


def load_config(
    *,
    size: str,
    batch: int,
    inputs: int,
    targets: int,
    dtype: str,
    architecture: str = "encoder_decoder",
    optimizer: str = "adafactor",
    remat: str = "none",
    microbatches: int = 1,
    dropout: float = 0.0,
    scan: bool = False,
):
    """The configuration of such a run; `saving.py` and `input_cost.py` take theirs from here too."""
    from t5x_mini import config

    files = [f"gin/models/t5_1_1/{size}.gin", f"gin/optimizers/{optimizer}.gin"]
    bindings = [
        "MODEL_DIR=unused",
        "MIXTURE_OR_TASK_NAME=random_tokens",
        f"TASK_FEATURE_LENGTHS={{'inputs': {inputs}, 'targets': {targets}}}",
        "TransformerConfig.vocab_size=32128",
        f"BATCH_SIZE={batch}",
        "TRAIN_STEPS=1000000",
        f"ARCHITECTURE={architecture}",
        f"DTYPE={dtype}",
        f"REMAT={remat}",
        f"DROPOUT_RATE={dropout}",
        f"NUM_MICROBATCHES={microbatches}",
        f"SCAN_LAYERS={scan}",
    ]
    return config.load(files, bindings)


def random_batch(shapes, vocab_size: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    ones = ("decoder_loss_weights", "decoder_causal_attention")
    return {
        name: np.ones(shape.shape, np.int32)
        if name in ones
        else generator.integers(2, vocab_size, shape.shape, dtype=np.int32)
        for name, shape in shapes.items()
    }


def make_step(config, batch: int) -> tuple[Callable[[], float], int]:
    """Our step, which gives its loss, and the number of parameters it trains."""
    from t5x_mini.train.run import assemble
    from t5x_mini.train.start import compile_step

    run = assemble(config)
    compiled = compile_step(run)
    state = run.create_state()
    on_device = run.partitioner.put(random_batch(run.batch_shapes(batch), run.config.model.vocab_size))

    def step() -> float:
        nonlocal state
        state, sums = compiled(state, on_device)
        return float(sums["loss"])  # waits for the device

    return step, sum(shape.size for shape in run.shapes.params.values())


def timed(step: Callable[[], float]) -> float:
    """Seconds of one step, whose loss must be a number."""
    start = time.perf_counter()
    loss = step()
    seconds = time.perf_counter() - start
    if not loss < float("inf"):
        raise SystemExit(f"the loss is {loss}: these times mean nothing")
    return seconds


def compare(makers: dict[str, Callable[[], tuple]], steps: int) -> dict[str, dict]:
    """Figures of each who, whose steps take turns; `makers` give a step and the number of parameters."""
    contenders, figures = {}, {}
    for who, make in makers.items():
        start = time.perf_counter()
        contenders[who], parameters = make()
        timed(contenders[who])
        figures[who] = {"parameters": parameters, "first_step_s": round(time.perf_counter() - start, 2)}
        timed(contenders[who])
    seconds: dict[str, list[float]] = {who: [] for who in contenders}
    for _ in range(steps):
        for who, step in contenders.items():
            seconds[who].append(timed(step))
    return {who: figures[who] | {"step_s": round(statistics.median(taken), 4)} for who, taken in seconds.items()}


def main() -> None:
    arguments = parse_arguments()
    if arguments.device:
        os.environ["JAX_PLATFORMS"] = {"gpu": "cuda"}.get(arguments.device, arguments.device)
    if arguments.peer:
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # on a GPU, the peer wants some of its memory
    import jax

    for batch in arguments.batch:
        try:
            measure(arguments, batch)
        except Exception as error:  # jaxlib's and PyTorch's own, of many names
            if "out of memory" not in str(error).lower():
                raise
            print(json.dumps({"batch": batch, "error": "out of memory", "device": jax.devices()[0].device_kind}))


def measure(arguments: argparse.Namespace, batch: int) -> None:
    """Prints a JSON line for each who."""
    import jax

    from t5x_mini.train import flops

    devices = jax.devices()
    torch_device = {"gpu": "cuda"}.get(devices[0].platform, "cpu")
    asked = {name: value for name, value in vars(arguments).items() if name not in ("device", "steps", "peer", "batch")}
    config = load_config(batch=batch, **asked)
    makers: dict[str, Callable[[], tuple]] = {"t5x_mini": lambda: make_step(config, batch)}
    if arguments.peer:
        import hf_train_step

        for precision in arguments.peer:
            asked_of_peer = (arguments.inputs, arguments.targets, precision, arguments.optimizer, torch_device)
            makers[f"transformers {precision}"] = functools.partial(
                hf_train_step.make_step, config.model, batch, *asked_of_peer
            )
    figures = compare(makers, arguments.steps)
    if arguments.peer:
        fastest = min(row["step_s"] for who, row in figures.items() if who != "t5x_mini")
        figures["t5x_mini"]["ratio"] = round(fastest / figures["t5x_mini"]["step_s"], 2)
    model_flops = flops.train_flops(config.model, batch, arguments.inputs, arguments.targets)
    peak = flops.peak_flops(devices[0].device_kind, devices[0].platform)
    for who, row in figures.items():
        rate = model_flops / row["step_s"] / len(devices)
        peak_bytes = (devices[0].memory_stats() or {}).get("peak_bytes_in_use") if who == "t5x_mini" else None
        about_speed = {
            "tokens_per_s": round(batch * (arguments.inputs + arguments.targets) / row["step_s"], 1),
            "model_tflops_per_s": round(rate / 1e12, 4),
            "mfu": None if peak is None else round(rate / peak, 4),
            "peak_gib": None if peak_bytes is None else round(peak_bytes / 2**30, 2),
            "device": f"{len(devices)} x {devices[0].device_kind}",
        }
        print(json.dumps({"who": who, "batch": batch, **asked, **row, **about_speed}), flush=True)


if __name__ == "__main__":
    from t5x_mini.kept_memory import restart_keeping_memory

    restart_keeping_memory()  # as t5x-mini does
    main()
