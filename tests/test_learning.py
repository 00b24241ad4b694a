"""benchmarks/learning.py: transformers' T5 under nanoT5's recipe takes the very steps that ours takes."""

import dataclasses
import importlib
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from t5x_mini.train.run import assemble

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
STEPS, WARMUP = 12, 3
WORDS = "--size tiny --batch 4 --inputs 12 --targets 6 --seeds 5".split()


@pytest.fixture(scope="module")
def modules():
    """`learning` and `hf_learning`, as the script finds them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("learning"), importlib.import_module("hf_learning")


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def run(modules):
    words = [*WORDS, "--text=a.txt", "--valid=b.txt", f"--steps={STEPS}", f"--warmup={WARMUP}"]
    config = modules[0].load_config(modules[0].parse_arguments(words), "unused", seed=5)
    # A tiny model's gradients are short: shorter yet, so that they are clipped.
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, clip_global_norm=0.5))
    return assemble(config, jax.devices()[:1])


def random_batch(run, k):
    """Rows of random tokens and of different lengths, padding behind."""
    rng = np.random.default_rng(k)
    shapes = run.batch_shapes(run.config.feed.batch_size)

    def padded(name):
        rows, length = shapes[name].shape
        tokens = rng.integers(2, 200, (rows, length), dtype=np.int32)
        return np.where(np.arange(length) < rng.integers(2, length + 1, (rows, 1)), tokens, 0)

    inputs, targets = padded("encoder_input_tokens"), padded("decoder_target_tokens")
    return {
        "encoder_input_tokens": inputs,
        "decoder_target_tokens": targets,
        "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
        "decoder_loss_weights": (targets > 0).astype(np.int32),
    }


@pytest.mark.slow
def test_from_the_same_parameters_both_sides_have_the_same_losses(modules, run):
    learning, hf_learning = modules
    ours = learning.Ours(run)
    peer = hf_learning.Peer(run.config, random_batch(run, 0), jax.device_get(ours.state.params))
    held_out = [random_batch(run, 100 + k) for k in range(2)]
    before = ours.cross_entropy(held_out)
    courses = learning.take_turns({"ours": ours, "peer": peer}, lambda k: random_batch(run, k), STEPS)

    losses = courses["ours"].losses
    assert len(losses) == STEPS
    np.testing.assert_allclose(courses["peer"].losses, losses, rtol=1e-5)
    np.testing.assert_allclose(peer.cross_entropy(held_out), ours.cross_entropy(held_out), rtol=1e-5)
    assert ours.cross_entropy(held_out) < before - 0.1  # both have learned which tokens there are


def test_the_peer_may_start_from_what_transformers_draws(modules, run):
    model = modules[1].make_model(run.config.model, seed=1, params=None)
    assert model.lm_head.weight is not model.shared.weight
    assert float(model.lm_head.weight.detach().std()) == pytest.approx(1, abs=0.02)
    again = modules[1].make_model(run.config.model, seed=1, params=None)
    assert (again.lm_head.weight == model.lm_head.weight).all()


def test_the_peer_schedule_is_ours(modules, run):
    schedule = run.config.schedule
    rates = [modules[1].cosine(schedule, step) for step in range(STEPS)]
    np.testing.assert_allclose(rates, [float(schedule(step)) for step in range(STEPS)], rtol=1e-5)
    assert rates[0] == 0 and max(rates) == rates[WARMUP] == 0.02


def test_figures_are_over_seeds_and_turns(modules):
    learning = modules[0]
    courses = [
        {
            "t5x_mini": learning.Course([4.0, 2.0], [1.0, 2.0], 2.0),
            "peer": learning.Course([4.0, 2.2], [3.0, 4.0], 2.1),
        },
        {
            "t5x_mini": learning.Course([5.0, 2.0], [1.0, 3.0], 3.0),
            "peer": learning.Course([5.0, 2.0], [1.0, 9.0], 3.1),
        },
    ]
    told = learning.figures(courses, {"t5x_mini": 1.0, "peer": 2.0}, steps=2)
    assert told["t5x_mini"] == {
        "held_out": [2.0, 3.0],
        "mean": 2.5,
        "spread": 0.7071,
        "step_s": 1.75,
        "train_s": [3.0, 4.0],
        "compile_s": 1.0,
    }
    assert told["peer"]["ratio"] == 2.5  # the median of 3, 2, 1 and 3
    assert told["peer"]["apart"] == {"first_10": 0.1, "all": 0.1}


@pytest.mark.slow
def test_prints_one_line(modules, tmp_path, capsys):
    lines = [
        f"The {word} house stands behind the hill, and nobody knows who lives there." for word in "old new".split()
    ]
    for name in ("train", "valid"):
        (tmp_path / f"{name}.txt").write_text("\n".join(lines * 20))
    files = [f"--text={tmp_path / 'train.txt'}", f"--valid={tmp_path / 'valid.txt'}"]
    words = [*"--size tiny --batch 8 --inputs 24 --targets 8 --seeds 0 1 --steps 12 --held_out 1".split(), *files]
    modules[0].main([*words, "--peer", "same", "own"])
    row = json.loads(capsys.readouterr().out)
    assert row["tokens"] == 12 * 8 * 32
    assert len(row["t5x_mini"]["held_out"]) == 2
    assert row["transformers_same_start"]["held_out"] == pytest.approx(row["t5x_mini"]["held_out"], abs=2e-4)
    assert row["transformers_same_start"]["apart"]["all"] < 1e-4 < row["transformers_own_start"]["apart"]["first_10"]
