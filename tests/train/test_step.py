"""One step: T5X's trajectory, gradients that do not depend on how a batch is split, and metrics that add up."""

import dataclasses

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from goldens import error

from t5x_mini.model import transformer
from t5x_mini.train import optimizers, param_names, state, step
from t5x_mini.train.config import LossConfig, TrainConfig
from t5x_mini.train.loss import NORMALIZERS
from t5x_mini.train.optimizers import Adafactor
from t5x_mini.train.schedules import Constant, Rsqrt

TRAIN = TrainConfig(model_dir="unused", train_steps=6)


# ------------------------------------------------------------------------------------ T5X's first six Adafactor steps


RECORD = optax.GradientTransformation(optax.tree.zeros_like, lambda grads, _, params: (grads, grads))


class RecordingAdafactor(Adafactor):
    """Adafactor that keeps the gradients of the last update in its state."""

    def transform(self, name):
        return optax.chain(RECORD, super().transform(name))


class Recorder:
    """Plain gradient descent that does the same."""

    def transform(self, name):
        return optax.chain(RECORD)


def state_of(params, optimizer):
    """At step 0, with these parameters."""
    rng = jax.random.key_data(jax.random.key(1))
    return state.TrainState(jnp.zeros((), jnp.int32), params, optimizers.init(optimizer, params), rng)


@pytest.fixture(scope="module")
def six_steps():
    """`run(params)`: the states and metrics of six steps of T5X's run, from these parameters."""
    golden, optimizer = goldens.load("encdec_t5_1_1"), RecordingAdafactor()
    loss = LossConfig(normalizing_factor=None)
    update = jax.jit(
        step.make_train_step(golden.model, loss, optimizer, Rsqrt(warmup_steps=4), TRAIN), compiler_options=tiny.QUICK
    )

    def run(params):
        states, metrics = [state_of(jax.tree.map(jnp.asarray, params), optimizer)], []
        for _ in range(6):
            new_state, sums = update(states[-1], golden.batch)
            states.append(new_state)
            metrics.append(sums)
        return states, metrics

    return run


@pytest.fixture(scope="module")
def adafactor_golden():
    return np.load(goldens.FOLDER / "adafactor_6_steps.npz")


@pytest.fixture(scope="module")
def ours(six_steps, adafactor_golden):
    return six_steps(goldens.stacked(goldens.under("params0", adafactor_golden)))


def test_learning_rates_are_t5xs(ours, adafactor_golden):
    schedule = Rsqrt(warmup_steps=4)
    np.testing.assert_allclose([schedule(s) for s in range(20)], adafactor_golden["lr"], rtol=1e-6)
    used = [float(sums["learning_rate"]) for sums in ours[1]]
    np.testing.assert_allclose(used, adafactor_golden["lr"][:6], rtol=1e-6)


def test_losses_are_t5xs_for_as_long_as_rounding_allows(ours, adafactor_golden):
    """Adafactor's first update is the sign of each gradient times a rate of 0.5: where a gradient is next to nothing,
    rounding decides the sign, and every step multiplies what it decided. Runs that start one unit in the last place
    apart agree to 1e-6 up to step 3, and to 1e-5 and 1e-4 on the two after it; T5X's run is held to the same."""
    losses = np.array([float(sums["loss"]) for sums in ours[1]])
    off = np.abs(losses / adafactor_golden["losses"] - 1)
    assert (off < [1e-6, 1e-6, 1e-6, 1e-6, 1e-5, 1e-4]).all(), off


def test_every_update_is_adafactor_in_float64_on_the_same_gradients(ours):
    """Without the amplification from step to step there is no chaos: each update, from the parameters before it and
    the gradients that it got, is held tightly. (No side of these parameters reaches 128: nothing is factored.)"""
    states, metrics = ours
    for name, first in states[0].params.items():
        layers = first.shape[0] if transformer.is_stacked(name) else 1
        second_moment = 0.0
        for t, (before, after, sums) in enumerate(zip(states, states[1:], metrics, strict=False), start=1):
            by_layer = (layers, -1)
            grad = np.asarray(after.opt_state[name][0], np.float64).reshape(by_layer)
            param = np.asarray(before.params[name], np.float64).reshape(by_layer)
            keep = 1 - t**-0.8
            second_moment = keep * second_moment + (1 - keep) * (grad**2 + 1e-30)
            direction = grad / np.sqrt(second_moment)
            direction /= np.maximum(1.0, rms(direction))
            expected = param - float(sums["learning_rate"]) * np.maximum(1e-3, rms(param)) * direction
            assert error(after.params[name], expected.reshape(first.shape)) < 2e-6, (name, t)


