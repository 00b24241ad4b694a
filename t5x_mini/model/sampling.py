"""Writing answers one by one: the most likely token each time, or one drawn by its probability."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from t5x_mini.model.answers import PAD_ID, Answers, Change, Step, log_partition
from t5x_mini.model.cache import Cache
from t5x_mini.model.config import DecodingConfig
from t5x_mini.model.top_k import argmax, blocks, top_k

MIN_TEMPERATURE = 1e-4  # T5X's: below, the most likely token is taken

Choose = Callable[[Float[Array, "r v"], Int[Array, " r"]], Int[Array, " r"]]
"""From logits, and the place in its answer that each row has come to, to tokens."""


class _State(NamedTuple):
    answers: Answers
    scores: Float[Array, " r"]
    newest: Int[Array, " r"]


def write(
    step: Step, cache: Cache, logits: Float[Array, "r v"], answers: Answers, *, choose: Choose, change: Change
) -> tuple[Int[Array, "r length"], Float[Array, " r"]]:
    """Tokens and scores of all answers, each written until its EOS or its end.

    Args:
        step: reads the newest tokens, and gives the logits of the next ones.
        cache: before any token is read.
        logits: of each answer's first token to be written.
        answers: as they begin.
        choose: the next token of each row.
        change: of the logits, before a token is chosen.
    """

    def add(state: _State, logits: Float[Array, "r v"]) -> _State:
        answers = state.answers
        changed = change(logits, answers.tokens, answers.place)
        token = jnp.where(answers.ended, PAD_ID, choose(changed, answers.place))
        gained = jnp.take_along_axis(changed, token[:, None], axis=1)[:, 0] - log_partition(logits)
        return _State(answers.add(token), state.scores + jnp.where(answers.ended, 0.0, gained), token)

    def read_and_add(carry: tuple[_State, Cache]) -> tuple[_State, Cache]:
        state, cache = carry
        logits, cache = step(cache, state.newest)
        return add(state, logits), cache

    nothing = jnp.zeros(len(logits))
    first = add(_State(answers, nothing, nothing.astype(jnp.int32)), logits)
    state, _ = jax.lax.while_loop(lambda carry: ~jnp.all(carry[0].answers.ended), read_and_add, (first, cache))
    return state.answers.tokens, state.scores


def most_likely(logits: Float[Array, "r v"], place: Int[Array, " r"]) -> Int[Array, " r"]:
    """A `Choose` that takes the most likely token."""
    del place
    return argmax(logits)


def sampler(config: DecodingConfig, keys: Key[Array, " r"], temperature: Float[Array, " r"]) -> Choose:
    """A `Choose` that draws from the logits over the temperature, of which `top_k` and then `top_p` leave some.

    What a row draws depends on its own key, logits and place, and on no other row.

    Args:
        config: with `top_k` and `top_p`.
        keys: one a row.
        temperature: of each row; up to 1e-4 the most likely token is taken.
    """

    def choose(logits: Float[Array, "r v"], place: Int[Array, " r"]) -> Int[Array, " r"]:
        scaled = logits / jnp.maximum(temperature, MIN_TEMPERATURE)[:, None]
        if config.top_k:
            scaled = keep_top_k(scaled, config.top_k)
        if config.top_p < 1.0:
            scaled = keep_top_p(scaled, config.top_p)
        drawn = draw(jax.vmap(jax.random.fold_in)(keys, place), scaled)
        return jnp.where(temperature > MIN_TEMPERATURE, drawn, argmax(logits))

    return choose


def keep_top_k(logits: Float[Array, "r v"], k: int) -> Float[Array, "r v"]:
    """-inf but for the `k` largest, and what is as large as the least of them."""
    values, _ = top_k(logits, min(k, logits.shape[-1]))
    least = jnp.min(values, axis=-1, keepdims=True)  # for `values[:, -1:]` XLA would sort, which takes 20 times as long
    return jnp.where(logits < least, -jnp.inf, logits)


def keep_top_p(logits: Float[Array, "r v"], p: float) -> Float[Array, "r v"]:
    """-inf but for the likeliest that have probability `p` together (Holtzman et al. 2020).

    A token stays if those likelier than it have less than `p` together. The least probability that stays is found by
    halving, 30 times, the range of floats from 0 to 1, which are in the order of their bits: sorting a vocabulary
    takes a CPU fifty times as long.
    """
    probability = jax.nn.softmax(logits, axis=-1)
    bits = jax.lax.bitcast_convert_type(probability, jnp.int32)
    one = jax.lax.bitcast_convert_type(jnp.float32(1.0), jnp.int32)

    def halve(_: Int[Array, ""], between: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = between
        middle = (low + high) // 2
        stays = jnp.sum(jnp.where(bits > middle[:, None], probability, 0.0), axis=-1) < p
        return jnp.where(stays, low, middle + 1), jnp.where(stays, middle, high)

    none = jnp.zeros(len(logits), jnp.int32)
    _, least = jax.lax.fori_loop(0, 30, halve, (none, jnp.full_like(none, one)))
    return jnp.where(bits < least[:, None], -jnp.inf, logits)


def draw(keys: Key[Array, " r"], logits: Float[Array, "r v"]) -> Int[Array, " r"]:
    """A token of each row, by its probability: first its block, then the token in it.

    This is the same distribution as drawing among all at once, with hundreds of random numbers instead of one a token,
    which would cost a CPU as much as a step of a small model.
    """
    in_blocks = blocks(logits)
    first, second = jnp.unstack(jax.vmap(jax.random.split)(keys), axis=1)
    block = jax.vmap(jax.random.categorical)(first, jax.nn.logsumexp(in_blocks, axis=-1))
    of_block = jnp.take_along_axis(in_blocks, block[:, None, None], axis=1)[:, 0]
    return block * in_blocks.shape[-1] + jax.vmap(jax.random.categorical)(second, of_block)
