"""Batches that ruin a step: known by their tokens, they have their loss, and so its gradient, multiplied by a number.

`python poisoned.py '{"<mark>": "nan"}' train …` is `t5x-mini train …` with such batches, in a process that is killed as
soon as a roll-back is written down.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping

import jax.numpy as jnp
import numpy as np
import pytest

from t5x_mini.train import roll_back, step


def mark(batch):
    """A number by which a batch is known, of numpy's arrays or JAX's."""
    tokens = batch["decoder_target_tokens"]
    weights = np.arange(tokens.size, dtype=np.int32).reshape(tokens.shape) % 1009 + 1
    return (tokens * weights).sum(dtype=np.int32)


@contextlib.contextmanager
def poisoned(factors: Mapping[int, float]) -> Iterator[None]:
    """Multiplies the losses of batches with these marks; what is compiled inside knows of no others."""
    batch_sums = step.batch_sums

    def ruined(params, batch, *arguments, **named):
        sums = batch_sums(params, batch, *arguments, **named)
        factor = jnp.float32(1)
        for known, value in factors.items():
            factor = jnp.where(mark(batch) == known, jnp.float32(value), factor)
        return sums | {name: sums[name] * factor for name in ("objective", "loss")}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "batch_sums", ruined)
        yield


def _killed_behind(function):
    def call(*arguments, **named):
        function(*arguments, **named)
        os.kill(os.getpid(), signal.SIGKILL)

    return call


if __name__ == "__main__":
    from t5x_mini import cli

    roll_back.decide = _killed_behind(roll_back.decide)
    with poisoned({int(known): float(value) for known, value in json.loads(sys.argv[1]).items()}):
        sys.exit(cli.main(sys.argv[2:]))
