"""Plans of small models in the compiler for TPUs, which needs no TPU."""

import importlib.util
import json
import subprocess
import sys
import types

import jax
import pytest

from t5x_mini import config
from t5x_mini.cli import main
from t5x_mini.errors import UserError
from t5x_mini.plan import compile as compiler
from t5x_mini.plan import report, topologies

needs_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")

FILES = ["gin/runs/pretrain.gin"]
SMALL = [
    *("BATCH_SIZE=8", "STATISTICS_PERIOD=0", "TASK_FEATURE_LENGTHS={'inputs': 64, 'targets': 64}"),
    *("TransformerConfig.emb_dim=64", "TransformerConfig.num_heads=2", "TransformerConfig.head_dim=32"),
    *("TransformerConfig.mlp_dim=128", "TransformerConfig.num_encoder_layers=2"),
    *("TransformerConfig.num_decoder_layers=2", "ARCHITECTURE=prefix_lm", "TransformerConfig.vocab_size=1024"),
]


@needs_libtpu
def test_a_small_model_on_four_chips(tmp_path, capfd):
    written = tmp_path / "plan.json"
    options = [f"--gin_file={FILES[0]}", *(f"--gin.{binding}" for binding in SMALL), "--gin.MESH_FSDP=4"]
    assert main(["plan", *options, "--topology=v5e:2x2", f"--output={written}"]) == 0
    out, err = capfd.readouterr()
    assert "train step on v5e:2x2: prefix_lm" in out
    assert "fits: " in out
    # None of libtpu's warnings.
    assert err == "compiling the train step for v5e:2x2; large models take minutes each time ...\n"
    made = json.loads(written.read_text())
    assert made["mesh"] == {"data": 1, "fsdp": 4, "model": 1}
    assert made["memory"]["fits"] is True
    assert made["memory"]["temporaries"] > 0
    assert made["replicated"] == []
    # All parameters of weight are split four ways.
    assert made["memory"]["parameters"] == pytest.approx(made["parameter_count"] * 4 / 4, rel=0.02)
    # Without remat nothing is done twice.
    assert made["flops"] * 4 == pytest.approx(made["model_flops"], rel=0.1)
    assert {"all-gather", "reduce-scatter"} <= {one["kind"] for one in made["collectives"]}
    assert 0 < made["mfu"][0] <= made["mfu"][1] < 1


@needs_libtpu
def test_two_slices():
    plan = compiler.plan(FILES, [*SMALL, "MESH_DATA=2", "MESH_FSDP=4"], "v5e:2x2", slices=2)
    assert plan.memory.fits
    assert plan.mesh == {"data": 2, "fsdp": 4, "model": 1}
    assert plan.flops * 8 == pytest.approx(plan.model_flops, rel=0.1)
    # Each device's part of the gradients is summed over the slices, in bfloat16 at least.
    between = [one for one in plan.collectives if one.slices == 2]
    gradients = sum(one.bytes * one.count for one in between if one.kind == "all-reduce")
    assert gradients >= plan.memory.parameters / 2
    assert plan.times.dcn == pytest.approx(sum(one.sent for one in between) / topologies.TPUS["v5e"].dcn)
    assert plan.times.ici > 0


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize("step", ["eval", "decode"])
def test_other_steps(step):
    plan = compiler.plan(FILES, [*SMALL, "MESH_FSDP=4"], "v5e:2x2", step=step)
    assert plan.memory.optimizer == 0
    assert plan.memory.fits
    assert plan.flops > 0


@needs_libtpu
@pytest.mark.slow
def test_a_program_that_does_not_fit_says_by_how_much():
    rows = ["BATCH_SIZE=262144", "MESH_FSDP=4"]
    plan = compiler.plan(FILES, [*SMALL, *rows], "v5e:2x2")
    assert plan.memory.fits is False
    assert plan.memory.total > plan.memory.available
    assert plan.flops is None


def test_a_state_that_is_too_large_is_not_compiled():
    plan = compiler.plan([*FILES, "gin/models/t5_1_1/xxl.gin"], ["MESH_DATA=-1", "MESH_FSDP=1"], "gpu:8xh100")
    assert plan.memory.temporaries is None
    assert plan.memory.parameters == plan.parameter_count * 4
    assert "32,000 pieces as published and 100 EXTRA_IDS make 32,128 rows" in plan.notes[0]
    assert plan.times.fastest == pytest.approx(plan.model_flops / (8 * 989e12))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(topology="gpu:8xh100", slices=2), "gpu:8xh100 has no slices: leave out --slices"),
        (dict(topology="v3:4x4", slices=2), "v3 cannot be joined to 2 slices: Multislice begins with v4"),
        (dict(topology="v5e:4x4", step="evaluate"), "no step evaluate; write --step=train, eval or decode"),
        (dict(topology="v9:4x4"), "There is no topology v9:4x4"),
    ],
)
def test_what_cannot_be_planned(options, words):
    with pytest.raises(UserError) as error:
        compiler.plan(FILES, [], **options)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--topology=v5e:4x4"], "Write --gin_file=gin/runs/pretrain.gin."),
        (["--topology=gpu:8xh100", "--search", "--gin_file=gin/runs/pretrain.gin"], "--search compiles, and for gpu"),
        (["--gin_file=gin/runs/pretrain.gin"], "--topology"),
        (["--topology=cpu", "--gin_file=gin/runs/pretrain.gin", "--gin.BATCH_SIZ=2"], "BATCH_SIZE"),
    ],
)
def test_mistakes_on_the_command_line(arguments, words, capsys):
    assert main(["plan", *arguments]) == 1
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("message", "needed"),
    [
        ("Ran out of memory in memory space hbm. Used 18.25G of 15.75G hbm. Exceeded", 18.25 * 2**30),
        ("CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO temporaries (512.00M) "
         "exceeds available HBM (15.48G).", 512 * 2**20),
        ("INVALID_ARGUMENT: something else", None),
    ],
)  # fmt: skip
def test_what_the_compiler_says_of_too_large_a_program(message, needed):
    assert compiler._needed(message) == needed


def test_other_commands_do_not_load_libtpu():
    code = "import sys, jax; jax.devices(); sys.exit('libtpu' in open('/proc/self/maps').read())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_of_a_program_that_cannot_be_read_the_memory_is_known(monkeypatch):
    class Unreadable:
        def memory_analysis(self):
            sizes = {"temp": 3 * 2**30, "output": 5, "alias": 5, "generated_code": 7}
            return types.SimpleNamespace(**{f"{name}_size_in_bytes": size for name, size in sizes.items()})

        def as_text(self):
            raise jax.errors.JaxRuntimeError("INTERNAL: RET_CHECK failure\nmore of it")

    monkeypatch.setattr(compiler, "_devices", lambda topology, slices: jax.devices()[: topology.devices])
    monkeypatch.setattr(compiler, "_compile", lambda run, step: Unreadable())
    made = compiler.compile_plan(config.load(FILES, [*SMALL, "MODEL_DIR=none"], ()), topologies.parse("v5e:2x2"))
    assert made.memory.temporaries == 3 * 2**30
    assert made.memory.fits
    assert made.flops is None
    assert "can't read what this libtpu wrote (INTERNAL: RET_CHECK failure)" in made.notes[-1]
    assert "fits: " in report.report(made)
