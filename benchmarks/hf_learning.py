"""The peer of `learning.py`: nanoT5's way to train, in PyTorch with transformers' T5."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
import transformers

from t5x_mini.checkpoint import layout
from t5x_mini.checkpoint.huggingface import names
from t5x_mini.checkpoint.huggingface.config import hf_config

if TYPE_CHECKING:
    from t5x_mini.config import RunConfig
    from t5x_mini.model.config import TransformerConfig
    from t5x_mini.train.optimizers import AdamW
    from t5x_mini.train.schedules import Cosine

HostBatch = Mapping[str, np.ndarray]


class AdamWScale:
    """AdamW whose steps are scaled by `max(1e-3, RMS(param))`, tensor by tensor (nanoT5's optimiser of this name).

    `eps` is added to the root of the mean that is corrected for its start (Kingma & Ba 2015, algorithm 1, and
    `torch.optim.AdamW`); nanoT5 adds it before the correction, where it weighs up to 30 times as much at first.
    """

    def __init__(self, params: Iterable[torch.nn.Parameter], settings: AdamW) -> None:
        self._settings, self._updates = settings, 0
        self._params = [(param, torch.zeros_like(param), torch.zeros_like(param)) for param in params]

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        settings = self._settings
        self._updates += 1
        to_mean, to_square = (1 - b**self._updates for b in (settings.b1, settings.b2))
        for param, mean, square in self._params:
            mean.lerp_(param.grad, 1 - settings.b1)
            square.mul_(settings.b2).addcmul_(param.grad, param.grad, value=1 - settings.b2)
            direction = (mean / to_mean) / ((square / to_square).sqrt_() + settings.eps)
            scale = torch.linalg.vector_norm(param) / param.numel() ** 0.5
            param.sub_(learning_rate * scale.clamp(min=1e-3) * direction)


def cosine(schedule: Cosine, step: int) -> float:
    """A straight line from 0 to the peak, then half a cosine down to the final rate."""
    if step < schedule.warmup_steps:
        return schedule.peak * step / schedule.warmup_steps
    progress = (step - schedule.warmup_steps) / (schedule.total_steps - schedule.warmup_steps)
    return schedule.final + (schedule.peak - schedule.final) * (1 + math.cos(math.pi * progress)) / 2


class Peer:
    """transformers' T5 on its way through the same batches; see `learning.Ours`.

    Args:
        config: what ours is trained with: AdamW scaled by parameters' RMS without weight decay, a cosine, no z-loss,
            no label smoothing, no dropout.
        batch: of the shapes that will come, to compile with.
        params: ours, to start from; None: transformers' own initialisation, drawn from the run's seed.
        compiled: use `torch.compile`.

    Attributes:
        compile_s: seconds of the first forward and backward pass, which changes nothing.
    """

    def __init__(
        self, config: RunConfig, batch: HostBatch, params: Mapping[str, np.ndarray] | None, *, compiled: bool = False
    ) -> None:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.set_float32_matmul_precision("high" if self._device == "cuda" else "highest")
        self._config = config
        self._model = make_model(config.model, config.train.random_seed, params).to(self._device).train()
        self._forward = torch.compile(self._model) if compiled else self._model
        self._optimizer = AdamWScale(self._model.parameters(), config.optimizer)
        self._step = 0
        start = time.perf_counter()
        self._loss(batch).backward()
        self._wait()
        self.compile_s = time.perf_counter() - start
        self._model.zero_grad(set_to_none=True)

    def train(self, batches: Iterable[HostBatch]) -> list[float]:
        """An update a batch; nats a target token before each."""
        losses = []
        for batch in batches:
            loss = self._loss(batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._config.train.clip_global_norm)
            self._optimizer.step(cosine(self._config.schedule, self._step))
            self._model.zero_grad(set_to_none=True)
            self._step += 1
            losses.append(loss.detach())
        self._wait()
        return [float(loss) for loss in losses]

    @torch.inference_mode()
    def cross_entropy(self, batches: Iterable[HostBatch]) -> float:
        """Nats a target token."""
        nats = tokens = 0.0
        with self._evaluating():
            for batch in batches:
                count = (batch["decoder_loss_weights"] > 0).sum()
                if count:
                    nats, tokens = nats + float(self._loss(batch)) * count, tokens + count
        return float(nats / tokens)

    def _loss(self, batch: HostBatch) -> torch.Tensor:
        """The mean over target tokens that carry loss, as transformers' own with -100 for the others."""
        tensors = {name: torch.from_numpy(rows).long().to(self._device) for name, rows in batch.items()}
        inputs, targets = tensors["encoder_input_tokens"], tensors["decoder_target_tokens"]
        with torch.autocast(self._device, torch.bfloat16, enabled=self._config.model.dtype == "bfloat16"):
            logits = self._forward(
                input_ids=inputs,
                attention_mask=(inputs > 0).long(),
                decoder_input_ids=tensors["decoder_input_tokens"],
                use_cache=False,
            ).logits
        labels = targets.masked_fill(tensors["decoder_loss_weights"] == 0, -100)
        return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten())

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        self._model.eval()
        try:
            yield
        finally:
            self._model.train()

    def _wait(self) -> None:
        if self._device == "cuda":
            torch.cuda.synchronize()


def make_model(
    config: TransformerConfig, seed: int, params: Mapping[str, np.ndarray] | None
) -> transformers.T5ForConditionalGeneration:
    """T5 with a TransformerConfig's sizes and our parameters, or with those that transformers draws."""
    torch.manual_seed(seed)
    model = transformers.T5ForConditionalGeneration(
        transformers.T5Config.from_dict(hf_config(config, config.dropout_rate))
    )
    if not config.logits_via_embedding:
        # transformers 5 ties a new model's head whatever its config says. This is what version 4, and nanoT5, draw.
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.shared.weight))
    if params is not None:
        on_disk = layout.flatten(layout.to_disk({"params": params}))
        stored = {names.stored(name): torch.tensor(np.asarray(array)) for name, array in on_disk.items()}
        tensors = {place.name: tensor.T if place.transposed else tensor for place, tensor in stored.items()}
        left = model.load_state_dict(tensors, strict=False)
        missing = set(left.missing_keys) - set(names.COPIES_OF_SHARED)
        if missing or left.unexpected_keys:
            raise SystemExit(f"not the same model: {sorted(missing)} {left.unexpected_keys}")
    return model
