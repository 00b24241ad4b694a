"""The loss of each token against float64, and every normaliser against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens import error
from hypothesis import given, settings
from hypothesis import strategies as st

from t5x_mini.errors import UserError
from t5x_mini.train.config import LossConfig
from t5x_mini.train.loss import (
    NORMALIZERS,
    blockwise_logit_sums,
    check_normalizing_factor,
    check_vocab_blocks,
    cross_entropy,
    logit_sums,
    loss_of_sums,
    normalizer,
    weights_and_normalizer,
)

VOCAB = 11


def in_float64(logits, targets, smoothing, z_loss):
    """The formula, with the soft targets written out."""
    logits = np.asarray(logits, np.float64)
    soft = np.where(np.arange(VOCAB) == np.asarray(targets)[..., None], 1 - smoothing, smoothing / (VOCAB - 1))
    log_partition = np.log(np.exp(logits).sum(-1))
    log_soft = np.log(soft, out=np.zeros_like(soft), where=soft > 0)
    divergence = (soft * (log_soft - logits + log_partition[..., None])).sum(-1)
    return divergence + z_loss * log_partition**2, z_loss * log_partition**2


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    scale=st.sampled_from([0.1, 1.0, 10.0]),
    smoothing=st.sampled_from([0.0, 0.1, 0.5]),
    z_loss=st.sampled_from([0.0, 1e-4, 1e-2]),
)
def test_token_loss_is_the_formula(seed, scale, smoothing, z_loss):
    logits = scale * jax.random.normal(jax.random.key(seed), (2, 5, VOCAB))
    targets = jax.random.randint(jax.random.key(seed + 1), (2, 5), 0, VOCAB)
    total, z_term = cross_entropy(logits, targets, label_smoothing=smoothing, z_loss=z_loss)
    expected, expected_z = in_float64(logits, targets, smoothing, z_loss)
    assert error(total, expected) < 2e-6
    np.testing.assert_allclose(z_term, expected_z, rtol=1e-5, atol=1e-9)


def test_a_perfect_prediction_costs_nothing_with_and_without_smoothing():
    targets = jnp.asarray([[3, 4]])
    for smoothing in (0.0, 0.1):
        soft = jnp.where(jnp.arange(VOCAB) == targets[..., None], 1 - smoothing, smoothing / (VOCAB - 1) + 1e-30)
        total, _ = cross_entropy(jnp.log(soft), targets, label_smoothing=smoothing)
        np.testing.assert_allclose(total, 0.0, atol=1e-6)


def test_large_logits_overflow_nothing():
    logits = jnp.full((1, 1, VOCAB), -3e4).at[0, 0, 2].set(3e4)
    total, _ = cross_entropy(logits, jnp.asarray([[2]]), label_smoothing=0.1, z_loss=1e-4)
    assert np.isfinite(np.asarray(total)).all()


# ----------------------------------------------------------------------------------------------------------- blocks

WIDTH = 16


def products(decoded, head):
    return jnp.dot(decoded, head, precision=jax.lax.Precision.HIGHEST)


def made_up(seed, vocab_size):
    keys = jax.random.split(jax.random.key(seed), 3)
    decoded = jax.random.normal(keys[0], (3, 5, WIDTH))
    head = jax.random.normal(keys[1], (WIDTH, vocab_size))
    return decoded, head, jax.random.randint(keys[2], (3, 5), 0, vocab_size)


def loss_in_blocks(decoded, head, targets, blocks, smoothing=0.1):
    sums = blockwise_logit_sums(products, decoded, head, targets, blocks)
    token_loss = loss_of_sums(sums, head.shape[1], label_smoothing=smoothing, z_loss=1e-2)
    return jnp.sum(token_loss.total * jnp.arange(targets.size).reshape(targets.shape)), (token_loss, sums)


@pytest.mark.parametrize("blocks", [1, 2, 3, 24])
def test_blocks_of_the_vocabulary_change_no_number(blocks):
    decoded, head, targets = made_up(blocks, 24)
    in_blocks = jax.jit(jax.grad(loss_in_blocks, (0, 1), has_aux=True), static_argnums=3)
    grads, (token_loss, sums) = in_blocks(decoded, head, targets, blocks)

    def whole(decoded, head):
        total = cross_entropy(products(decoded, head), targets, label_smoothing=0.1, z_loss=1e-2).total
        return jnp.sum(total * jnp.arange(15).reshape(3, 5)), total

    wanted, total = jax.grad(whole, (0, 1), has_aux=True)(decoded, head)
    assert error(token_loss.total, total) < 1e-6
    np.testing.assert_array_equal(sums.likeliest, jnp.argmax(products(decoded, head), axis=-1))
    for grad, expected in zip(grads, wanted, strict=True):
        assert np.abs(expected).max() > 0
        assert error(grad, expected) < 2e-6


def test_of_equally_likely_tokens_the_first_is_taken_in_any_block():
    decoded, _, targets = made_up(0, 24)
    for best in ((7, 5), (4, 13, 22)):
        head = jnp.zeros((WIDTH, 24)).at[:, jnp.asarray(best)].set(jnp.sign(decoded[0, 0])[:, None])
        for blocks in (1, 3, 4):
            sums = blockwise_logit_sums(products, decoded[:1, :1], head, targets[:1, :1], blocks)
            assert int(sums.likeliest[0, 0]) == min(best)


def test_blocks_keep_no_logits_of_the_whole_vocabulary():
    vocab_size, blocks = 4096, 8
    decoded, head, targets = made_up(0, vocab_size)
    decoded, targets = jnp.tile(decoded, (40, 1, 1)), jnp.tile(targets, (40, 1))

    def scratch_bytes(blocks):
        loss = jax.grad(lambda *arrays: loss_in_blocks(*arrays, targets, blocks)[0], (0, 1))
        return jax.jit(loss).lower(decoded, head).compile().memory_analysis().temp_size_in_bytes

    logits = targets.size * vocab_size * 4
    assert scratch_bytes(1) >= logits
    assert scratch_bytes(blocks) < logits / 2


def test_sums_over_a_share_of_the_tokens():
    logits = jnp.asarray([[[1.0, 3.0, 2.0]]])
    sums = logit_sums(logits, jnp.asarray([[6]]), jnp.asarray([2, 6, 9]))
    assert [float(x[0, 0]) for x in sums[1:]] == [3.0, 6.0, 3.0, 6.0]
    assert float(logit_sums(logits, jnp.asarray([[1]]), jnp.asarray([2, 6, 9])).target[0, 0]) == 0.0


@pytest.mark.parametrize(
    ("vocab_size", "blocks", "ways", "message"),
    [
        (32128, 3, 1, "LOSS_BLOCKS is 3, but a vocabulary of 32128 is not 3 equal blocks; write --gin.LOSS_BLOCKS=2"),
        (
            *(32128, 64, 4),
            "LOSS_BLOCKS is 64, but a vocabulary of 32128 is not 64 equal blocks on each of 4 devices along `model`; "
            "write --gin.LOSS_BLOCKS=32",
        ),
    ],
)
def test_blocks_that_do_not_fit_are_refused(vocab_size, blocks, ways, message):
    with pytest.raises(UserError) as raised:
        check_vocab_blocks(vocab_size, blocks, ways)
    assert str(raised.value) == message


@pytest.mark.parametrize(("blocks", "ways"), [(1, 3), (1, 1), (8, 1), (8, 16), (128, 1)])
def test_blocks_that_fit_are_taken(blocks, ways):
    check_vocab_blocks(32128, blocks, ways)


# ------------------------------------------------------------------------------------------------------ normalisers

PACKED = {
    "decoder_target_tokens": jnp.asarray([[5, 6, 7, 8, 9, 0], [5, 6, 0, 0, 0, 0], [5, 6, 7, 8, 9, 3]]),
    "decoder_loss_weights": jnp.asarray([[1, 1, 0, 1, 1, 0], [1, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0]]),
    "decoder_segment_ids": jnp.asarray([[1, 1, 1, 2, 2, 0], [1, 1, 0, 0, 0, 0], [1, 1, 2, 3, 3, 3]]),
}
UNPACKED = {name: feature for name, feature in PACKED.items() if name != "decoder_segment_ids"}
TOKEN_LOSS = np.arange(1.0, 19.0).reshape(3, 6)


def objective(batch, factor):
    """The normalised loss, as the step puts it together."""
    weights, share = weights_and_normalizer(batch, factor)
    return float(jnp.sum(weights * TOKEN_LOSS) / normalizer(share, LossConfig(normalizing_factor=factor)))


def test_each_normaliser_divides_by_what_its_name_says():
    weighted = (np.asarray(PACKED["decoder_loss_weights"]) * TOKEN_LOSS).sum()
    assert objective(PACKED, None) == pytest.approx(weighted)
    assert objective(PACKED, 233472.0) == pytest.approx(weighted / 233472)
    assert objective(PACKED, "NUM_REAL_TARGET_TOKENS") == pytest.approx(weighted / 7)
    assert objective(PACKED, "NUM_TOTAL_TARGET_TOKENS") == pytest.approx(weighted / 18)


def test_average_per_sequence_is_the_mean_of_the_means():
    """Packed: segments (1, 2), (4, 5), (7, 8) and (15) carry loss; the others none. Unpacked: each row is one."""
    assert objective(PACKED, "AVERAGE_PER_SEQUENCE") == pytest.approx(np.mean([1.5, 4.5, 7.5, 15.0]))
    assert objective(UNPACKED, "AVERAGE_PER_SEQUENCE") == pytest.approx(np.mean([(1 + 2 + 4 + 5) / 4, 7.5, 15.0]))


@pytest.mark.parametrize("factor", [*NORMALIZERS, 7.0, None])
def test_shares_of_parts_add_up_to_that_of_the_whole(factor):
    weights, whole = weights_and_normalizer(PACKED, factor)
    parts = [weights_and_normalizer({k: v[i : i + 1] for k, v in PACKED.items()}, factor) for i in range(3)]
    np.testing.assert_array_equal(weights, jnp.concatenate([part for part, _ in parts]))
    assert float(whole) == pytest.approx(float(sum(share for _, share in parts)))


@pytest.mark.parametrize("factor", [*NORMALIZERS, 7.0, None])
@pytest.mark.parametrize("batch", [PACKED, UNPACKED], ids=["packed", "unpacked"])
def test_without_a_single_target_the_loss_is_zero(batch, factor):
    empty = batch | {"decoder_loss_weights": jnp.zeros((3, 6), jnp.int32)}
    assert objective(empty, factor) == 0.0


def test_weights_of_less_than_one_count_as_such():
    weights = jnp.asarray([[0.5, 0.25], [1.0, 0.0]])
    batch = {"decoder_target_tokens": jnp.ones((2, 2), jnp.int32), "decoder_loss_weights": weights}
    assert float(weights_and_normalizer(batch, "NUM_REAL_TARGET_TOKENS")[1]) == 1.75
    np.testing.assert_allclose(
        weights_and_normalizer(batch, "AVERAGE_PER_SEQUENCE")[0], [[2 / 3, 1 / 3], [1.0, 0.0]], rtol=1e-6
    )


@pytest.mark.parametrize("factor", [*NORMALIZERS, None, 1, 233472.0])
def test_known_normalisers_pass(factor):
    check_normalizing_factor(factor)


def test_an_unknown_normaliser_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="is 'NUM_TOKENS'; write one of NUM_REAL_TARGET_TOKENS, NUM_TOTAL_.*or None"):
        check_normalizing_factor("NUM_TOKENS")


@pytest.mark.parametrize("factor", [0, -1.0, float("nan")])
def test_a_normaliser_that_is_not_positive_is_refused(factor):
    with pytest.raises(UserError, match=f"LOSS_NORMALIZING_FACTOR is {factor}; write a number above 0, or None"):
        check_normalizing_factor(factor)


def test_a_wrong_shape_is_refused_while_the_tests_run():
    with pytest.raises(TypeError, match="targets"):
        cross_entropy(jnp.zeros((2, 3, VOCAB)), jnp.zeros((2, 4), jnp.int32))