def rms(rows):
    return np.sqrt(np.mean(rows**2, axis=1, keepdims=True))


def test_parameters_after_six_steps_are_as_near_t5xs_as_rounding_allows(six_steps, ours, adafactor_golden):
    """T5X's parameters lie within the cloud of the runs that start one unit in the last place from ours."""
    start, end = ours[0][0].params, ours[0][-1].params
    golden = goldens.stacked(goldens.under("params6", adafactor_golden))
    rng = np.random.default_rng(0)

    def nudged(param):
        towards = np.where(rng.random(param.shape) < 0.5, -np.inf, np.inf).astype(np.float32)
        return np.nextafter(np.asarray(param), towards)

    cloud = [six_steps({name: nudged(param) for name, param in start.items()})[0][-1].params for _ in range(12)]
    for name, param in end.items():
        assert error(param, golden[name]) < 2 * max(error(run[name], golden[name]) for run in cloud), name
        assert error(param, golden[name]) < 2 * max(error(run[name], param) for run in cloud), name


# ----------------------------------------------------------------------------------------------------- microbatches

EXAMPLES = tiny.examples(0, 8)


def packed_batch(architecture):
    """Eight rows of one to three examples: sequences of different lengths, unevenly spread."""
    rows, rest = [], list(tiny.examples(1, 16, longest=4))
    for count in (1, 3, 2, 2, 1, 3, 1, 3):
        rows.append(tiny.batch(architecture, [rest.pop() for _ in range(count)], inputs=15, targets=15, pack=True))
    return {name: jnp.concatenate([row[name] for row in rows]) for name in rows[0]}


@pytest.fixture(scope="module")
def gradients():
    """`of(parts, batch, factor)`: normalised gradients and the sums, from `parts` microbatches."""
    model = tiny.model("prefix_lm", num_decoder_layers=1)
    params = tiny.params(model)

    def of(parts, batch, factor):
        train, loss = dataclasses.replace(TRAIN, num_microbatches=parts), LossConfig(normalizing_factor=factor)
        optimizer = Recorder()
        update = jax.jit(step.make_train_step(model, loss, optimizer, Constant(), train), compiler_options=tiny.QUICK)
        after, sums = update(state_of(params, optimizer), batch)
        return {name: chain[0] for name, chain in after.opt_state.items()}, sums

    return of


@pytest.mark.parametrize("factor", [*NORMALIZERS, None, 233472.0])
def test_microbatches_change_no_gradient_and_no_metric(gradients, factor):
    batch = packed_batch("prefix_lm")
    whole, sums = gradients(1, batch, factor)
    for parts in (2, 4):
        split, split_sums = gradients(parts, batch, factor)
        for name, grad in whole.items():
            assert np.abs(grad).max() > 0 and error(split[name], grad) < 1e-5, (name, parts)
        assert split_sums.keys() == sums.keys()
        for name, value in sums.items():
            np.testing.assert_allclose(split_sums[name], value, rtol=1e-5, err_msg=name)


def test_the_gradient_is_that_of_the_mean_over_real_tokens(gradients):
    """Not of the mean of the parts' means, which weighs tokens of short rows more."""
    model, batch = tiny.model("prefix_lm", num_decoder_layers=1), packed_batch("prefix_lm")
    params = tiny.params(model)

    def mean(params):
        logits = transformer.bind(model, params)(batch)
        weights = batch["decoder_loss_weights"]
        token_loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["decoder_target_tokens"])
        token_loss += 1e-4 * jax.nn.logsumexp(logits, axis=-1) ** 2
        return jnp.sum(weights * token_loss) / jnp.sum(weights)

    expected = jax.jit(jax.grad(mean), compiler_options=tiny.QUICK)(params)
    for name, grad in gradients(4, batch, "NUM_REAL_TARGET_TOKENS")[0].items():
        assert error(grad, expected[name]) < 1e-5, name


def test_a_batch_without_targets_gives_zeros(gradients):
    batch = tiny.batch("prefix_lm", EXAMPLES)
    batch["decoder_loss_weights"] = jnp.zeros_like(batch["decoder_loss_weights"])
    grads, sums = gradients(2, batch, "AVERAGE_PER_SEQUENCE")
    assert sums["loss"] == sums["objective"] == sums["grad_norm"] == 0
    assert not any(np.asarray(grad).any() for grad in grads.values())


