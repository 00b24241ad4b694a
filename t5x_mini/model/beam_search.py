"""T5X's beam search: its candidates, its scores, its rule to stop.

Each row has `n` live beams, which are still being written, and the `n` best answers that are finished. Every step looks
at the 2n likeliest ways to go on from the live ones: if n of them are finished by it, n others are left to live.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from t5x_mini.model.answers import EOS_ID, Answers, Change, Step, log_partition, write_at
from t5x_mini.model.cache import Cache
from t5x_mini.model.top_k import top_k

NEG_INF = -1.0e7  # T5X's: what is ruled out stays comparable


class _State(NamedTuple):
    place: Int[Array, " b"]
    live: Int[Array, "b n length"]
    log_probs: Float[Array, "b n"]
    finished: Int[Array, "b n length"]
    scores: Float[Array, "b n"]
    is_finished: Bool[Array, "b n"]
    newest: Int[Array, "b n"]
    parents: Int[Array, "b n"]


def search(
    step: Step,
    cache: Cache,
    logits: Float[Array, "b v"],
    answers: Answers,
    *,
    beams: int,
    length_penalty: float,
    prompt_lengths: Int[Array, " b"],
    change: Change,
) -> tuple[Int[Array, "b n length"], Float[Array, "b n"]]:
    """The best answers found and their scores, the best first.

    A finished answer's score is its log-probability over `penalty`. A row for which no beam finished returns its live
    beams, scored by their log-probabilities alone. Places that no answer was found for hold 0 and score -1e7.

    Args:
        step: reads the newest tokens, and gives the logits of the next ones.
        cache: of `b * beams` rows, before any token is read.
        logits: of each row's first token to be written.
        answers: as those of each row begin.
        beams: answers a row.
        length_penalty: alpha.
        prompt_lengths: counted, as T5X does, into the length of what a decoder-only model writes.
        change: of the logits, before tokens are chosen.
    """
    length = answers.tokens.shape[-1]
    last_penalty = penalty(prompt_lengths + length + 1, length_penalty)  # T5X counts BOS here and nowhere else

    def go_on(carry: tuple[_State, Cache]) -> Bool[Array, ""]:
        state, _ = carry
        best_live = state.log_probs[:, :1] / last_penalty[:, None]
        worst_finished = jnp.min(state.scores, axis=1, keepdims=True)
        settled = jnp.all(jnp.where(state.is_finished, worst_finished, NEG_INF) > best_live, axis=1)
        return ~jnp.all(settled | (state.place >= length))

    def extend(state: _State, logits: Float[Array, "r v"]) -> _State:
        written = state.live.reshape(-1, length)
        changed = change(logits, written, jnp.repeat(state.place, beams))
        log_probs, ids, beam = _candidates(changed, log_partition(logits), state.log_probs)
        place = jnp.broadcast_to(state.place[:, None], ids.shape)
        tokens = write_at(_take(state.live, beam), place, ids)
        ends = ids == EOS_ID

        live_log_probs, kept = jax.lax.top_k(log_probs + ends * NEG_INF, beams)
        new_scores = log_probs / penalty(prompt_lengths + state.place + 1, length_penalty)[:, None] + ~ends * NEG_INF
        scores, best = jax.lax.top_k(jnp.concatenate([state.scores, new_scores], axis=1), beams)
        extended = _State(
            place=state.place + 1,
            live=_take(tokens, kept),
            log_probs=live_log_probs,
            finished=_take(jnp.concatenate([state.finished, tokens], axis=1), best),
            scores=scores,
            is_finished=_take(jnp.concatenate([state.is_finished, ends], axis=1), best),
            newest=_take(ids, kept),
            parents=_take(beam, kept),
        )
        return _where(state.place < length, extended, state)

    def read_and_extend(carry: tuple[_State, Cache]) -> tuple[_State, Cache]:
        state, cache = carry
        parents = (jnp.arange(len(state.parents))[:, None] * beams + state.parents).reshape(-1)
        logits, cache = step(cache.take(parents), state.newest.reshape(-1))
        return extend(state, logits), cache

    first = extend(_begin(answers, beams), jnp.repeat(logits, beams, axis=0))
    state, _ = jax.lax.while_loop(go_on, read_and_extend, (first, cache))
    any_finished = jnp.any(state.is_finished, axis=1)[:, None]
    tokens = jnp.where(any_finished[..., None], state.finished, state.live)
    return tokens, jnp.where(any_finished, state.scores, state.log_probs)


def _candidates(
    logits: Float[Array, "r v"], partition: Float[Array, " r"], log_probs: Float[Array, "b n"]
) -> tuple[Float[Array, "b k"], Int[Array, "b k"], Int[Array, "b k"]]:
    """The 2n likeliest ways to go on in each row: log-probability, token, and which beam it goes on from."""
    rows, beams = log_probs.shape
    values, ids = top_k(logits, min(2 * beams, logits.shape[-1]))  # of each beam: no others are among the row's
    each = values.shape[-1]
    values = (values - partition[:, None]).reshape(rows, beams, each) + log_probs[..., None]
    best, chosen = jax.lax.top_k(values.reshape(rows, -1), 2 * beams)
    return best, _take(ids.reshape(rows, -1), chosen), chosen // each


def penalty(length: Int[Array, "..."], alpha: float) -> Float[Array, "..."]:
    """What an answer's log-probability is divided by: `((5 + length) / 6) ** alpha` (Wu et al. 2016, equation 14)."""
    return jnp.power((5.0 + length) / 6.0, alpha)


def _begin(answers: Answers, beams: int) -> _State:
    """One live beam in each row; where the answer has ended already, one finished answer and none that could live."""
    ended = answers.ended[:, None]
    first = jnp.arange(beams) == 0
    tokens = jnp.repeat(answers.tokens[:, None], beams, axis=1)
    nothing = jnp.zeros((len(tokens), beams), jnp.int32)
    return _State(
        place=answers.place,
        live=tokens,
        log_probs=jnp.where(ended, -jnp.inf, jnp.where(first, 0.0, NEG_INF)),
        finished=jnp.where((ended & first)[..., None], tokens, 0),
        scores=jnp.where(ended & first, 0.0, NEG_INF),
        is_finished=jnp.broadcast_to(ended, nothing.shape),
        newest=nothing,
        parents=nothing,
    )


def _take(x: Array, places: Int[Array, "b k"]) -> Array:
    """`x[row, places[row]]`."""
    return jnp.take_along_axis(x, places.reshape(*places.shape, *[1] * (x.ndim - 2)), axis=1)


def _where(rows: Bool[Array, " b"], new: _State, old: _State) -> _State:
    """`new` in these rows, `old` in the others."""
    return jax.tree.map(lambda a, b: jnp.where(rows.reshape(-1, *[1] * (a.ndim - 1)), a, b), new, old)
