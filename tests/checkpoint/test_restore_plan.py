"""Starting from a checkpoint: every option with a real state, on eight devices, and the words of each refusal."""

import contextlib
import dataclasses

import eight_devices
import jax
import numpy as np
import pytest

from t5x_mini.checkpoint import array_writer, layout, restore_plan
from t5x_mini.checkpoint.config import CheckpointConfig
from t5x_mini.checkpoint.manager import Checkpoints
from t5x_mini.checkpoint.own_source import OwnSource
from t5x_mini.checkpoint.run_item import RunItem
from t5x_mini.errors import UserError
from t5x_mini.train.optimizers import Adafactor, AdamW, Muon

MESH, ONE_AXIS = eight_devices.mesh(2, 2, 2), eight_devices.mesh(1, 8, 1)
KEEP_ALL = CheckpointConfig(keep=None)
KERNEL = "decoder/layers/mlp/wo/kernel"


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def run(partitioning=MESH, architecture="causal_lm", *, vocabulary=None, optimizer=eight_devices.FACTORED, **changes):
    """A run that starts from a checkpoint; `changes` of the model and of TrainConfig."""
    names = ("reset_optimizer", "reset_step", "assignment_map", "frozen")
    train = {name: changes.pop(name) for name in names if name in changes}
    made = eight_devices.run(partitioning, architecture, optimizer=optimizer, **changes)
    if train.pop("frozen", None):
        raise AssertionError("frozen runs are assembled anew: see `frozen_run`")
    train["initial_checkpoint_path"] = "somewhere"
    config = dataclasses.replace(made.config, train=dataclasses.replace(made.config.train, **train))
    return dataclasses.replace(made, config=config, vocabulary=vocabulary)


def frozen_run(*patterns, partitioning=MESH):
    from t5x_mini.train.run import assemble

    config = run(partitioning).config
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, frozen=patterns))
    return assemble(config)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with the checkpoint of step 7 of a causal language model, and its numbers."""
    folder = tmp_path_factory.mktemp("run")
    return folder, save(folder, run())


def save(folder, made, step=7, vocabulary=None):
    state = eight_devices.random_state(made, step)
    with contextlib.closing(Checkpoints(str(folder), KEEP_ALL, vocabulary)) as checkpoints:
        checkpoints.save(state, b"a place", made.config.model, made.partitioner)
        checkpoints.wait()
    return jax.device_get(state)


def started(folder, made):
    source = OwnSource(str(folder))
    plan = restore_plan.make_plan(source, made)
    return plan, restore_plan.restore(plan, source, made)


def fresh_state(made):
    """Every optimiser's state begins with zeros."""
    return jax.tree.map(lambda shape: np.zeros(shape.shape, shape.dtype), made.shapes.opt_state)


def refusal(folder, made):
    with pytest.raises(UserError) as error:
        restore_plan.make_plan(OwnSource(str(folder)), made)
    return str(error.value).replace(str(folder), "FOLDER")


def assert_same_bits(found, wanted):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(found), wanted)


def on_disk(state):
    return layout.flatten(jax.device_get(layout.to_disk(state)))


# Whole


@pytest.mark.parametrize("partitioning", [MESH, ONE_AXIS, eight_devices.PMAP], ids=["2x2x2", "1x8x1", "pmap"])
def test_parameters_and_optimizer_state_are_the_checkpoints_bit_for_bit(saved, partitioning):
    folder, state = saved
    made = run(partitioning)
    plan, restored = started(folder, made)
    assert_same_bits(restored.params, state.params)
    assert_same_bits(restored.opt_state, state.opt_state)
    assert int(restored.step) == 7
    assert not plan.new and not plan.left_over
    for leaf, sharding in zip(jax.tree.leaves(restored), jax.tree.leaves(made.shardings), strict=True):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)


def test_the_random_key_is_the_runs_own(saved):
    folder, state = saved
    made = run()
    _, restored = started(folder, made)
    np.testing.assert_array_equal(restored.rng, made.create_state().rng)
    assert not np.array_equal(restored.rng, state.rng)


