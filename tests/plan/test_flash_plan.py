"""What the compiler makes of the kernels of ATTENTION = 'flash' in a whole train step for four TPU chips."""

import importlib.util

import pytest

from t5x_mini.plan.compile import plan

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"),
]

LENGTH = 1024
SIZES = (
    *("TransformerConfig.emb_dim=128", "TransformerConfig.mlp_dim=256", "TransformerConfig.vocab_size=1024"),
    *("TransformerConfig.num_heads=4", "TransformerConfig.head_dim=64", "DROPOUT_RATE=0.1", "PRNG_IMPL=rbg"),
    *("BATCH_SIZE=8", f"TASK_FEATURE_LENGTHS={{'inputs': {LENGTH}, 'targets': 128}}", "STATISTICS_PERIOD=0"),
)


def planned(attention, *bindings):
    files = ["gin/runs/pretrain.gin", "gin/models/t5_1_1/tiny.gin"]
    return plan(files, [*SIZES, f"ATTENTION={attention}", *bindings], "v5e:2x2")


def pairs(made):
    """Among the largest arrays, those with a number for each pair of inputs."""
    return [name for name, _ in made.memory.largest if f"{LENGTH},{LENGTH}]" in name]


@pytest.mark.parametrize("mesh", [("MESH_DATA=1", "MESH_FSDP=2", "MESH_MODEL=2"), ("PARTITIONING=pmap",)], ids=str)
def test_no_number_is_kept_for_each_pair(mesh):
    plain, flash = planned("plain", *mesh), planned("flash", *mesh)
    assert pairs(plain) and not pairs(flash)
    assert flash.memory.temporaries < plain.memory.temporaries / 2
    assert any("ATTENTION = 'flash'" in note for note in flash.notes)
