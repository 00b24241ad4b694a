"""A start that is not the first: what was compiled once is found again, and only what reads tokens is imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from t5x_mini import cli

ROOT = Path(__file__).parents[1]

# A run, and what it asked of the compilation cache; modules that it imported though it needs none of them.
DRIVER = """
import collections, json, sys
from jax._src import monitoring

asked = collections.Counter()
monitoring.register_event_listener(lambda name, **_: asked.update([name.rpartition("/")[2]]))
from t5x_mini import cli

code = cli.main(sys.argv[1:])
large = sorted({"tensorflow", "seqio", "transformers", "pyarrow", "scipy"} & set(sys.modules))
print(json.dumps({"code": code, "asked": asked, "imported": large}))
"""

GIN = """
include 'gin/models/t5_1_1/tiny.gin'
include 'gin/hardware/cpu.gin'

TransformerConfig.emb_dim = 32
TransformerConfig.head_dim = 8
TransformerConfig.mlp_dim = 64
MIXTURE_OR_TASK_NAME = 'lines'
lines/PretrainingTask.files = {{'train': '{folder}/text.txt', 'validation': '{folder}/text.txt'}}
VOCABULARY = 'bytes'
TASK_FEATURE_LENGTHS = {{'inputs': 64, 'targets': 16}}
DATA_FEED = 'tokens'
TOKENS_DIR = '{folder}/tokens'
BATCH_SIZE = 8
TRAIN_STEPS = 2
CHECKPOINT_PERIOD = 1
EVAL_PERIOD = 1
EVAL_STEPS = 1
"""


@pytest.fixture(scope="module")
def starts(tmp_path_factory):
    """What the driver said of two runs from the same configuration, one after the other."""
    folder = tmp_path_factory.mktemp("starts")
    (folder / "text.txt").write_text("\n".join(f"line {number} of the text, and no other" for number in range(200)))
    (folder / "run.gin").write_text(GIN.format(folder=folder))
    assert cli.main(["tokenize", f"--gin_file={folder / 'run.gin'}", "--task=lines", "--workers=1"]) == 0
    settings = {"XDG_CACHE_HOME": str(folder / "cache"), "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    settings["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true"  # compiling is what the first one spends its time on
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"} | settings
    found = []
    for run in ("first", "second"):
        command = [sys.executable, "-c", DRIVER, "train", f"--gin_file={folder / 'run.gin'}"]
        command.append(f"--gin.MODEL_DIR={folder / run}")
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout.splitlines()[-1]))
        assert found[-1]["code"] == 0, done.stderr
    return found


def test_a_warm_start_compiles_nothing(starts):
    first, second = (start["asked"] for start in starts)
    assert first["cache_misses"] > 3
    assert second["cache_hits"] == second["compile_requests_use_cache"] > 3
    assert "cache_misses" not in second


def test_tokens_are_trained_on_without_what_reads_text(starts):
    assert [start["imported"] for start in starts] == [[], []]