def test_a_stack_of_one_layer(tmp_path):
    made = run(num_decoder_layers=1)
    state = save(tmp_path, made)
    assert_same_bits(started(tmp_path, made)[1].params, state.params)


@pytest.mark.parametrize("optimizer", [AdamW(), pytest.param(Muon(), marks=pytest.mark.slow)], ids=["adamw", "muon"])
def test_the_state_of_every_optimizer(tmp_path, optimizer):
    state = save(tmp_path, run(optimizer=optimizer))
    assert_same_bits(started(tmp_path, run(eight_devices.PMAP, optimizer=optimizer))[1].opt_state, state.opt_state)


def test_how_the_model_is_computed_may_change(saved):
    folder, state = saved
    restored = started(folder, run(scan_layers=False, dropout_rate=0.1, dtype="bfloat16", remat="full"))[1]
    assert_same_bits(restored.params, state.params)


# The step and the optimiser


@pytest.mark.parametrize(("reset", "step"), [(None, 7), (True, 0), (0, 0), (1_000_000, 1_000_000)])
def test_the_step_can_be_set_and_leaves_the_optimizers_counts(saved, reset, step):
    folder, state = saved
    _, restored = started(folder, run(reset_step=reset))
    assert int(restored.step) == step and restored.step.dtype == np.int32
    assert_same_bits(restored.opt_state, state.opt_state)


def test_a_fresh_optimizer(saved):
    folder, state = saved
    made = run(optimizer=AdamW(), reset_optimizer=True)
    plan, restored = started(folder, made)
    assert_same_bits(restored.params, state.params)
    assert_same_bits(restored.opt_state, fresh_state(made))
    assert {name.split("/")[0] for name in plan.new} == {"opt_state"} == {n.split("/")[0] for n in plan.left_over}


def test_the_state_of_another_optimizer_is_refused(saved):
    text = refusal(saved[0], run(optimizer=AdamW()))
    # 9 parameters in each of 2 layers and 4 outside them: count, mu and nu for count, v, v_row and v_col.
    assert text == (
        "The optimiser state in the checkpoint FOLDER/checkpoints/7 is not of this run's optimiser:\n"
        "    44 arrays are not in it, opt_state/decoder/decoder_norm/scale/mu for one\n"
        "    66 arrays are not wanted, opt_state/decoder/decoder_norm/scale/v for one\n"
        "    0 arrays have another shape\n"
        "Go back to the optimiser that saved it (RunConfig.optimizer in its run's config.gin), or begin with a fresh "
        "state: --gin.RESET_OPTIMIZER=True"
    )


def test_state_of_another_shape_is_refused(saved):
    text = refusal(saved[0], run(optimizer=Adafactor(min_dim_size_to_factor=128)))
    assert "arrays have another shape, opt_state/decoder/layers_0/mlp/wi_0/kernel/v, (1,) in the checkpoint, " in text
    assert "(16, 24) in this run for one" in text and "--gin.RESET_OPTIMIZER=True" in text


def test_a_checkpoint_without_optimizer_state(tmp_path, saved):
    arrays = {name: array for name, array in on_disk(saved[1]).items() if name.startswith("params/")}
    imported(tmp_path, arrays)
    made = run()
    plan, restored = started(tmp_path, made)
    assert_same_bits(restored.params, saved[1].params)
    assert_same_bits(restored.opt_state, fresh_state(made))
    assert plan.step == 1000 and not plan.left_over


def test_optimizer_state_of_some_parameters(tmp_path, saved):
    state = saved[1]
    arrays = {name: a for name, a in on_disk(state).items() if name.startswith(("params/", "opt_state/decoder/layers"))}
    imported(tmp_path, arrays)
    made = run()
    fresh = fresh_state(made)
    _, restored = started(tmp_path, made)
    assert_same_bits(restored.opt_state[KERNEL], state.opt_state[KERNEL])
    name = "decoder/token_embedder/embedding"
    assert_same_bits(restored.opt_state[name], fresh[name])


