"""The peer of `train_step.py`: a training step of transformers' T5 in PyTorch, for the same sizes, shapes and work."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import hf_decode
import torch
from transformers.optimization import Adafactor

if TYPE_CHECKING:
    from t5x_mini.model.config import TransformerConfig


def make_step(
    config: TransformerConfig, batch: int, inputs: int, targets: int, precision: str, optimizer: str, device: str
) -> tuple[Callable[[], float], int]:
    """A step that gives its loss, and the number of parameters it trains.

    Parameters are float32; `bfloat16` is autocast's, what PyTorch offers that comes nearest to ours.
    """
    model = hf_decode.make_model(config, device, "sdpa").float().train()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.set_float32_matmul_precision("high" if device == "cuda" else "highest")
    if optimizer == "adafactor":
        update = Adafactor(model.parameters(), lr=1e-2, relative_step=False, scale_parameter=True, warmup_init=False)
    else:
        update = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
    forward = torch.compile(model) if precision.endswith("+compile") else model
    generator = torch.Generator().manual_seed(0)
    ids, labels = (
        torch.randint(2, 32000, (batch, length), generator=generator).to(device) for length in (inputs, targets)
    )

    def step() -> float:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=precision.startswith("bfloat16")):
            loss = forward(input_ids=ids, labels=labels).loss
        loss.backward()
        update.step()
        update.zero_grad(set_to_none=True)
        return loss.item()  # waits for the device

    return step, sum(param.numel() for param in model.parameters())