# --------------------------------------------------------------------------------------------------- metrics, update


def one_step(model=None, train=TRAIN, batch=None):
    model, optimizer = model or tiny.model("prefix_lm", num_decoder_layers=1), Recorder()
    batch = batch or tiny.batch(model.architecture, EXAMPLES)
    update = step.make_train_step(model, LossConfig(), optimizer, Constant(learning_rate=0.1), train)
    before = state_of(tiny.params(model), optimizer)
    return before, *jax.jit(update, compiler_options=tiny.QUICK)(before, batch), batch


def test_clipping_scales_all_gradients_to_the_norm_and_reports_the_norm_before():
    _, plain, sums, _ = one_step()
    norm = float(sums["grad_norm"])
    _, clipped, clipped_sums, _ = one_step(train=dataclasses.replace(TRAIN, clip_global_norm=norm / 4))
    _, untouched, _, _ = one_step(train=dataclasses.replace(TRAIN, clip_global_norm=norm * 4))
    grads, short, same = ({n: c[0] for n, c in s.opt_state.items()} for s in (plain, clipped, untouched))
    assert norm == pytest.approx(float(optax.tree.norm(grads)), rel=1e-6)
    assert float(clipped_sums["grad_norm"]) == pytest.approx(norm, rel=1e-6)
    for name, grad in grads.items():
        assert error(short[name], grad / 4) < 1e-5 and error(same[name], grad) < 1e-6, name


@pytest.mark.parametrize("architecture", ["encoder_decoder", "causal_lm"])
def test_sums_count_what_they_say(architecture):
    model = tiny.model(architecture)
    batch = tiny.batch(architecture, [([4, 5], [6, 7, 8]), ([9, 10, 11], [12])])
    before, after, sums, _ = one_step(model, batch=batch)
    logits = np.asarray(transformer.bind(model, before.params)(batch), np.float64)
    targets, weights = (np.asarray(batch[name]) for name in ("decoder_target_tokens", "decoder_loss_weights"))
    log_partition = np.log(np.exp(logits).sum(-1))
    target_logit = np.take_along_axis(logits, targets[..., None], -1)[..., 0]
    z_loss = 1e-4 * log_partition**2
    # Inputs are 3 and 4 tokens with EOS, targets 4 and 2; the decoder-only row has 6 + 6 places.
    encoder_decoder = architecture == "encoder_decoder"
    expected = {
        "loss": (weights * (log_partition - target_logit + z_loss)).sum(),
        "z_loss": (weights * z_loss).sum(),
        "correct": (weights * (logits.argmax(-1) == targets)).sum(),
        "weights": 4 + 2,
        "normalizer": 4 + 2,
        "seqs": 2,
        "target_tokens": 2 * 6 if encoder_decoder else 2 * 12,
        "all_tokens": 2 * 12,
        "nonpadding_tokens": 3 + 4 + 4 + 2,
        "learning_rate": 0.1,
        "param_norm": np.sqrt(sum(np.sum(np.asarray(p, np.float64) ** 2) for p in after.params.values())),
    }
    for name, value in expected.items():
        assert float(sums[name]) == pytest.approx(value, rel=1e-5), name
    assert float(sums["objective"]) == pytest.approx(expected["loss"], rel=1e-5)
    assert set(sums) == {*expected, "objective", "grad_norm", "grad_rms", "update_ratio"}


def test_a_right_answer_counts_as_correct():
    model, batch = tiny.model(), tiny.batch("encoder_decoder", EXAMPLES)
    params = tiny.params(model)
    most_likely = transformer.bind(model, params)(batch).argmax(-1)
    # The mask reads targets as text or padding, no more: to rename them changes no logit.
    right = (batch["decoder_target_tokens"] > 0) & (most_likely > 0)
    answered = dict(batch, decoder_target_tokens=jnp.where(right, most_likely, batch["decoder_target_tokens"]))
    sums = step.batch_sums(params, answered, model, LossConfig(), None)
    assert float(sums["correct"]) == int(right.sum()) > 10


def test_a_step_counts_and_keeps_its_key():
    before, after, _, _ = one_step()
    assert (int(before.step), int(after.step)) == (0, 1)
    np.testing.assert_array_equal(after.rng, before.rng)
    assert all((after.params[name] != param).any() for name, param in before.params.items())