def imported(folder, arrays, step=1000):
    shapes = {name: array.shape for name, array in arrays.items()}
    array_writer.write(str(folder), step, shapes, arrays.__getitem__, RunItem(model=run().config.model))


# Models that are not the same


def test_another_model_is_refused(saved):
    text = refusal(saved[0], run(num_decoder_layers=3, mlp_activations=("relu",), logits_via_embedding=True))
    assert text == (
        "The checkpoint FOLDER/checkpoints/7 does not fit this run's model:\n"
        "    num_decoder_layers: 2 in the checkpoint, 3 in this run\n"
        "    mlp_activations: ('gelu', 'linear') in the checkpoint, ('relu',) in this run\n"
        "    logits_via_embedding: False in the checkpoint, True in this run\n"
        "Choose the checkpoint's sizes: a file in gin/models, the config.gin of the run that made it, or "
        "TransformerConfig's settings one by one\n"
        "Or, if it is meant, take each parameter from the one of its name: ASSIGNMENT_MAP = ((r'(.*)', r'\\1'),)"
    )


def test_another_number_of_rows_names_the_option(saved):
    assert refusal(saved[0], run(vocab_size=48)) == (
        "The checkpoint FOLDER/checkpoints/7 does not fit this run's model:\n"
        "    vocab_size: 40 in the checkpoint, 48 in this run\n"
        "    decoder/logits_dense/kernel: (16, 40) in the checkpoint, (16, 48) in this run\n"
        "    decoder/token_embedder/embedding: (40, 16) in the checkpoint, (48, 16) in this run\n"
        "The vocabulary has to be the checkpoint's (VOCABULARY, EXTRA_IDS). Where it is, and leaves rows of the "
        "checkpoint unused, write --gin.TransformerConfig.vocab_size=40\n"
        "Or let what does not fit begin afresh: ASSIGNMENT_MAP = (('decoder/logits_dense/kernel', None), "
        "('decoder/token_embedder/embedding', None))"
    )


def test_other_sizes_name_the_parameters_and_both_shapes(saved):
    text = refusal(saved[0], run(mlp_dim=32))
    assert "    mlp_dim: 24 in the checkpoint, 32 in this run\n" in text
    assert "    decoder/layers_0/mlp/wi_0/kernel: (16, 24) in the checkpoint, (16, 32) in this run\n" in text
    assert "    and 3 more parameters have other shapes\n" in text
    assert "a file in gin/models" in text and "vocab_size" not in text


def test_another_vocabulary_is_refused_unless_what_belongs_to_it_is_new(tmp_path):
    save(tmp_path, run(), vocabulary="0123 and 100 extra ids")
    assert started(tmp_path, run(vocabulary="0123 and 100 extra ids"))[0].step == 7
    assert "was trained on another vocabulary" in refusal(tmp_path, run(vocabulary="4567 and 100 extra ids"))
    rules = (("decoder/token_embedder/embedding", None), ("decoder/logits_dense/kernel", None))
    half = run(vocabulary="4567 and 100 extra ids", assignment_map=rules[:1])
    assert "was trained on another vocabulary" in refusal(tmp_path, half)
    assert started(tmp_path, run(vocabulary="4567 and 100 extra ids", assignment_map=rules))[0].step == 7


# ASSIGNMENT_MAP


def test_new_rows_and_the_rest_as_it_was(saved):
    rules = (("decoder/(token_embedder/embedding|logits_dense/kernel)", None),)
    made = run(vocab_size=48, assignment_map=rules)
    plan, restored = started(saved[0], made)
    fresh = jax.device_get(made.create_state())
    for name, param in restored.params.items():
        new = name in ("decoder/token_embedder/embedding", "decoder/logits_dense/kernel")
        np.testing.assert_array_equal(param, (fresh if new else saved[1]).params[name], err_msg=name)
        assert_same_bits(restored.opt_state[name], (fresh if new else saved[1]).opt_state[name])
    assert "params/decoder/token_embedder/embedding" in plan.new and "params/decoder/logits_dense/kernel" in plan.new
    assert "params/decoder/logits_dense/kernel" in plan.left_over


