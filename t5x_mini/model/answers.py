"""What all ways of decoding share: answers being written, and the logits that their tokens are chosen from."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from t5x_mini.model.cache import Cache

PAD_ID, EOS_ID = 0, 1

Step = Callable[[Cache, Int[Array, " r"]], tuple[Float[Array, "r v"], Cache]]
"""`cache.step` of a context."""

Change = Callable[[Float[Array, "r v"], Int[Array, "r length"], Int[Array, " r"]], Float[Array, "r v"]]
"""What the next token is chosen from: of the model's logits, the tokens written so far, and how many they are."""


class Answers(NamedTuple):
    """Answers as far as they are written.

    Attributes:
        tokens: 0 behind what is written.
        place: where the next token goes.
        ended: nothing more is written.
    """

    tokens: Int[Array, "*rows length"]
    place: Int[Array, "*rows"]
    ended: Bool[Array, "*rows"]

    def add(self, token: Int[Array, "*rows"]) -> Answers:
        """One more token in each answer that has not ended."""
        tokens = write_at(self.tokens, self.place, jnp.where(self.ended, PAD_ID, token))
        place = self.place + ~self.ended
        return Answers(tokens, place, self.ended | (token == EOS_ID) | (place >= tokens.shape[-1]))


def begin(rows: int, length: int, forced: Int[Array, "b f"] | None) -> Answers:
    """Answers that are `forced`, as far as that goes. One with EOS in it has ended."""
    tokens = jnp.zeros((rows, length), jnp.int32)
    if forced is not None:
        tokens = tokens.at[:, : forced.shape[1]].set(forced)
    place = jnp.sum(tokens != PAD_ID, axis=-1)
    return Answers(tokens, place, jnp.any(tokens == EOS_ID, axis=-1) | (place >= length))


def write_at(
    tokens: Int[Array, "*rows length"], place: Int[Array, "*rows"], token: Int[Array, "*rows"]
) -> Int[Array, "*rows length"]:
    """The tokens with one more at each row's place; unchanged where that is behind the end."""
    return jnp.where(jnp.arange(tokens.shape[-1]) == place[..., None], token[..., None], tokens)


def changed_by(callback: Change | None, min_length: int) -> Change:
    """The change of the logits by a callback, after which EOS is ruled out before `min_length` tokens."""

    def change(
        logits: Float[Array, "r v"], tokens: Int[Array, "r length"], place: Int[Array, " r"]
    ) -> Float[Array, "r v"]:
        if callback is not None:
            logits = callback(logits, tokens, place)
        if min_length:
            too_early = (place < min_length)[:, None] & (jnp.arange(logits.shape[-1]) == EOS_ID)
            logits = jnp.where(too_early, -jnp.inf, logits)
        return logits

    return change


def log_partition(logits: Float[Array, "... v"]) -> Float[Array, "..."]:
    """What to subtract from the logits to make them log-probabilities."""
    return jax.nn.logsumexp(logits, axis=-1)