def test_dropout_is_drawn_anew_each_step_and_never_in_evaluation():
    model, optimizer = tiny.model("prefix_lm", dropout_rate=0.3), Recorder()
    update = step.make_train_step(model, LossConfig(), optimizer, Constant(), TRAIN)
    update = jax.jit(update, compiler_options=tiny.QUICK)
    evaluate = jax.jit(step.make_eval_step(model, LossConfig()), compiler_options=tiny.QUICK)
    batch = tiny.batch("prefix_lm", EXAMPLES)
    first = state_of(tiny.params(model), optimizer)
    later = dataclasses.replace(first, step=jnp.asarray(5, jnp.int32))
    losses = [float(update(before, batch)[1]["loss"]) for before in (first, first, later)]
    assert losses[0] == losses[1] != losses[2]
    without = step.batch_sums(first.params, batch, tiny.model("prefix_lm"), LossConfig(), None)["loss"]
    assert float(evaluate(first.params, batch)["loss"]) == pytest.approx(float(without), rel=1e-6)


@pytest.mark.parametrize(("parts", "blocks"), [(2, 1), (1, 4), (4, 2)])
def test_neither_microbatches_nor_blocks_change_an_evaluation(parts, blocks):
    model, batch = tiny.model(), tiny.batch("encoder_decoder", tiny.examples(3, 8))
    params = tiny.params(model)
    whole = step.make_eval_step(model, LossConfig())
    in_parts = step.make_eval_step(model, LossConfig(blocks=blocks), num_microbatches=parts)
    made, wanted = (jax.jit(one, compiler_options=tiny.QUICK)(params, batch) for one in (in_parts, whole))
    assert made.keys() == wanted.keys()
    for name, value in wanted.items():
        assert float(made[name]) == pytest.approx(float(value), rel=1e-6), name


@pytest.mark.parametrize("tied", [True, False])
def test_blocks_of_the_vocabulary_change_no_gradient(tied):
    model = tiny.model("causal_lm", logits_via_embedding=tied)
    batch = tiny.batch("causal_lm", EXAMPLES)

    def gradients(blocks):
        def objective(params):
            return step.batch_sums(params, batch, model, LossConfig(blocks=blocks), None)["objective"]

        return jax.jit(jax.grad(objective), compiler_options=tiny.QUICK)(tiny.params(model))

    in_blocks = gradients(5)
    for name, grad in gradients(1).items():
        assert error(in_blocks[name], grad) < 1e-5, name


def test_each_microbatch_draws_for_itself():
    """What is drawn is added up: two draws of the whole batch's key would give twice its number."""

    def objective(params, part, key):
        return jnp.sum(params["x"]), {"drawn": jax.random.uniform(key)}

    def drawn(parts):
        batch, key = {"decoder_target_tokens": jnp.ones((8, 2))}, jax.random.key(0)
        return float(
            step.summed_gradients(objective, {"x": jnp.ones(2)}, {"x": (None,)}, batch, key, parts)[1]["drawn"]
        )

    assert len({drawn(1), drawn(2) / 2, drawn(4) / 4}) == 3
    assert drawn(4) == drawn(4)


def test_rows_of_microbatches_are_strided():
    """Each device's run of rows gives rows to every microbatch."""
    parts = step._split_rows(jnp.arange(8)[:, None], 2)
    assert parts[..., 0].tolist() == [[0, 2, 4, 6], [1, 3, 5, 7]]


def test_the_optimizer_moves_the_parameters_at_the_schedules_rate():
    before, after, _, _ = one_step()
    for name, param in before.params.items():
        assert error(after.params[name], param - 0.1 * after.opt_state[name][0]) < 1e-6, name