@pytest.mark.parametrize(
    "partitioning", [MESH, pytest.param(eight_devices.PMAP, marks=pytest.mark.slow)], ids=["2x2x2", "pmap"]
)
def test_layers_can_be_taken_from_others_or_begin_afresh(saved, partitioning):
    """A third layer from the second, a fourth new, with their optimiser state; the first two change places."""
    rules = (
        ("decoder/layers_3/.*", None),
        ("decoder/layers_2/(.*)", r"decoder/layers_1/\1"),
        ("decoder/layers_0/(.*)", r"decoder/layers_1/\1"),
        ("decoder/layers_1/(.*)", r"decoder/layers_0/\1"),
    )
    made = run(partitioning, num_decoder_layers=4, assignment_map=rules)
    _, restored = started(saved[0], made)
    fresh, there = jax.device_get(made.create_state()), saved[1]
    for part in (lambda s: s.params[KERNEL], lambda s: s.opt_state[KERNEL][0].v_row):
        found, old = part(restored), part(there)
        np.testing.assert_array_equal(found[:3], old[np.asarray([1, 0, 1])])
        np.testing.assert_array_equal(found[3], part(fresh)[3])
    assert found.sharding.is_equivalent_to(part(made.shardings), found.ndim)


def test_the_first_match_counts(saved):
    rules = ((r"decoder/layers_0/mlp/wo/kernel", "decoder/layers_1/mlp/wo/kernel"), (r"(.*)", r"\1"))
    restored = started(saved[0], run(assignment_map=rules))[1]
    np.testing.assert_array_equal(restored.params[KERNEL], saved[1].params[KERNEL][np.asarray([1, 1])])


def test_rules_let_another_architecture_take_the_parameters(saved):
    assert "architecture: causal_lm in the checkpoint, prefix_lm in this run" in refusal(
        saved[0], run(architecture="prefix_lm")
    )
    _, restored = started(saved[0], run(architecture="prefix_lm", assignment_map=(("(.*)", r"\1"),)))
    assert_same_bits(restored.params, saved[1].params)


def test_a_parameter_that_no_rule_explains_is_refused(saved):
    rules = (("decoder/decoder_norm/scale", None),)
    assert refusal(saved[0], run(num_decoder_layers=3, assignment_map=rules)) == (
        "The checkpoint FOLDER/checkpoints/7 lacks 9 of this run's parameters, "
        "decoder/layers_2/mlp/wi_0/kernel for one. Let them begin afresh with a regex that matches them and no name: "
        "ASSIGNMENT_MAP = (('decoder/layers_2/mlp/wi_0/kernel', None),)"
    )


def test_a_shape_that_a_rule_brings_is_checked(saved):
    rules = (("decoder/decoder_norm/scale", "decoder/layers_0/mlp/wo/kernel"),)
    text = refusal(saved[0], run(assignment_map=rules))
    assert "    decoder/decoder_norm/scale: (24, 16) in the checkpoint, (16,) in this run\n" in text
    assert "ASSIGNMENT_MAP = (('decoder/decoder_norm/scale', None),)" in text


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        (
            (("decoder/layers/mlp/wo/kernel", None),),
            "ASSIGNMENT_MAP has 'decoder/layers/mlp/wo/kernel', which matches no parameter of this run that an earlier "
            "regex doesn't. It has to match the whole name. Close to it: decoder/layers_",
        ),
        (
            ((".*", r"\g<0>"), ("decoder/decoder_norm/scale", None)),
            "ASSIGNMENT_MAP has 'decoder/decoder_norm/scale', which matches no parameter of this run that an earlier",
        ),
        (
            (("decoder/decoder_norm/scale", "decoder/encoder_norm/scale"),),
            "ASSIGNMENT_MAP takes decoder/decoder_norm/scale from decoder/encoder_norm/scale, which the checkpoint "
            "doesn't have. Close to it: decoder/decoder_norm/scale",
        ),
        ((("decoder/(", None),), "ASSIGNMENT_MAP has 'decoder/(', which is not a regular expression: "),
        (
            (("decoder/decoder_norm/scale", r"decoder/\1"),),
            "ASSIGNMENT_MAP has 'decoder/\\\\1' for 'decoder/decoder_norm/scale', which cannot be filled in: ",
        ),
    ],
)
def test_rules_that_cannot_be(saved, rules, words):
    assert words in refusal(saved[0], run(assignment_map=rules))


