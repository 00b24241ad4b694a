"""What XLA makes of a train step for four TPU chips: what each holds, and what they send each other.

libtpu's compiler needs no TPU. A model of two layers a stack is compiled for v5e:2x2 in a process of its own. Its sizes
are such that each is seen in the program: 28 rows, 7 on each chip, and no other dimension is a multiple of 7.
"""

import functools
import importlib.util
import json
import os
import re
import subprocess
import sys
import textwrap

import pytest

from t5x_mini.plan.hlo import Program

pytestmark = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")

CHIPS, ROWS, WIDTH, MLP, VOCAB, LAYERS = 4, 28, 128, 256, 1024, 2
INPUTS, TARGETS = 44, 36
CODE = f"""
    import json, sys
    from jax.experimental import topologies
    from t5x_mini import config
    from t5x_mini.train import run, start

    devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices
    bindings = sys.argv[1:] + [
        "MODEL_DIR='unused'", "BATCH_SIZE={ROWS}", "MESH_DATA=1", "MESH_FSDP={CHIPS}", "PRNG_IMPL='rbg'",
        "TASK_FEATURE_LENGTHS={{'inputs': {INPUTS}, 'targets': {TARGETS}}}", "REMAT='full'", "STATISTICS_PERIOD=0",
        "TransformerConfig.emb_dim={WIDTH}", "TransformerConfig.mlp_dim={MLP}", "TransformerConfig.vocab_size={VOCAB}",
        "TransformerConfig.num_heads=4", "TransformerConfig.head_dim=32",
    ]
    loaded = config.load(["gin/runs/pretrain.gin", "gin/models/t5_1_1/tiny.gin"], bindings)
    compiled = start.compile_step(run.assemble(loaded, list(devices)))
    memory = compiled.memory_analysis()
    print(json.dumps([memory.argument_size_in_bytes, memory.temp_size_in_bytes, compiled.as_text()]))
"""
ARCHITECTURES = ["causal_lm", pytest.param("encoder_decoder", marks=pytest.mark.slow)]
# Parameters of a layer, for each stack.
_SELF, _MLP = 4 * WIDTH * WIDTH, 3 * WIDTH * MLP
LAYER_KERNELS = {"causal_lm": (_SELF + _MLP,), "encoder_decoder": (_SELF + _MLP, 2 * _SELF + _MLP)}
# Bytes that libtpu 0.0.52 gives a chip, which hold 1/4 of the state.
ARGUMENTS = {"causal_lm": 636_416, "encoder_decoder": 1_141_248}
TEMPORARIES = {"causal_lm": 3_637_248, "encoder_decoder": 7_864_320}


@functools.cache
def compiled(architecture):
    """Bytes of a chip's arguments and temporaries, and the program's text."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(sys.path),
        # Several compilers may run at once, and none looks for a TPU on this machine.
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    }
    command = [sys.executable, "-c", textwrap.dedent(CODE), f"ARCHITECTURE='{architecture}'"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def shapes_in_layers(text):
    """Dimensions of every array that is computed in the layers, forwards and backwards."""
    lines = [line for line in text.splitlines() if "/while/body/" in line]
    return {
        tuple(int(size) for size in dims.split(","))
        for line in lines
        for dims in re.findall(r"(?:bf16|f32|pred)\[([\d,]+)\]", line.split("metadata=")[0])
    }


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_activations_are_split_along_the_batch_in_every_layer(architecture):
    shapes = shapes_in_layers(compiled(architecture)[2])
    activations = {shape for shape in shapes if any(size % (ROWS // CHIPS) == 0 for size in shape)}
    assert any(ROWS // CHIPS in shape and WIDTH in shape for shape in activations)
    assert any(ROWS // CHIPS in shape and MLP in shape for shape in activations)
    assert [shape for shape in activations if any(size % ROWS == 0 for size in shape)] == []


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_chips_send_parameters_their_gradients_and_what_was_looked_up(architecture):
    """And no more: kernels in bfloat16 for the pass forwards, for remat and for the pass backwards; gradients once."""
    layers, head = LAYERS * sum(LAYER_KERNELS[architecture]), WIDTH * VOCAB
    looked_up = ROWS * (INPUTS + TARGETS) * WIDTH * 2 // CHIPS
    bias = 4 * 4 * (INPUTS + TARGETS) ** 2
    expected = {
        "all-gather": 2 * (3 * layers + head),
        "reduce-scatter": 2 * layers + 4 * head,
        "all-to-all": 2 * looked_up,
        "all-reduce": bias,
    }
    sent = dict.fromkeys(expected, 0)
    for one in Program(compiled(architecture)[2]).collectives:
        sent[one.kind] += one.bytes * one.count
    for kind, size in expected.items():
        assert 0.5 * size < sent[kind] < 1.05 * size + 50_000, (kind, sent[kind] / size)  # norms, means, sums: 50 kB


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_chips_memory_does_not_grow(architecture):
    arguments, temporaries, _ = compiled(architecture)
    assert 0.9 * ARGUMENTS[architecture] < arguments < 1.1 * ARGUMENTS[architecture]
    assert 0.5 * TEMPORARIES[architecture] < temporaries < 1.1 * TEMPORARIES[architecture]  # 0: not told at all