@pytest.mark.parametrize("parts", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_frozen_parameters_stay_as_they_are_and_leave_the_others_their_gradients(parts):
    model, optimizer = tiny.model("causal_lm", num_decoder_layers=1), Recorder()
    batch = tiny.batch(model.architecture, EXAMPLES)

    def stepped(frozen):
        train, before = dataclasses.replace(TRAIN, num_microbatches=parts), state_of(tiny.params(model), optimizer)
        stay = param_names.frozen(before.params, frozen)
        trained = {name: leaf for name, leaf in before.opt_state.items() if name not in stay}
        before = dataclasses.replace(before, opt_state=trained)
        update = jax.jit(step.make_train_step(model, LossConfig(), optimizer, Constant(learning_rate=0.1), train))
        compiled = update.lower(before, batch).compile(compiler_options=tiny.QUICK)
        return before, *compiled(before, batch), compiled.cost_analysis()["flops"]

    before, all_, _, all_flops = stepped(())
    _, some, sums, some_flops = stepped(("decoder/layers/mlp/.*", "decoder/logits_dense/kernel"))
    trained = some.opt_state.keys()
    assert trained == {name for name in before.params if "/mlp/" not in name and "logits_dense" not in name}
    for name, param in before.params.items():
        if name in trained:
            assert error(some.opt_state[name][0], all_.opt_state[name][0]) < 1e-5, name
            assert not np.array_equal(some.params[name], param), name
        else:
            np.testing.assert_array_equal(some.params[name], param, err_msg=name)
    norm = optax.tree.norm({name: leaf[0] for name, leaf in some.opt_state.items()})
    assert float(sums["grad_norm"]) == pytest.approx(float(norm), rel=1e-6)
    assert some_flops < 0.9 * all_flops  # their gradients are not even computed


# ------------------------------------------------------------------------------------------------- Skipping an update

SKIPPING = dataclasses.replace(TRAIN, on_divergence="skip")


def skipping_step(limit, batch=None, factor=1.0):
    """A step of a real optimiser that may skip its update; the gradients are multiplied by a factor."""
    model, optimizer = tiny.model("prefix_lm", num_decoder_layers=1), optimizers.AdamW()
    batch = batch or tiny.batch(model.architecture, EXAMPLES)
    update = step.make_train_step(model, LossConfig(), optimizer, Constant(learning_rate=0.1), SKIPPING)
    params = {name: factor * array for name, array in tiny.params(model).items()}
    before = state_of(params, optimizer)
    return before, *jax.jit(update, compiler_options=tiny.QUICK)(before, batch, np.float32(limit))


def test_a_step_below_the_limit_is_the_step_that_has_none():
    before, after, sums = skipping_step(np.inf)
    model, optimizer = tiny.model("prefix_lm", num_decoder_layers=1), optimizers.AdamW()
    update = step.make_train_step(model, LossConfig(), optimizer, Constant(learning_rate=0.1), TRAIN)
    batch = tiny.batch(model.architecture, EXAMPLES)
    expected, expected_sums = jax.jit(update, compiler_options=tiny.QUICK)(before, batch)
    assert float(sums.pop("skipped_update")) == 0
    jax.tree.map(np.testing.assert_array_equal, after, expected)
    jax.tree.map(np.testing.assert_array_equal, sums, expected_sums)


@pytest.mark.parametrize(
    ("limit", "factor"), [(0.5, 1.0), (np.inf, np.nan), (np.inf, 1e38)], ids=["spike", "nan", "overflow"]
)
def test_a_skipped_step_changes_nothing_but_its_number(limit, factor):
    before, after, sums = skipping_step(limit, factor=factor)
    assert float(sums["skipped_update"]) == 1
    assert int(after.step) == int(before.step) + 1
    same = dataclasses.replace(after, step=before.step)
    jax.tree.map(np.testing.assert_array_equal, same, before)


def test_the_limit_is_that_of_the_loss_that_is_reported():
    loss = float(skipping_step(np.inf)[2]["objective"] / skipping_step(np.inf)[2]["normalizer"])
    assert [float(skipping_step(limit)[2]["skipped_update"]) for limit in (loss * 0.999, loss * 1.001)] == [1, 0]


def test_skipping_takes_no_memory_for_a_second_state():
    """The old state and the new one are never there together, with or without the choice between them."""
    model, optimizer = tiny.model("encoder_decoder", emb_dim=128, mlp_dim=512), optimizers.AdamW()
    batch = tiny.batch(model.architecture, EXAMPLES)
    state_before = state_of(tiny.params(model), optimizer)

    def needed(train, *limit):
        update = step.make_train_step(model, LossConfig(), optimizer, Constant(learning_rate=0.1), train)
        return jax.jit(update, donate_argnums=0).lower(state_before, batch, *limit).compile().memory_analysis()

    plain, skipping = needed(TRAIN), needed(SKIPPING, np.float32(1))
    state_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state_before))
    assert skipping.alias_size_in_bytes == plain.alias_size_in_bytes >= state_bytes
    # What is to be judged has to be there: all gradients, a third of AdamW's state, where the plain step needs not have
    # the last ones before it has done with the first.
    assert skipping.temp_size_in_bytes - plain.temp_size_in_bytes < state_bytes / 3