# Frozen parameters


def test_frozen_parameters_are_loaded_without_their_state(saved):
    folder, state = saved
    made = frozen_run("decoder/layers/mlp/.*", "decoder/token_embedder/.*")
    plan, restored = started(folder, made)
    assert_same_bits(restored.params, state.params)
    trained = {name for name in state.params if "/mlp/" not in name and "token_embedder" not in name}
    assert_same_bits(restored.opt_state, {name: state.opt_state[name] for name in trained})
    assert plan.left_over.keys() == {
        name for name in on_disk(state) if name.startswith("opt_state") and ("/mlp/" in name or "embedder" in name)
    }


def test_a_run_with_frozen_parameters_is_saved_and_resumed_and_thawed(tmp_path):
    frozen = frozen_run("decoder/layers/.*")
    state = save(tmp_path, frozen)
    assert not any("layers" in name for name in state.opt_state)
    arguments = (7, frozen.shapes, frozen.shardings, frozen.config.model, frozen.partitioner)
    with contextlib.closing(Checkpoints(str(tmp_path))) as checkpoints:
        assert_same_bits(checkpoints.restore(*arguments).state, state)
    thawed = run()
    plan, restored = started(tmp_path, thawed)
    assert all("/layers_" in name for name in plan.new) and plan.new
    assert_same_bits(restored.opt_state[KERNEL], fresh_state(thawed)[KERNEL])


# Parameters alone


@pytest.mark.parametrize("partitioning", [ONE_AXIS, eight_devices.PMAP], ids=["1x8x1", "pmap"])
def test_parameters_alone(saved, partitioning):
    made = run(partitioning)
    params = restore_plan.load_params(
        OwnSource(str(saved[0])), made.shapes.params, made.shardings.params, made.config.model
    )
    assert_same_bits(params, saved[1].params)
    for name, param in params.items():
        assert param.sharding.is_equivalent_to(made.shardings.params[name], param.ndim)


def test_parameters_alone_of_another_model_or_vocabulary_are_refused(tmp_path):
    save(tmp_path, run(), vocabulary="0123 and 100 extra ids")

    def refused(made, vocabulary=None):
        with pytest.raises(UserError) as error:
            model, shapes, shardings = made.config.model, made.shapes.params, made.shardings.params
            restore_plan.load_params(OwnSource(str(tmp_path)), shapes, shardings, model, vocabulary)
        return str(error.value)

    words = refused(run(mlp_dim=32))
    assert "mlp_dim: 24 in the checkpoint, 32 in this run" in words and "ASSIGNMENT_MAP" not in words
    assert "was trained on another vocabulary" in refused(run(), "4567 and 100 extra ids")


def test_no_more_than_one_stacked_parameter_is_held(saved):
    """What is read between two parameters that are put in place is one stack."""
    made, reads = run(), []

    class Counting(OwnSource):
        def read(self, name):
            reads.append(name)
            return super().read(name)

    source = Counting(str(saved[0]))
    restore_plan.restore(restore_plan.make_plan(source, made), source, made)
    stacks = [name.replace("layers_0", "layers_1") for name in reads]
    changes = sum(a != b for a, b in zip(stacks, stacks[1:], strict=False))
    assert changes == len(set(stacks)) - 1  # all layers of one, then all of the next
    assert len(reads) == len(set(reads)) == len(on_disk(saved[1])) - 2  # each once; step and random key are not read
