#!/usr/bin/env python
"""How fast a model writes: tokens a second of `model/decoding.py`, beside transformers' `generate` in one sitting.

    python benchmarks/decode.py --peer
    python benchmarks/decode.py --peer --batch 8 --method beam --dtype bfloat16
    python benchmarks/decode.py --peer_only --batch 8 --attention eager --cache static --compile

Prints one JSON line for each who, dtype, method and batch: tokens written a second (the best beam's, with beams) in the
best of a few calls, each call's seconds, and seconds of the first one, compilation included. Ours has `ratio`, how many
times as fast as the peer it is. The two take turns. All rows have the same length and are written to the end: models
have random weights, and EOS is ruled out before the last token. Needs no TensorFlow; the peer needs `.[dev]`.
"""

import argparse
import itertools
import json
import os
import time
from collections.abc import Callable

import numpy as np

# What is timed: token ids [batch, inputs] to token ids [batch, outputs], back in NumPy.
Decode = Callable[[np.ndarray], np.ndarray]
BEAMS = 4


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 64], help="rows a call")
    parser.add_argument("--method", nargs="+", default=["greedy", "beam"], choices=["greedy", "beam"])
    dtypes = ["float32", "bfloat16"]
    parser.add_argument("--dtype", nargs="+", default=["float32"], choices=dtypes, help="of activations")
    parser.add_argument("--size", default="small", choices=["tiny", "mini", "small", "base", "large", "xl", "xxl"])
    parser.add_argument("--inputs", type=int, default=512, help="input tokens a row")
    parser.add_argument("--outputs", type=int, default=64, help="tokens to write a row")
    parser.add_argument("--device", choices=["cpu", "gpu", "tpu"], help="default: the best that JAX finds")
    parser.add_argument("--scan", action="store_true", help="loop over the layers instead of writing them out")
    parser.add_argument("--calls", type=int, default=3, help="calls to take the best of, after one that doesn't count")
    parser.add_argument("--peer", action="store_true", help="transformers too")
    parser.add_argument("--peer_only", action="store_true", help="transformers alone")
    parser.add_argument("--attention", default="sdpa", choices=["sdpa", "eager"], help="the peer's")
    parser.add_argument("--cache", default="dynamic", choices=["dynamic", "static"], help="the peer's")
    parser.add_argument("--compile", action="store_true", help="torch.compile the peer's step; wants --cache static")
    return parser.parse_args()


def load_model_config(arguments: argparse.Namespace, dtype: str):
    from t5x_mini import config

    bindings = [
        "MODEL_DIR=unused",
        "MIXTURE_OR_TASK_NAME=random_tokens",
        f"TASK_FEATURE_LENGTHS={{'inputs': {arguments.inputs}, 'targets': {arguments.outputs}}}",
        "TransformerConfig.vocab_size=32128",
        "BATCH_SIZE=1",
        "TRAIN_STEPS=1",
        f"DTYPE={dtype}",
        f"SCAN_LAYERS={arguments.scan}",
    ]
    return config.load([f"gin/models/t5_1_1/{arguments.size}.gin", "gin/optimizers/adafactor.gin"], bindings).model


def make_decode(config, params, method: str, outputs: int) -> Decode:
    import jax

    from t5x_mini.model.config import DecodingConfig
    from t5x_mini.model.decoding import decode

    answers = BEAMS if method == "beam" else 1
    decoding = DecodingConfig(method=method, num_decodes=answers, min_length=outputs, max_length=outputs)
    compiled = jax.jit(lambda params, inputs: decode(params, inputs, config, decoding, length=outputs).tokens[:, 0])
    return lambda inputs: np.asarray(compiled(params, inputs))


def timed(decode: Decode, inputs: np.ndarray, outputs: int) -> float:
    """Seconds of one call, whose answer must be complete."""
    start = time.perf_counter()
    tokens = decode(inputs)
    seconds = time.perf_counter() - start
    if tokens.shape != (len(inputs), outputs) or not (tokens[:, :-1] > 1).all():
        raise SystemExit(f"this is not {len(inputs)} rows of {outputs} tokens each: these times mean nothing\n{tokens}")
    return seconds


def compare(decoders: dict[str, Decode], inputs: np.ndarray, outputs: int, calls: int) -> dict[str, dict]:
    """Figures of each, timed in turns."""
    first = {who: timed(decode, inputs, outputs) for who, decode in decoders.items()}
    seconds: dict[str, list[float]] = {who: [] for who in decoders}
    for _ in range(calls):
        for who, decode in decoders.items():
            seconds[who].append(timed(decode, inputs, outputs))
    return {
        who: {
            "tokens_per_s": round(len(inputs) * outputs / min(taken), 1),
            "calls_s": [round(call, 3) for call in taken],
            "first_call_s": round(first[who], 1),
        }
        for who, taken in seconds.items()
    }


def main() -> None:
    arguments = parse_arguments()
    if arguments.device:
        os.environ["JAX_PLATFORMS"] = {"gpu": "cuda"}.get(arguments.device, arguments.device)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # on a GPU, the peer wants some of its memory
    import jax

    from t5x_mini.model.transformer import init_params

    device = jax.devices()[0]
    for dtype in arguments.dtype:
        config = load_model_config(arguments, dtype)
        params = model = None
        if not arguments.peer_only:
            params = jax.jit(init_params, static_argnums=0)(config, jax.random.key(0))
        if arguments.peer or arguments.peer_only:
            import hf_decode

            torch_device = {"gpu": "cuda"}.get(device.platform, "cpu")
            model = hf_decode.make_model(config, torch_device, arguments.attention)
        for method, batch in itertools.product(arguments.method, arguments.batch):
            decoders: dict[str, Decode] = {}
            if params is not None:
                decoders["t5x_mini"] = make_decode(config, params, method, arguments.outputs)
            if model is not None:
                beams = BEAMS if method == "beam" else 1
                decoders["transformers"] = hf_decode.make_decode(
                    model, beams, arguments.outputs, cache=arguments.cache, compiled=arguments.compile
                )
            inputs = np.random.default_rng(0).integers(2, config.vocab_size, (batch, arguments.inputs), dtype=np.int32)
            figures = compare(decoders, inputs, arguments.outputs, arguments.calls)
            if len(figures) == 2:
                ours, theirs = (figures[who]["tokens_per_s"] for who in ("t5x_mini", "transformers"))
                figures["t5x_mini"]["ratio"] = round(ours / theirs, 2)
            for who, row in figures.items():
                asked = {"size": arguments.size, "dtype": dtype, "method": method, "batch": batch}
                asked |= {"inputs": arguments.inputs, "outputs": arguments.outputs, "device": device.device_kind}
                print(json.dumps({"who": who, **asked, **row}), flush=True)


if __name__ == "__main__":
    from t5x_mini.kept_memory import restart_keeping_memory

    restart_keeping_memory()  # as t5x-mini does
    main()
